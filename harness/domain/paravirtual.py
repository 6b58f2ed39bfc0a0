"""What a paravirtual domain has besides QEMU: its link to Domain 0, its nodes in XenStore, its backend process."""

from __future__ import annotations

import socket
import uuid
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from qemu.qmp import QMPError

from harness.backend.network_client import NetworkClient
from harness.bus import toolstack
from harness.bus.devices import Device
from harness.domain.backend_process import BackendProcess
from harness.domain.connecting import wait_connected
from harness.domain.definition import Definition
from harness.domain.disks import AttachedDisk
from harness.domain.networks import AttachedNetwork
from harness.domain.records import Record
from harness.host.closing import Closing
from harness.host.deadline import Deadline
from harness.host.errors import HostError
from harness.host.interruption import Guard
from harness.hypervisor.layout import FIRST_LINK_SLOT, GRANTER
from harness.hypervisor.link import Link, vectors_for
from harness.image.build import BuiltImage
from harness.machine import loop
from harness.machine.command_line import KERNEL_ARGUMENTS
from harness.machine.qemu import QemuProcess
from harness.store.client import StoreClient
from harness.store.ring import orphan

KIB_PER_MIB = 1024
LINK = "link0"
"""What QEMU calls the link to Domain 0."""


class Paravirtual(Closing):
    """The paravirtual side of one domain, from before its QEMU starts until after it has ended.

    :param record: of the domain; gets the backend's process ID.
    :param logs: directory for the backend's log.
    :param backend: the Python module to run as the domain's backend process.
    :raise HostError: the link cannot be had.

    :ivar store: from its introduction on, as the next two: its owner's connection to the store.
    :ivar consoles: our ends of the paravirtual consoles.
    :ivar backend: the process that serves its devices.
    """

    def __init__(
        self,
        definition: Definition,
        image: BuiltImage,
        record: Record,
        disks: Sequence[AttachedDisk],
        networks: Sequence[AttachedNetwork],
        logs: Path,
        backend: str,
    ) -> None:
        self._stack = ExitStack()
        self._own_stores: set[StoreClient] = set()
        self._definition = definition
        self._image = image
        self._record = record
        self._disks = disks
        self._networks = networks
        self._logs = logs
        self._module = backend
        self.link = self._stack.enter_context(Link.create(record.domid, guest_vectors=vectors_for(definition.vcpus)))

    def plug_in(self, qemu: QemuProcess, deadline: Deadline) -> None:
        """Plug the device of the link into a machine that was made without.

        :raise HostError: QEMU refused.
        """
        with self.link.qemu_socket() as server:
            vectors = self.link.layout.vectors[GRANTER]
            try:
                loop.run(qemu.attach_link(LINK, server, vectors, deadline, slot=FIRST_LINK_SLOT, granter=True))
            except QMPError as error:
                raise HostError(f"QEMU of domain {qemu.name} takes no link: {error}") from error

    def introduce(self, *, restored: bool) -> None:
        """Introduce the domain to the store, write its nodes, and start its backend, before its processors run.

        :param restored: the memory of its link is that of a saved domain, which had other ends.
        :raise HostError: the store or the backend cannot be had.
        :raise GuestError: the saved domain has not left its link's memory as it has to be.
        """
        domid, consoles = self._record.domid, self._definition.consoles
        if restored:
            self.link.adopt()
            orphan(self.link.frame(self.link.layout.store_frame))
        self.store = self._stack.enter_context(StoreClient.connect())
        toolstack.add_domain(self.store, domid, self.link, _description(self._definition, self._image))
        self._stack.callback(self._remove_domain, domid)
        self._devices = _devices(self.store, domid, self.link, consoles, self._disks, self._networks)
        self.consoles, theirs = self._make_consoles(consoles)
        self.backend = self._stack.enter_context(
            BackendProcess(
                self.link,
                self._record,
                module=self._module,
                log=self._logs / "backend.log",
                consoles=theirs,
                leases=[one.lease for one in self._disks],
            )
        )
        self._record.write()

    def wait_connected(self, deadline: Deadline, guard: Guard) -> None:
        """Wait until every device that the domain had at its start is connected; see :func:`wait_connected`."""
        wait_connected(self._devices, deadline, guard)

    @contextmanager
    def own_store(self) -> Iterator[StoreClient]:
        """A connection to wait for events on, which ends with the domain."""
        with StoreClient.connect() as store:
            self._own_stores.add(store)
            try:
                yield store
            finally:
                self._own_stores.discard(store)

    def _make_consoles(self, count: int) -> tuple[list[socket.socket], list[int]]:
        """A socket pair for each console: our ends, and the descriptors of those that any backend process gets."""
        pairs = [socket.socketpair() for _ in range(count)]
        for one in (end for pair in pairs for end in pair):
            self._stack.callback(one.close)
        for _, theirs in pairs:
            theirs.setblocking(False)
        return [ours for ours, _ in pairs], [theirs.fileno() for _, theirs in pairs]

    def _remove_domain(self, domid: int) -> None:
        # If the store has ended, so has everything it knew of the domain.
        with suppress(HostError):
            toolstack.remove_domain(self.store, domid)

    def close(self) -> None:
        """Stop the backend and remove the domain from the store."""
        for store in list(self._own_stores):
            store.close()
        self._stack.close()


def _description(definition: Definition, image: BuiltImage) -> toolstack.Description:
    return toolstack.Description(
        name=definition.name,
        uuid=str(uuid.uuid4()),
        memory_kib=definition.memory * KIB_PER_MIB,
        vcpus=definition.vcpus,
        kernel=image.kernel,
        ramdisk=image.initramfs,
        cmdline=" ".join(KERNEL_ARGUMENTS),
        driver_domain=definition.driver_domain,
    )


def _devices(
    store: StoreClient,
    domid: int,
    link: Link,
    consoles: int,
    disks: Sequence[AttachedDisk],
    networks: Sequence[AttachedNetwork],
) -> list[Device]:
    """Write the nodes of all devices; those returned connect through XenBus, which the first console does not."""
    toolstack.add_console(store, domid, link)
    return [
        *(toolstack.add_further_console(store, domid, number) for number in range(1, consoles)),
        *(add_disk(store, domid, one) for one in disks),
        *(add_network(store, domid, one) for one in networks),
    ]


def add_disk(store: StoreClient, domid: int, one: AttachedDisk) -> Device:
    """Write the nodes of a disk."""
    disk = one.disk
    return toolstack.add_vbd(
        store,
        domid,
        disk.target,
        one.lease.path,
        readonly=disk.readonly,
        cdrom=disk.cdrom,
        sector_size=disk.sector_size,
        features=disk.features,
        notifications=disk.notifications,
    )


def add_network(store: StoreClient, domid: int, one: AttachedNetwork) -> Device:
    """Write the nodes of a network interface."""
    card = one.network
    return toolstack.add_vif(
        store,
        domid,
        one.number,
        one.lease.mac,
        NetworkClient.bridge,
        mtu=card.mtu,
        features=card.features,
        notifications=card.notifications,
    )
