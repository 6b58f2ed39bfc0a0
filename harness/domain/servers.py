"""All driver domains that serve a domain."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from concurrent.futures import Future
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path

from harness.bus.devices import Device
from harness.bus.toolstack import Storage
from harness.domain.definition import Disk
from harness.domain.identity import Identity
from harness.domain.networks import AttachedNetwork
from harness.domain.records import Record
from harness.domain.restoring import Saved, SavedLink
from harness.domain.served import Server
from harness.host.closing import Closing
from harness.host.errors import GuestError, HarnessError, UsageError
from harness.machine.command_line import MachineLink
from harness.machine.qemu import QemuProcess

PART_SECONDS = 20.0
"""How long is waited for a guest to let go of a link."""


@dataclass(frozen=True)
class _Returning:
    """What a domain that is to be restored has of a driver domain.

    :param slot: where on its PCI bus the domain has the link.
    """

    server: Server
    slot: int
    disks: list[tuple[Disk, Storage]]


class Served(Closing):
    """All driver domains that serve a domain.

    :param record: of the domain; says which of them it waits for.
    :param log: gets a line for each of their comings and goings.
    :param vcpus: of the domain.
    """

    def __init__(self, record: Record, log: Path, vcpus: int) -> None:
        self._record = record
        self._log = log
        self._vcpus = vcpus
        self._turn = threading.Lock()
        self._publishing = threading.Lock()
        self._servers: dict[str, Server] = {}
        self._returning: list[_Returning] = []
        self._closed = False

    def start(self, qemu: QemuProcess) -> None:
        """The domain's QEMU is there."""
        self._qemu = qemu

    def by(self, name: str) -> Server:
        """The driver domain of this name, for one more device; :meth:`part_idle` has to follow if nothing comes of it.

        :raise HarnessError: it is not there; a link cannot be had, or our guest keeps the one before.
        """
        with self._turn:
            known = self._servers.get(name)
            if known is not None and known.parted is not None:
                self._await_parting(known, known.parted)
                known = None
            if known is None:
                known = self._make(name)
                try:
                    known.plug(self._qemu)
                except BaseException:
                    known.close()
                    raise
                self._servers[name] = known
            return known

    def known(self, name: str) -> Server:
        """The driver domain of this name, which has a device for us.

        :raise UsageError: it has none.
        """
        server = self._servers.get(name)
        if server is None or server.parted is not None:
            raise UsageError(f"domain {self._record.name} has no device of driver domain {name} any more")
        return server

    def _make(self, name: str) -> Server:
        return Server(name, self._record, self._log, self._vcpus, self._publish)

    def part_idle(self, server: Server) -> None:
        """Part with a driver domain if it has no device for us any more; it comes again when it is wanted again."""
        with self._turn:
            if server.busy or server.parted is not None or self._servers.get(server.name) is not server:
                return
            # The device has gone in any case; who wants another one of there hears why that cannot be.
            with suppress(HarnessError):
                self._await_parting(server, server.part())

    def _await_parting(self, server: Server, parted: Future[None]) -> None:
        try:
            parted.result(PART_SECONDS)
        except TimeoutError:
            raise self._still_parting(server) from None
        del self._servers[server.name]

    def _still_parting(self, server: Server) -> GuestError:
        return GuestError(
            f"domain {self._record.name} has not let go yet of its link to driver domain {server.name}, "
            "of whose memory it uses something",
            hint="read, in the guest, what came in over the card that has been detached, or end who should have",
        )

    @property
    def devices(self) -> list[Device]:
        """All that they serve, or would."""
        return [device for server in self._servers.values() for device in server.devices]

    # -- when the domain is saved and restored -------------------------------------------------------------------------

    def require_there(self) -> None:
        """Check that the domain can be saved, as far as they are concerned.

        :raise UsageError: one of them is not there.
        :raise GuestError: the guest has not let go of the link to one of before.
        """
        for name, server in list(self._servers.items()):
            if server.parted is not None:
                if not server.parted.done() or server.parted.exception() is not None:
                    raise self._still_parting(server)
                del self._servers[name]
            elif server.waiting is not None:
                raise UsageError(
                    f"domain {self._record.name} cannot be saved, since it waits: {server.waiting}",
                    hint="wait, too, or take its devices away: harness block-detach, harness network-detach, --force",
                )

    def suspend(self) -> tuple[list[SavedLink], list[tuple[Disk, Identity]]]:
        """Have all of them let go of what is the domain's, see :meth:`Server.suspend`.

        :return: its links with them, and by what its disks are known again.
        :raise HarnessError: one cannot; :meth:`resume` makes that good.
        """
        disks = [found for server in self._servers.values() for found in server.suspend()]
        return [SavedLink(name, server.slot()) for name, server in self._servers.items()], disks

    def release(self) -> None:
        """Have them give the disks to others that the domain had when it was suspended."""
        for server in self._servers.values():
            server.release()

    def resume(self) -> None:
        """Have them serve the domain again."""
        for server in self._servers.values():
            server.resume()

    def reserve(self, saved: Saved, handed_over: ExitStack) -> tuple[MachineLink, ...]:
        """Have whatever a saved domain had of them ready for it, before there is anything of it.

        :param handed_over: closes what a QEMU has inherited.
        :return: the links that its QEMU is to have.
        :raise HarnessError: one of them is not there; a disk is not, or is in use, or somebody has written to it.
        """
        links = []
        for link in saved.links:
            server = self._servers[link.backend] = self._make(link.backend)
            disks = [disk for disk in saved.definition.disks if disk.backend == link.backend]
            self._returning.append(_Returning(server, link.slot, [_reserve(server, disk, saved) for disk in disks]))
            links.append(server.machine_link(link.slot, handed_over))
        return tuple(links)

    def restore(self, cards: Sequence[AttachedNetwork]) -> None:
        """Have them serve a domain again whose memory is there, see :meth:`Server.restore`.

        :param cards: of the domain, also those that others serve.
        :raise HarnessError: one of them cannot.
        """
        for one in self._returning:
            own = [card for card in cards if card.network.backend == one.server.name]
            one.server.restore(self._qemu, one.slot, one.disks, own)

    def ring(self) -> None:
        """Have the restored guest, which runs by now, look at all of its ports."""
        for one in self._returning:
            one.server.ring()

    # ------------------------------------------------------------------------------------------------------------------

    def _publish(self) -> None:
        servers = list(self._servers.items())
        waits_for = [name for name, server in servers if server.waiting is not None and server.busy]
        with self._publishing:
            if not self._closed and waits_for != self._record.waits_for:
                self._record.waits_for = waits_for
                self._record.write()

    def close(self) -> None:
        """Leave all of them."""
        with self._publishing:
            self._closed = True
        with self._turn:
            for server in self._servers.values():
                server.close()


def _reserve(server: Server, disk: Disk, saved: Saved) -> tuple[Disk, Storage]:
    storage, identity = server.reserve(disk)
    saved.require_served(disk.target, disk.path or Path(), server.name, identity)
    return disk, storage
