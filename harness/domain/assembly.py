"""Puts a domain together: everything a definition asks for, started in order, and taken apart in reverse."""

from __future__ import annotations

import os
import socket
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path

from harness.backend.network_client import NetworkClient
from harness.domain import disks, logs, networks, records, scratch
from harness.domain.definition import Definition, Disk
from harness.domain.disks import AttachedDisk
from harness.domain.janitor import Janitor
from harness.domain.leases import Lease
from harness.domain.networks import AttachedNetwork
from harness.domain.paravirtual import Paravirtual
from harness.domain.records import Claim, Record
from harness.domain.restoring import Saved
from harness.domain.servers import Served
from harness.host.errors import HostError
from harness.hypervisor.layout import GRANTER
from harness.image.build import BuiltImage, build
from harness.machine import accelerator, memory
from harness.machine.accelerator import Accelerator
from harness.machine.command_line import Machine, MachineDisk, MachineLink, MachineNetwork
from harness.machine.inline_io import inline_verdict
from harness.machine.qemu import QemuProcess


@dataclass
class Holdings:
    """What a domain has from its first start to its end, also when its QEMU is another one by then.

    :param disks: those it has now, also those that were attached later; likewise the cards.
    :param served_disks: those of its disks that driver domains serve.
    :param network: connection to the private network; None as long as the domain has had no card.
    """

    image: BuiltImage
    accelerator: Accelerator
    record: Record
    logs: Path
    disks: list[AttachedDisk]
    served_disks: list[Disk]
    network: NetworkClient | None
    cards: list[AttachedNetwork]


@dataclass
class Parts:
    """What a domain consists of once its QEMU exists, with its processors not yet running.

    :param held: what another QEMU would get, too.
    :param booted_domid: under which the guest came up, and by which it calls its devices.
    :param paravirtual: link, store nodes and backend; None in an unmodified guest.
    :param served: the driver domains that serve it besides.
    :param machine: what its QEMU is to be; descriptors in it are QEMU's.
    :param console: our end of the guest's first serial port.
    :param agent: our end of its second.
    """

    held: Holdings
    booted_domid: int
    paravirtual: Paravirtual | None
    served: Served
    machine: Machine
    qemu: QemuProcess
    console: socket.socket
    agent: socket.socket

    @property
    def record(self) -> Record:
        return self.held.record

    @property
    def logs(self) -> Path:
        return self.held.logs

    @property
    def disks(self) -> list[AttachedDisk]:
        return self.held.disks

    @property
    def cards(self) -> list[AttachedNetwork]:
        return self.held.cards

    @property
    def network(self) -> NetworkClient | None:
        return self.held.network


def hold(
    definition: Definition,
    accelerator_request: str,
    shared_lease: Lease | None,
    log: Path | None,
    stack: ExitStack,
    saved: Saved | None = None,
) -> Holdings:
    """Take what a domain needs for as long as it exists.

    :param log: directory for logs, or None: a new one.
    :param stack: gives it back, also when this fails half way.
    :param saved: what the definition is from; images and cards are then as its guest knows them.
    :raise HarnessError: something is missing or in use.
    """
    image = build(definition.image)
    chosen = accelerator.choose(accelerator_request)
    memory.require(definition.name, definition.memory)
    log = log or logs.make(definition.name)
    claim = _claim(definition, log, stack)
    own = [disk for disk in definition.disks if disk.backend is None]
    directory = Path(claim.record.scratch[0])
    if saved is not None:
        saved.make_scratch(directory)
    attached = disks.attach(own, directory, stack, shared_lease)
    if saved is not None:
        saved.require_images(attached)
    network, cards = networks.attach(definition.networks, stack, None if saved is None else saved.cards)
    served = [disk for disk in definition.disks if disk.backend is not None]
    return Holdings(image, chosen, claim.record, log, attached, served, network, cards)


def assemble(
    definition: Definition,
    held: Holdings,
    backend: str,
    stack: ExitStack,
    saved: Saved | None = None,
    *,
    warm: bool = False,
) -> Parts:
    """Start everything a definition asks for; call this in a thread that lives as long as the domain's QEMU.

    What needs the guest's memory is left to the caller: a paravirtual domain is still to be introduced. What driver
    domains serve comes later, when the guest runs; to a saved domain, when it has been introduced.

    :param backend: the Python module to run as the backend process of a paravirtual domain.
    :param stack: takes it apart again, also when this fails half way.
    :param saved: what the domain is to go on from; QEMU then waits for its state.
    :param warm: QEMU waits for the state of a guest that has booted without devices; what the machine has besides, and
        the link, is to be plugged in then.
    :raise HarnessError: something is missing, in use, or does not start.
    """
    record, image = held.record, held.image
    paravirtual = None
    if definition.kind == "pv":
        split = [one for one in held.disks if one.disk.model == "pv"]
        cards = [one for one in held.cards if one.network.model == "pv" and one.network.backend is None]
        paravirtual = stack.enter_context(Paravirtual(definition, image, record, split, cards, held.logs, backend))
    served = stack.enter_context(Served(record, held.logs / "driver-domains.log", definition.vcpus))
    with ExitStack() as handed_over:
        console, agent = (_pair(stack, handed_over) for _ in range(2))
        machine = Machine(
            name=definition.name,
            accelerator=held.accelerator.name,
            memory=definition.memory,
            vcpus=definition.vcpus,
            kernel=image.kernel,
            initramfs=image.initramfs,
            console_fd=console[1],
            agent_fd=agent[1],
            disks=_machine_disks(definition, held),
            networks=_machine_networks(held, stack, handed_over),
            link=None if warm else _machine_link(paravirtual, handed_over),
            further_links=served.reserve(saved, handed_over) if saved is not None else (),
            incoming=warm or saved is not None,
            bare=warm,
            room=definition.room,
        )
        qemu = QemuProcess.spawn(machine, held.logs / "qemu.log", env=records.environment(record.domid))
    stack.callback(qemu.child.kill)
    record.pids["qemu"] = qemu.child.pid
    record.write()
    served.start(qemu)
    booted_domid = record.domid if saved is None else saved.domid
    return Parts(held, booted_domid, paravirtual, served, machine, qemu, console[0], agent[0])


def _claim(definition: Definition, log: Path, stack: ExitStack) -> Claim:
    """The record, and what removes it: this process at the end, or the janitor if this process is killed."""
    # The janitor comes first: it takes its time to start, and there is nothing yet that could be left.
    janitor = Janitor(log / "janitor.log")
    stack.callback(janitor.dismiss)
    claim = records.claim(definition.name, definition.kind, log, driver_domain=definition.driver_domain)
    janitor.guard(claim.record.directory)
    stack.callback(claim.release)
    claim.record.scratch.append(str(stack.enter_context(scratch.directory(definition.name, janitor))))
    claim.record.write()
    return claim


def _pair(stack: ExitStack, handed_over: ExitStack) -> tuple[socket.socket, int]:
    """A socket pair: our end, and the descriptor of the end that QEMU inherits."""
    ours, theirs = socket.socketpair()
    stack.callback(ours.close)
    handed_over.callback(theirs.close)
    return ours, theirs.fileno()


def _machine_disks(definition: Definition, held: Holdings) -> tuple[MachineDisk, ...]:
    return tuple(
        MachineDisk(
            one.disk.model,
            one.disk.target,
            one.lease.path,
            one.lease.size,
            readonly=one.disk.readonly,
            block_device=one.lease.block_device,
            lease_fds=tuple(one.lease.descriptors),
            inline=one.disk.model == "virtio" and _is_inline(one.disk, definition, held.accelerator),
        )
        for one in held.disks
        if one.disk.model != "pv"
    )


def _is_inline(disk: Disk, definition: Definition, accelerator: Accelerator) -> bool:
    """Whether a guest's processor is to do the I/O of one of its disks.

    :raise HostError: the definition says so, and this host does not let it.
    """
    if disk.io is None:
        return definition.driver_domain and accelerator.name == "tcg" and inline_verdict().works
    if disk.io == "inline" and not (verdict := inline_verdict()).works:
        raise HostError(
            f"disk {disk.target} of domain {definition.name} cannot have io: inline: {verdict.reason}",
            hint="leave 'io' out, or allow io_uring: sysctl kernel.io_uring_disabled=0",
        )
    return disk.io == "inline"


def _machine_networks(held: Holdings, stack: ExitStack, handed_over: ExitStack) -> tuple[MachineNetwork, ...]:
    client, found = held.network, []
    for one in held.cards:
        if client is None or one.network.model == "pv":
            continue
        # xl calls the ports of emulated cards so, to tell them from those of the split driver.
        name = f"vif{held.record.domid}.{one.number}-emu"
        tap = client.tap(name, vnet_hdr=one.network.model == "virtio")
        # Another QEMU will want one of the same name.
        stack.callback(_remove_tap, client, name)
        handed_over.callback(os.close, tap)
        found.append(MachineNetwork(one.network.model, one.lease.mac, tap))
    return tuple(found)


def _remove_tap(client: NetworkClient, name: str) -> None:
    # If the service has ended, so has everything it had made.
    with suppress(HostError):
        client.remove_tap(name)


def _machine_link(paravirtual: Paravirtual | None, handed_over: ExitStack) -> MachineLink | None:
    if paravirtual is None:
        return None
    server = paravirtual.link.qemu_socket()
    handed_over.callback(server.close)
    return MachineLink(server.fileno(), paravirtual.link.layout.vectors[GRANTER])
