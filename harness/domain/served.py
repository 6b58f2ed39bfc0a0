"""The devices of a domain that driver domains serve, and the links to those."""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Self, TypeVar

from qemu.qmp import QMPError

from harness.bus import toolstack
from harness.bus.devices import Device, disk_number
from harness.domain.definition import Disk
from harness.domain.driver import DriverDomain
from harness.domain.networks import BRIDGE, AttachedNetwork
from harness.domain.records import Record
from harness.host.deadline import Deadline
from harness.host.errors import HarnessError, HostError
from harness.hypervisor.layout import GRANTEE, GRANTER
from harness.hypervisor.link import Link
from harness.machine import loop
from harness.machine.qemu import QemuProcess
from harness.store.client import StoreClient

T = TypeVar("T")

PLUG_SECONDS = 30.0


class Server:
    """One driver domain, the link that a domain has with it, and what it serves the domain.

    The link stays as long as the domain: it outlives the driver domain, which gets it again when it comes back.

    :param changed: called when the driver domain comes or goes.
    :raise HarnessError: the driver domain is not there, or the link cannot be plugged in.

    :ivar waiting: why nothing is served at the moment; None while the driver domain is there.
    :ivar over: it will not come back.
    """

    def __init__(self, name: str, record: Record, qemu: QemuProcess, log: Path, changed: Callable[[], None]) -> None:
        self.waiting: str | None = None
        self.over = False
        self._record = record
        self._log = log
        self._changed = changed
        self._closed = False
        self._turn = threading.RLock()
        self._disks: dict[Device, Disk] = {}
        self._cards: dict[Device, AttachedNetwork] = {}
        self._stack = ExitStack()
        try:
            self._driver = DriverDomain.find(name, record.name)
            self._stack.callback(self._driver.close)
            self._link = self._stack.enter_context(Link.between(record.domid, self._driver.domid))
            self._plug_granter(qemu)
            self._plug_grantee()
        except BaseException:
            self._stack.close()
            raise
        self._driver.follow(self._gone, self._back, self._ended)

    @property
    def name(self) -> str:
        return self._driver.name

    @property
    def busy(self) -> bool:
        """Whether there is a device that it serves, or would."""
        return bool(self._disks or self._cards)

    def _plug_granter(self, qemu: QemuProcess) -> None:
        deadline = Deadline(PLUG_SECONDS, f"QEMU of domain {self._record.name} to take a link")
        with self._link.qemu_socket(GRANTER) as end:
            vectors = self._link.layout.vectors[GRANTER]
            try:
                loop.run(qemu.attach_link(f"driver{self._driver.domid}", end, vectors, deadline))
            except QMPError as error:
                raise HostError(
                    f"QEMU of domain {self._record.name} does not take the link to driver domain {self.name}: {error}"
                ) from error

    def _plug_grantee(self) -> None:
        with self._link.qemu_socket(GRANTEE) as end:
            self._driver.plug(end, self._link.layout.vectors[GRANTEE])

    # -- devices -------------------------------------------------------------------------------------------------------

    def add_disk(self, disk: Disk) -> Device:
        """Have a disk prepared in the driver domain, and write its nodes.

        :raise HarnessError: the driver domain has no such block device or file, or it is in use; nothing is left then.
        """
        with self._turn:
            self._require_there()
            device = self._prepare_disk(disk, again=False)
            self._disks[device] = disk
            return device

    def _prepare_disk(self, disk: Disk, *, again: bool) -> Device:
        devid = disk_number(disk.target)
        storage = self._driver.prepare_disk(devid, str(disk.path), readonly=disk.readonly)
        try:
            with StoreClient.connect() as store:
                return toolstack.add_vbd(
                    store,
                    self._record.domid,
                    disk.target,
                    disk.path or Path(),
                    readonly=disk.readonly,
                    cdrom=disk.cdrom,
                    sector_size=disk.sector_size,
                    features=disk.features,
                    notifications=disk.notifications,
                    storage=storage,
                    again=again,
                )
        except BaseException:
            self._driver.release_disk(devid)
            raise

    def add_card(self, card: AttachedNetwork) -> Device:
        """Write the nodes of a network card, and have the driver domain make its end of it a port of its bridge.

        :raise HarnessError: there is no bridge, or no backend. The nodes are left, for the caller to remove.
        """
        with self._turn:
            self._require_there()
            device = self._plug_card(card, again=False)
            self._cards[device] = card
            return device

    def _plug_card(self, card: AttachedNetwork, *, again: bool) -> Device:
        with StoreClient.connect() as store:
            device = toolstack.add_vif(
                store,
                self._record.domid,
                card.number,
                card.lease.mac,
                BRIDGE,
                mtu=card.network.mtu,
                features=card.network.features,
                notifications=card.network.notifications,
                backend_domid=self._driver.domid,
                again=again,
            )
            self._driver.join_bridge(f"vif{device.domid}.{device.devid}")
            toolstack.vif_is_plugged(store, device)
        return device

    def device(self, kind: str, devid: int) -> Device:
        return Device(kind, self._record.domid, devid, self._driver.domid)

    def forget(self, device: Device) -> None:
        """A device has gone at both ends.

        :raise HarnessError: the driver domain cannot give back what it had prepared.
        """
        with self._turn:
            self._cards.pop(device, None)
            if self._disks.pop(device, None) is not None and self.waiting is None:
                self._driver.release_disk(device.devid)
        self._changed()

    def _require_there(self) -> None:
        if self.waiting is not None:
            raise HostError(f"driver domain {self.name} serves nobody: {self.waiting}", hint="see: harness list")

    # -- how the driver domain fares -----------------------------------------------------------------------------------

    def _gone(self) -> None:
        self._wait(f"driver domain {self.name} has died, and starts anew")

    def _ended(self) -> None:
        self.over = True
        if not self._closed:
            self._wait(f"driver domain {self.name} has ended")

    def _wait(self, reason: str) -> None:
        # Not in turn: whoever has that is asking the dead one, and about to hear of it.
        self.waiting = reason
        self._note(reason)
        self._changed()

    def _back(self) -> None:
        """Have the driver domain serve again what it served before it died."""
        with self._turn:
            if self._closed:
                return
            try:
                self._link.renew()
                self._plug_grantee()
                for disk in self._disks.values():
                    self._prepare_disk(disk, again=True)
                for card in self._cards.values():
                    self._plug_card(card, again=True)
            except HarnessError as error:
                # It may have died again meanwhile, which is the next that we hear.
                self._wait(f"driver domain {self.name} is back, but serves us no more: {error}")
                return
            self.waiting = None
        self._note(f"driver domain {self.name} serves again")
        self._changed()

    def _note(self, line: str) -> None:
        with self._log.open("a") as log:
            log.write(f"{line}\n")

    def close(self) -> None:
        """Be served no more."""
        self._closed = True
        with self._turn:
            self._stack.close()


class Served:
    """All driver domains that serve a domain.

    :param record: of the domain; says which of them it waits for.
    :param qemu: of the domain.
    :param log: gets a line for each of their comings and goings.
    """

    def __init__(self, record: Record, qemu: QemuProcess, log: Path) -> None:
        self._record = record
        self._qemu = qemu
        self._log = log
        self._turn = threading.Lock()
        self._servers: dict[str, Server] = {}
        self._publishing = threading.Lock()
        self._closed = False

    def by(self, name: str) -> Server:
        """The driver domain of this name; the first time, the link to it is made.

        :raise HarnessError: it is not there, or it has ended; a link cannot be had.
        """
        with self._turn:
            known = self._servers.get(name)
            if known is None or (known.over and not known.busy):
                if known is not None:
                    known.close()
                self._servers[name] = Server(name, self._record, self._qemu, self._log, self._publish)
            return self._servers[name]

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

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
