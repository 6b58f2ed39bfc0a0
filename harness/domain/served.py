"""What one driver domain serves a domain, and the link between the two; see :mod:`harness.domain.servers`."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from contextlib import ExitStack
from pathlib import Path

from qemu.qmp import QMPError

from harness.bus import toolstack
from harness.bus.devices import Device, disk_number
from harness.bus.toolstack import Storage
from harness.domain.definition import Disk
from harness.domain.driver import DriverDomain
from harness.domain.identity import Identity
from harness.domain.networks import BRIDGE, AttachedNetwork
from harness.domain.records import Record
from harness.host.deadline import Deadline
from harness.host.errors import HarnessError, HostError
from harness.hypervisor.layout import GRANTEE, GRANTER
from harness.hypervisor.link import Link, vectors_for
from harness.machine import loop
from harness.machine.command_line import MachineLink
from harness.machine.qemu import QemuProcess
from harness.store.client import StoreClient

PLUG_SECONDS = 30.0
FOR_EVER = 7 * 86400.0


class Server:
    """One driver domain, the link that a domain has with it, and what it serves the domain.

    The link stays as long as there is a device: it outlives the driver domain, which gets it again when it comes back.
    Somebody has to :meth:`plug` it in, or to :meth:`restore` it.

    :param vcpus: of the domain.
    :param changed: called when the driver domain comes or goes.
    :raise HarnessError: the driver domain is not there, or the link cannot be had.

    :ivar waiting: why nothing is served at the moment; None while the driver domain is there.
    :ivar over: it will not come back.
    :ivar parted: after :meth:`part`, gets to know when our guest has let go of the link.
    """

    def __init__(self, name: str, record: Record, log: Path, vcpus: int, changed: Callable[[], None]) -> None:
        self.waiting: str | None = None
        self.over = False
        self.parted: Future[None] | None = None
        self._record = record
        self._log = log
        self._changed = changed
        self._closed = False
        self._suspended = False
        self._turn = threading.RLock()
        self._disks: dict[Device, Disk] = {}
        self._cards: dict[Device, AttachedNetwork] = {}
        self._stack = ExitStack()
        try:
            self._driver = DriverDomain.find(name, record.name)
            self._stack.callback(self._driver.close)
            link = Link.between(record.domid, self._driver.domid, guest_vectors=vectors_for(vcpus))
            self._link = self._stack.enter_context(link)
        except BaseException:
            self._stack.close()
            raise

    @property
    def name(self) -> str:
        return self._driver.name

    @property
    def busy(self) -> bool:
        """Whether there is a device that it serves, or would."""
        return bool(self._disks or self._cards)

    @property
    def devices(self) -> list[Device]:
        """Those that it serves, or would."""
        return [*self._disks, *self._cards]

    @property
    def _device(self) -> str:
        """What QEMU calls our end of the link."""
        return f"driver{self._driver.domid}"

    def plug(self, qemu: QemuProcess) -> None:
        """Plug the link into the QEMU of our domain, and have it plugged into the driver domain's.

        :raise HarnessError: one of them does not take it.
        """
        self._qemu = qemu
        self._plug_granter()
        self._plug_grantee()
        self._follow()

    def _follow(self) -> None:
        self._driver.follow(self._gone, self._back, self._ended)

    def _plug_granter(self) -> None:
        deadline = Deadline(PLUG_SECONDS, f"QEMU of domain {self._record.name} to take a link")
        with self._link.qemu_socket(GRANTER) as end:
            vectors = self._link.layout.vectors[GRANTER]
            try:
                slot = loop.run(self._qemu.attach_link(self._device, end, vectors, deadline, granter=True))
            except QMPError as error:
                raise HostError(
                    f"QEMU of domain {self._record.name} does not take the link to driver domain {self.name}: {error}"
                ) from error
        self._introduce(slot)

    def _introduce(self, slot: int) -> None:
        with StoreClient.connect() as store:
            toolstack.add_link(store, self._record.domid, slot, GRANTER, self._driver.domid)

    def _plug_grantee(self) -> None:
        with self._link.qemu_socket(GRANTEE) as end:
            self._driver.plug(end, self._link.layout.vectors[GRANTEE], self._record.domid)

    # -- devices -------------------------------------------------------------------------------------------------------

    def add_disk(self, disk: Disk) -> Device:
        """Have a disk prepared in the driver domain, and write its nodes.

        :raise HarnessError: the driver domain has no such block device or file, or it is in use; nothing is left then.
        """
        with self._turn:
            self._require_there()
            device = self._plug_disk(disk, self._prepare_disk(disk), again=False)
            self._disks[device] = disk
            return device

    def _prepare_disk(self, disk: Disk) -> Storage:
        return self._driver.prepare_disk(disk_number(disk.target), str(disk.path), readonly=disk.readonly)

    def _plug_disk(self, disk: Disk, storage: Storage, *, again: bool) -> Device:
        """Write the nodes of a disk that has been prepared; when that fails, it is given back."""
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
            self._driver.release_disk(disk_number(disk.target))
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
            if self._suspended:
                # Nobody may write to what is being saved: later, if our domain goes on.
                self.waiting = None
                return
            self._serve_again()

    def _serve_again(self) -> None:
        try:
            self._link.renew()
            self._plug_grantee()
            for disk in self._disks.values():
                self._plug_disk(disk, self._prepare_disk(disk), again=True)
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

    # -- when our domain is saved and restored -------------------------------------------------------------------------

    def suspend(self) -> list[tuple[Disk, Identity]]:
        """Have the driver domain let go of all that is ours, while our guest stands still; it keeps the link's memory.

        What has been written to the disks is durable there afterwards; they are ours still, until :meth:`release`.

        :return: by what each disk is known again.
        :raise HarnessError: it cannot; :meth:`resume` makes that good.
        """
        with self._turn:
            self._suspended = True
            self._require_there()
            with StoreClient.connect() as store:
                for device in self.devices:
                    toolstack.remove_backend(store, device)
            self._driver.unplug()
            return [(disk, self._driver.identify_disk(device.devid)) for device, disk in self._disks.items()]

    def release(self) -> None:
        """After :meth:`suspend`, give the disks free for others: our domain is saved."""
        try:
            for device in self._disks:
                self._driver.release_disk(device.devid)
        except HarnessError as error:
            # All that matters has been written; and what is left there ends when our connection does.
            self._note(f"driver domain {self.name} has not taken back its disks: {error}")

    def slot(self) -> int:
        """Where on our PCI bus the link is."""
        return loop.run(self._qemu.slot(self._device))

    def resume(self) -> None:
        """Have the driver domain serve us again after :meth:`suspend`, however far that came; or wait for it."""
        with self._turn:
            if not self._suspended:
                return
            self._suspended = False
            if self.waiting is not None:
                return
            try:
                self._driver.unplug()
            except HarnessError as error:
                self._wait(f"driver domain {self.name} does not let go of us: {error}")
                return
            self._serve_again()

    def reserve(self, disk: Disk) -> tuple[Storage, Identity]:
        """Have a disk prepared for a domain that is to be restored, before there is anything of it.

        :raise HarnessError: the driver domain has no such block device or file, or it is in use.
        """
        storage = self._prepare_disk(disk)
        return storage, self._driver.identify_disk(disk_number(disk.target))

    def machine_link(self, slot: int, handed_over: ExitStack) -> MachineLink:
        """The link for a QEMU that is to be started with it, as the one had that was saved."""
        end = self._link.qemu_socket(GRANTER)
        handed_over.callback(end.close)
        return MachineLink(end.fileno(), self._link.layout.vectors[GRANTER], self._device, slot)

    def restore(
        self, qemu: QemuProcess, slot: int, disks: Sequence[tuple[Disk, Storage]], cards: Sequence[AttachedNetwork]
    ) -> None:
        """Have the driver domain serve a domain that is restored, whose memory is there and which stands still yet.

        :param disks: what :meth:`reserve` gave.
        :raise HarnessError: it cannot, or the memory of the link is none.
        """
        with self._turn:
            self._qemu = qemu
            self._link.adopt()
            self._introduce(slot)
            self._plug_grantee()
            for disk, storage in disks:
                self._disks[self._plug_disk(disk, storage, again=False)] = disk
            for card in cards:
                self._cards[self._plug_card(card, again=False)] = card
        self._follow()

    def ring(self) -> None:
        """Have the guest look at all of its ports of the link."""
        self._link.ring_granter()

    # -- the end -------------------------------------------------------------------------------------------------------

    def part(self) -> Future[None]:
        """Be served no more, and have both ends of the link unplugged, each in its own time; returns :attr:`parted`.

        Our guest keeps its end for as long as it uses memory of it, such as what nobody has read yet of what came in.
        """
        self._closed = True
        parted: Future[None] = Future()
        self.parted = parted
        self._driver.close()
        threading.Thread(target=self._unplug, args=(parted,), name=f"end of {self._device}", daemon=True).start()
        return parted

    def _unplug(self, parted: Future[None]) -> None:
        deadline = Deadline(FOR_EVER, f"domain {self._record.name} to let go of its link to {self.name}")
        try:
            with StoreClient.connect() as store:
                toolstack.remove_link(store, self._record.domid, self.slot())
            loop.run(self._qemu.detach_link(self._device, deadline))
        except (HarnessError, QMPError) as error:
            what = f"domain {self._record.name} keeps its link to driver domain {self.name}: {error}"
            self._note(what)
            parted.set_exception(HostError(what))
            return
        self.close()
        parted.set_result(None)

    def close(self) -> None:
        """Be served no more."""
        self._closed = True
        with self._turn:
            self._stack.close()
