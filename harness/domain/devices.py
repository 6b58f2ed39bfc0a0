"""Disks and network cards that come and go while a paravirtual domain runs."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import replace
from pathlib import Path

from harness.backend.network_client import NetworkClient
from harness.bus import hotplug
from harness.bus.devices import Device, disk_number
from harness.bus.nodes import read_or_none
from harness.domain import disks
from harness.domain.assembly import Parts
from harness.domain.connecting import wait_connected
from harness.domain.definition import Disk, Network
from harness.domain.disks import AttachedDisk
from harness.domain.leases import Lease
from harness.domain.networks import AttachedNetwork
from harness.domain.paravirtual import Paravirtual, add_disk, add_network
from harness.domain.served import Server
from harness.domain.servers import Served
from harness.host.deadline import Deadline
from harness.host.errors import DeadlineExpired, GuestError, HarnessError, HostError, UsageError
from harness.host.interruption import Guard
from harness.ring.blkif import SECTOR_SIZE
from harness.store.client import StoreClient

CLOSE_SECONDS = 10.0
"""What a backend gets to close a device that has been taken away from its guest."""
FOR_EVER = 7 * 86400.0


class Devices:
    """The devices of a domain that runs. Any thread may call this; what changes them is done one after the other.

    :param name: of the domain, for messages.
    :param parts: of the domain; its lists of disks and cards are kept up to date.
    :param wait_forgotten: waits until the guest has noticed that a device is gone; the next one may have its name.
    """

    def __init__(self, name: str, parts: Parts, wait_forgotten: Callable[[Device], object]) -> None:
        self._name = name
        self._parts = parts
        self._wait_forgotten = wait_forgotten
        self._domid = parts.record.domid
        self._turn = threading.Lock()
        self._closing: dict[Device, Future[None]] = {}

    @property
    def _paravirtual(self) -> Paravirtual:
        """:raise UsageError: the domain has no split devices."""
        if self._parts.paravirtual is None:
            raise UsageError(
                f"domain {self._name} is an unmodified guest, whose devices cannot come or go while it runs: "
                "there is no hot-plug on an IDE bus, and cards are part of the machine that QEMU emulates",
                hint="add the device to the definition and start the domain anew, or use a domain of kind pv",
            )
        return self._parts.paravirtual

    @contextmanager
    def at_rest(self, deadline: Deadline, guard: Guard) -> Iterator[None]:
        """Inside, every device is connected, and none comes or goes.

        :raise UsageError: one is being detached, or the driver domain is not there that serves it.
        :raise HarnessError: one is not connected; says why.
        """
        with self._turn:
            if self._closing:
                raise UsageError(f"a device of domain {self._name} is still being detached: the guest is using it")
            self._parts.served.require_there()
            wait_connected(self._devices(), deadline, guard)
            yield

    def _devices(self) -> list[Device]:
        """The split devices that connect through XenBus, which the first console does not."""
        parts = self._parts
        if parts.paravirtual is None:
            return []
        split = [one for one in parts.disks if one.disk.model == "pv"]
        cards = [one for one in parts.cards if one.network.model == "pv" and one.network.backend is None]
        return [
            *(Device("console", self._domid, number) for number in range(1, len(parts.paravirtual.consoles))),
            *(Device("vbd", self._domid, disk_number(one.disk.target)) for one in split),
            *(Device("vif", self._domid, one.number) for one in cards),
            *parts.served.devices,
        ]

    # -- disks ---------------------------------------------------------------------------------------------------------

    def attach_disk(
        self,
        disk: Disk,
        settle: Callable[[], object],
        deadline: Deadline,
        guard: Guard,
        shared_lease: Lease | None = None,
    ) -> None:
        """Plug a disk in and wait until the guest has it; when that fails, nothing is left of it.

        :param settle: waits until a guest whose frontend is connected has made a disk of it.
        :raise HarnessError: the image cannot be used, or an end does not connect; says why.
        """
        paravirtual = self._paravirtual
        device = Device("vbd", self._domid, disk_number(disk.target))
        with self._turn, ExitStack() as undo:
            self._require_free(device, disk.target, self._targets())
            if disk.backend is not None:
                self._attach_served(disk, deadline, guard, undo)
                settle()
                undo.pop_all()
                self._parts.held.served_disks.append(disk)
                return
            (one,) = disks.attach([disk], Path(self._parts.record.scratch[0]), undo, shared_lease)
            undo.callback(one.release)
            paravirtual.backend.hold(one.lease)
            undo.callback(paravirtual.backend.release, one.lease)
            undo.callback(self._remove, device)
            add_disk(paravirtual.store, self._domid, one)
            wait_connected([device], deadline, guard)
            settle()
            undo.pop_all()
            self._parts.disks.append(one)

    def wait_served(self, deadline: Deadline, guard: Guard) -> None:
        """Wait until the devices are connected that driver domains serve a restored domain.

        :raise HarnessError: one of them is not; says why.
        """
        wait_connected(self._parts.served.devices, deadline, guard)

    def attach_served(self, deadline: Deadline, guard: Guard) -> None:
        """Have driver domains serve what they are to serve, now that the guest runs; does not wait for its disks.

        :raise HarnessError: one of them is not there, or cannot; says why.
        """
        with self._turn:
            for disk in self._parts.held.served_disks:
                self._attach_served(disk, deadline, guard, None)
            for card in self._parts.cards:
                if card.network.backend is not None:
                    wait_connected([self._served.by(card.network.backend).add_card(card)], deadline, guard)

    def _attach_served(self, disk: Disk, deadline: Deadline, guard: Guard, undo: ExitStack | None) -> None:
        """Have a driver domain serve a disk, until it is connected.

        :param undo: gets what takes it away again; None if all of the domain would be taken away.
        """
        server = self._served.by(disk.backend or "")
        if undo is not None:
            undo.callback(self._served.part_idle, server)
        device = server.add_disk(disk)
        if undo is not None:
            undo.callback(server.forget, device)
            undo.callback(self._remove, device)
        wait_connected([device], deadline, guard)

    @property
    def _served(self) -> Served:
        """:raise UsageError: the domain has no split devices."""
        _ = self._paravirtual
        return self._parts.served

    def _targets(self) -> list[str]:
        own = [one.disk.target for one in self._parts.disks]
        return own + [disk.target for disk in self._parts.held.served_disks]

    def detach_disk(self, target: str, deadline: Deadline, *, force: bool) -> Device:
        """Unplug a disk; returns what it was, since the guest may be slower to notice that than its backend.

        :param force: take it away even if the guest is using it.
        :raise GuestError: the guest is still using it; it goes when that ends.
        """
        served = next((disk for disk in self._parts.held.served_disks if disk.target == target), None)
        if served is not None:
            return self._detach_served_disk(served, deadline, force=force)
        paravirtual, one = self._paravirtual, self._disk(target)

        def release() -> None:
            self._parts.disks.remove(one)
            try:
                paravirtual.backend.release(one.lease)
            finally:
                one.release()

        return self._detach(Device("vbd", self._domid, disk_number(target)), target, release, deadline, force=force)

    def _detach_served_disk(self, disk: Disk, deadline: Deadline, *, force: bool) -> Device:
        server = self._served.known(disk.backend or "")
        self._require_there(server, disk.target, force=force)
        device = server.device("vbd", disk_number(disk.target))

        def release() -> None:
            self._parts.held.served_disks.remove(disk)
            self._forget(server, device)

        return self._detach(device, disk.target, release, deadline, force=force)

    def _forget(self, server: Server, device: Device) -> None:
        """A driver domain's device has gone, perhaps the last one."""
        try:
            server.forget(device)
        finally:
            self._served.part_idle(server)

    def _require_there(self, server: Server, name: str, *, force: bool) -> None:
        """Check that a device can be closed by both of its ends, if it is not to be taken away anyhow."""
        if server.waiting is not None and not force:
            raise GuestError(
                f"{name} of domain {self._name} waits: {server.waiting}",
                hint="wait, too, or take it away from the guest, by detaching it with --force",
            )

    def resize_disk(self, target: str, size: int | None, deadline: Deadline, guard: Guard) -> int:
        """Let a disk grow, and the guest see it; returns the size in bytes.

        :param size: bytes; None for the size that the image has got already.
        :raise UsageError: the disk cannot have that size.
        :raise HostError: the host has no room for it, or the backend does not take it.
        """
        with self._turn:
            one = self._disk(target)
            size = _grow(one, size)
            device = Device("vbd", self._domid, disk_number(target))
            with StoreClient.connect() as store, guard(store.close):
                try:
                    hotplug.resize(store, device, deadline)
                except DeadlineExpired as error:
                    raise HostError(f"the backend of {device.backend} does not answer: {error.what}") from error
                if read_or_none(store, f"{device.backend}/sectors") != str(size // SECTOR_SIZE).encode():
                    reason = hotplug.reported(store, device.backend) or "the backend does not say why"
                    raise HostError(f"disk {target} of domain {self._name} keeps its size: {reason}")
            self._parts.disks[self._parts.disks.index(one)] = replace(one, disk=replace(one.disk, size=size))
            return size

    def _disk(self, target: str) -> AttachedDisk:
        found = next((one for one in self._parts.disks if one.disk.target == target), None)
        if found is None:
            if target in self._targets():
                raise UsageError(f"disk {target} of domain {self._name} has the size that its driver domain gives it")
            names = ", ".join(self._targets()) or "none"
            raise UsageError(f"domain {self._name} has no disk {target}; it has: {names}")
        return found

    # -- network cards -------------------------------------------------------------------------------------------------

    def attach_network(
        self,
        network: Network,
        join: Callable[[], NetworkClient],
        configure: Callable[[AttachedNetwork], object],
        deadline: Deadline,
        guard: Guard,
    ) -> AttachedNetwork:
        """Plug a card in and wait until the guest has it; when that fails, nothing is left of it.

        :param join: gives the connection to the private network.
        :param configure: has the guest give the card its address.
        :raise HarnessError: there is no network to be had, or an end does not connect; says why.
        """
        paravirtual = self._paravirtual
        with self._turn, ExitStack() as undo:
            client = join()
            used = {one.number for one in self._parts.cards}
            number = next(number for number in range(len(used) + 1) if number not in used)
            one = AttachedNetwork(network, client.lease(network.mac), number)
            undo.callback(client.release, one.lease)
            server = None if network.backend is None else self._served.by(network.backend)
            device = Device("vif", self._domid, number) if server is None else server.device("vif", number)
            if server is None:
                undo.callback(self._remove, device)
                add_network(paravirtual.store, self._domid, one)
            else:
                undo.callback(self._served.part_idle, server)
                undo.callback(server.forget, device)
                undo.callback(self._remove, device)
                server.add_card(one)
            wait_connected([device], deadline, guard)
            configure(one)
            undo.pop_all()
            self._parts.cards.append(one)
            self._publish()
            return one

    def detach_network(self, which: str, deadline: Deadline, *, force: bool) -> Device:
        """Unplug a card; as :meth:`detach_disk`.

        :param which: its MAC address or its number.
        """
        one = next((one for one in self._parts.cards if which.lower() in (one.lease.mac, str(one.number))), None)
        if one is None:
            known = ", ".join(f"{one.number} ({one.lease.mac})" for one in self._parts.cards) or "none"
            raise UsageError(f"domain {self._name} has no network card {which}; it has: {known}")
        card, client = one, self._parts.network
        device, server = Device("vif", self._domid, card.number), None
        if card.network.backend is not None:
            server = self._served.known(card.network.backend)
            self._require_there(server, card.lease.mac, force=force)
            device = server.device("vif", card.number)

        def release() -> None:
            self._parts.cards.remove(card)
            if server is not None:
                self._forget(server, device)
            self._publish()
            if client is not None:
                client.release(card.lease)

        return self._detach(device, card.lease.mac, release, deadline, force=force)

    def _publish(self) -> None:
        self._parts.record.addresses = [one.lease.address for one in self._parts.cards]
        self._parts.record.write()

    # -- both ----------------------------------------------------------------------------------------------------------

    def _require_free(self, device: Device, name: str, names: list[str]) -> None:
        if device in self._closing:
            raise UsageError(
                f"{name} of domain {self._name} is still being detached: the guest is using it",
                hint="wait for the guest, or detach it with --force",
            )
        if name in names:
            raise UsageError(f"domain {self._name} has a {name} already", hint=f"see: harness block-list {self._name}")

    def _detach(
        self, device: Device, name: str, release: Callable[[], None], deadline: Deadline, *, force: bool
    ) -> Device:
        paravirtual = self._paravirtual
        with self._turn:
            ended = self._closing.get(device)
            if ended is None:
                ended = self._closing[device] = Future()
                closing = (paravirtual, device, release, ended)
                threading.Thread(target=self._close, args=closing, name=f"end of {name}", daemon=True).start()
        if force:
            hotplug.take_away(paravirtual.store, device)
        try:
            ended.result(CLOSE_SECONDS if force else deadline.left)
            return device
        except TimeoutError:
            raise GuestError(
                f"domain {self._name} is still using {name}: it is closing, and goes when the guest lets go of it",
                hint="find out in the guest who uses it; or take it away from there, by detaching it with --force",
            ) from None

    def _close(
        self, paravirtual: Paravirtual, device: Device, release: Callable[[], None], ended: Future[None]
    ) -> None:
        """Close a device, however long that takes, and forget it; a thread of its own does this."""
        error = None
        try:
            with paravirtual.own_store() as store:
                hotplug.close_device(store, device)
                hotplug.remove_device(store, device, Deadline(FOR_EVER, f"the end of {device.backend}"))
            with self._turn:
                release()
        except HarnessError as problem:
            error = problem
        del self._closing[device]
        if error is None:
            ended.set_result(None)
        else:
            ended.set_exception(error)

    def _remove(self, device: Device) -> None:
        """Remove a device that could not be attached."""
        with suppress(HarnessError), StoreClient.connect() as store:
            hotplug.close_device(store, device)
            hotplug.take_away(store, device)
            try:
                hotplug.remove_device(store, device, Deadline(CLOSE_SECONDS, "the end of a device"))
            except DeadlineExpired:
                hotplug.forget(store, device)
            self._wait_forgotten(device)


def _grow(one: AttachedDisk, size: int | None) -> int:
    """Have an image grow to a size, or find out to which it has; returns the size in bytes."""
    target, sector = one.disk.target, one.disk.sector_size
    if size is None:
        size = one.lease.measure()
    if size < one.disk.size:
        raise UsageError(
            f"disk {target} has {one.disk.size} bytes and cannot shrink to {size}: the guest would lose what is there"
        )
    if size % sector:
        raise UsageError(f"{size} bytes is no multiple of the {sector} bytes of a sector of disk {target}")
    one.lease.grow(size)
    return size
