"""Puts a domain together: everything a definition asks for, started in order, and taken apart in reverse."""

from __future__ import annotations

import os
import socket
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from harness.backend.network_client import NetworkClient
from harness.domain import disks, logs, networks, records, scratch
from harness.domain.definition import Definition
from harness.domain.disks import AttachedDisk
from harness.domain.janitor import Janitor
from harness.domain.leases import Lease
from harness.domain.networks import AttachedNetwork
from harness.domain.paravirtual import Paravirtual
from harness.domain.records import Claim, Record
from harness.domain.restoring import Saved
from harness.hypervisor.layout import GRANTER
from harness.image.build import BuiltImage, build
from harness.machine import accelerator, memory
from harness.machine.accelerator import Accelerator
from harness.machine.command_line import Machine, MachineDisk, MachineLink, MachineNetwork
from harness.machine.qemu import QemuProcess


@dataclass
class Parts:
    """What a domain consists of once its QEMU exists, with its processors not yet running.

    :param booted_domid: under which the guest came up, and by which it calls its devices.
    :param disks: those it has now, also those that were attached later; likewise the cards.
    :param network: connection to the private network; None as long as the domain has had no card.
    :param paravirtual: link, store nodes and backend; None in an unmodified guest.
    :param console: our end of the guest's first serial port.
    :param agent: our end of its second.
    """

    image: BuiltImage
    accelerator: Accelerator
    record: Record
    booted_domid: int
    logs: Path
    disks: list[AttachedDisk]
    network: NetworkClient | None
    cards: list[AttachedNetwork]
    paravirtual: Paravirtual | None
    qemu: QemuProcess
    console: socket.socket
    agent: socket.socket


def assemble(
    definition: Definition,
    accelerator_request: str,
    shared_lease: Lease | None,
    log: Path | None,
    backend: str,
    stack: ExitStack,
    saved: Saved | None = None,
    *,
    warm: bool = False,
) -> Parts:
    """Start everything a definition asks for; call this in a thread that lives as long as the domain.

    What needs the guest's memory is left to the caller: a paravirtual domain is still to be introduced.

    :param log: directory for logs, or None: a new one.
    :param backend: the Python module to run as the backend process of a paravirtual domain.
    :param stack: takes it apart again, also when this fails half way.
    :param saved: what the definition is from; QEMU then waits for its state.
    :param warm: QEMU waits for the state of a guest that has booted without a link, which is to be plugged in then.
    :raise HarnessError: something is missing, in use, or does not start.
    """
    image = build(definition.image)
    chosen = accelerator.choose(accelerator_request)
    memory.require(definition.name, definition.memory)
    log = log or logs.make(definition.name)
    claim = _claim(definition, log, stack)
    attached = _disks(definition, Path(claim.record.scratch[0]), stack, shared_lease, saved)
    network, cards = networks.attach(definition.networks, stack, None if saved is None else saved.cards)
    paravirtual = None
    if definition.kind == "pv":
        paravirtual = stack.enter_context(Paravirtual(definition, image, claim.record, attached, cards, log, backend))
    with ExitStack() as handed_over:
        console, agent = (_pair(stack, handed_over) for _ in range(2))
        machine = Machine(
            name=definition.name,
            accelerator=chosen.name,
            memory=definition.memory,
            vcpus=definition.vcpus,
            kernel=image.kernel,
            initramfs=image.initramfs,
            console_fd=console[1],
            agent_fd=agent[1],
            disks=_machine_disks(attached),
            networks=_machine_networks(claim.record, network, cards, handed_over),
            links=() if warm else _machine_links(paravirtual, handed_over),
            incoming=warm or saved is not None,
        )
        qemu = QemuProcess.spawn(machine, log / "qemu.log", env=records.environment(claim.record.domid))
    stack.callback(qemu.child.kill)
    claim.record.pids["qemu"] = qemu.child.pid
    claim.record.write()
    return Parts(
        image=image,
        accelerator=chosen,
        record=claim.record,
        booted_domid=claim.record.domid if saved is None else saved.domid,
        logs=log,
        disks=attached,
        network=network,
        cards=cards,
        paravirtual=paravirtual,
        qemu=qemu,
        console=console[0],
        agent=agent[0],
    )


def _claim(definition: Definition, log: Path, stack: ExitStack) -> Claim:
    """The record, and what removes it: this process at the end, or the janitor if this process is killed."""
    # The janitor comes first: it takes its time to start, and there is nothing yet that could be left.
    janitor = Janitor(log / "janitor.log")
    stack.callback(janitor.dismiss)
    claim = records.claim(definition.name, definition.kind, log)
    janitor.guard(claim.record.directory)
    stack.callback(claim.release)
    claim.record.scratch.append(str(stack.enter_context(scratch.directory(definition.name, janitor))))
    claim.record.write()
    return claim


def _disks(
    definition: Definition, scratch: Path, stack: ExitStack, shared_lease: Lease | None, saved: Saved | None
) -> list[AttachedDisk]:
    """The leased images; those of a saved domain are as the guest knows them."""
    if saved is not None:
        saved.make_scratch(scratch)
    attached = disks.attach(definition.disks, scratch, stack, shared_lease)
    if saved is not None:
        saved.require_images(attached)
    return attached


def _pair(stack: ExitStack, handed_over: ExitStack) -> tuple[socket.socket, int]:
    """A socket pair: our end, and the descriptor of the end that QEMU inherits."""
    ours, theirs = socket.socketpair()
    stack.callback(ours.close)
    handed_over.callback(theirs.close)
    return ours, theirs.fileno()


def _machine_disks(attached: Sequence[AttachedDisk]) -> tuple[MachineDisk, ...]:
    return tuple(
        MachineDisk(
            one.disk.model,
            one.disk.target,
            one.lease.path,
            readonly=one.disk.readonly,
            block_device=one.lease.block_device,
            lease_fds=tuple(one.lease.descriptors),
        )
        for one in attached
        if one.disk.model != "pv"
    )


def _machine_networks(
    record: Record, client: NetworkClient | None, cards: Sequence[AttachedNetwork], handed_over: ExitStack
) -> tuple[MachineNetwork, ...]:
    found = []
    for one in cards:
        if client is None or one.network.model == "pv":
            continue
        # xl calls the ports of emulated cards so, to tell them from those of the split driver.
        tap = client.tap(f"vif{record.domid}.{one.number}-emu", vnet_hdr=one.network.model == "virtio")
        handed_over.callback(os.close, tap)
        found.append(MachineNetwork(one.network.model, one.lease.mac, tap))
    return tuple(found)


def _machine_links(paravirtual: Paravirtual | None, handed_over: ExitStack) -> tuple[MachineLink, ...]:
    if paravirtual is None:
        return ()
    server = paravirtual.link.qemu_socket()
    handed_over.callback(server.close)
    return (MachineLink(server.fileno(), paravirtual.link.layout.vectors[GRANTER]),)
