"""What there is to do for a domain from the start of its QEMU until its guest has its devices."""

from __future__ import annotations

from collections.abc import Coroutine
from typing import Any

from qemu.qmp import QMPError

from harness.domain import disks, networks, saving
from harness.domain.assembly import Parts
from harness.domain.definition import Definition
from harness.domain.devices import Devices
from harness.domain.paravirtual import Paravirtual
from harness.domain.restoring import Saved
from harness.domain.session import Session
from harness.host.deadline import Deadline
from harness.host.errors import HostError
from harness.machine import loop, migration
from harness.machine.command_line import device_objects, sorted_disks

LOAD_SECONDS = 300.0
PLUG_SECONDS = 30.0


def load(name: str, parts: Parts, saved: Saved | None, template: Saved | None) -> None:
    """Have everything as it is to be when the processors of a domain begin to run.

    :param saved: the domain goes on from there.
    :param template: it goes on from this guest, and gets what that has not.
    :raise HarnessError: it cannot; says why.
    """
    origin = saved or template
    if origin is not None:
        origin.require_versions(saving.versions(parts))
        loop.run(migration.load(parts.qemu, origin.state(), Deadline(LOAD_SECONDS, f"the state of domain {name}")))
    if parts.paravirtual is not None:
        if template is not None:
            _plug_in(name, parts, parts.paravirtual)
        parts.paravirtual.introduce(restored=saved is not None)
    if saved is not None:
        parts.served.restore(parts.cards)


def _plug_in(name: str, parts: Parts, paravirtual: Paravirtual) -> None:
    """Plug in what the guest of a template has not got, but for disks: see :func:`wait_plugged`."""
    deadline = Deadline(PLUG_SECONDS, f"QEMU of domain {name} to take its devices")
    paravirtual.plug_in(parts.qemu, deadline)
    for one in device_objects(parts.machine):
        if one.kind == "netdev":
            _plug(name, parts.qemu.plug_in(one, deadline))


def _plug(name: str, work: Coroutine[Any, Any, None]) -> None:
    try:
        loop.run(work)
    except QMPError as error:
        raise HostError(f"QEMU of domain {name} does not take its devices: {error}") from error


def wait_devices(parts: Parts, devices: Devices, session: Session, deadline: Deadline, *, restored: bool) -> None:
    """Wait until the split devices of a domain work, for which driver domains have to serve theirs first.

    :param restored: they do so already.
    """
    if parts.paravirtual is None:
        return
    parts.paravirtual.wait_connected(deadline, session.watched)
    if restored:
        devices.wait_served(deadline, session.watched)
    else:
        devices.attach_served(deadline, session.watched)
    targets = [one.disk.target for one in parts.disks if one.disk.model == "pv"]
    targets += [disk.target for disk in parts.held.served_disks]
    session.execute(disks.wait_for(targets), timeout=deadline.left).check()


def wait_found(parts: Parts, session: Session, deadline: Deadline) -> None:
    """Wait until a guest that boots has the disks in its memory: they are on a bus behind that of the other devices."""
    targets = [disk.target for disk in parts.machine.disks if disk.model == "virtio-pmem"]
    if targets:
        session.execute(disks.wait_for(targets), timeout=deadline.left).check()


def wait_plugged(name: str, parts: Parts, session: Session, deadline: Deadline) -> None:
    """Wait until the guest has the devices of its machine, which it had not got when it booted.

    Disks are plugged in one after the other: a guest that finds several at once may give their names the other way.
    """
    for disk, one in zip(sorted_disks(parts.machine), device_objects(parts.machine), strict=False):
        _plug(name, parts.qemu.plug_in(one, deadline))
        found = disks.wait_for_virtio if disk.model == "virtio" else disks.wait_for
        session.execute(found([disk.target]), timeout=deadline.left).check()
    cards = [one for one in parts.cards if one.network.model != "pv"]
    session.execute(networks.wait_for(cards), timeout=deadline.left).check()


def configure_cards(definition: Definition, parts: Parts, session: Session, deadline: Deadline) -> None:
    """Have the guest give its cards their addresses, and a driver domain make its bridge."""
    if parts.network is None:
        return
    for number, card in enumerate(parts.cards):
        bridge = definition.driver_domain and number == 0
        configuration = networks.bridge_configuration if bridge else networks.configuration
        session.execute(configuration(card, parts.network), timeout=deadline.left).check()
