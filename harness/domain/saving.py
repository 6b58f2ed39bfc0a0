"""Saving a running domain to a file: see :mod:`harness.domain.restoring` for the way back."""

from __future__ import annotations

import os
import platform
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict, fields
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from harness.bus.features import BlockFeatures, NetFeatures, Notifications
from harness.domain.assembly import Parts
from harness.domain.definition import Definition, Disk
from harness.domain.devices import Devices
from harness.domain.disks import AttachedDisk
from harness.domain.identity import identify
from harness.domain.networks import AttachedNetwork
from harness.domain.saved import Writer
from harness.domain.session import EXECUTE_GRACE, Session
from harness.host.deadline import Deadline
from harness.host.errors import HostError, UsageError
from harness.hypervisor.layout import LINK_VERSION
from harness.machine import loop, migration

QMP_SECONDS = 30.0


def save(
    definition: Definition, parts: Parts, session: Session, devices: Devices, file: Path, deadline: Deadline
) -> None:
    """Write a running domain to a file. It stands still afterwards, or goes on when this fails.

    What its back ends had under way is asked of others again; everything that they have done is in the images. Driver
    domains let go of it before its memory is written, and have its disks for others when all of it is.

    :raise HarnessError: it could not be saved; says why.
    """
    _require_saved_by_qemu(definition)
    with devices.at_rest(deadline, session.watched), Writer(file) as writer:
        # What the guest was doing when its devices were seen connected it has done by now.
        session.guarded(session.agent.ping(deadline), deadline)
        restarts = parts.record.restarts
        loop.run(parts.qemu.stop(), Deadline(QMP_SECONDS, f"the pause of domain {definition.name}"))
        try:
            if parts.paravirtual is not None:
                parts.paravirtual.backend.suspend()
            links, served = parts.served.suspend()
            if parts.record.restarts != restarts:
                raise HostError(f"a backend process of domain {definition.name} has died just now: save it again")
            work = migration.save(parts.qemu, writer.descriptor, deadline)
            session.guarded(work, deadline, grace=EXECUTE_GRACE)
            images = [_image(one, writer, deadline) for one in parts.disks]
            images += [{"target": disk.target, **asdict(identity)} for disk, identity in served]
            writer.finish(
                {
                    "saved": datetime.now(UTC).isoformat(timespec="seconds"),
                    "versions": versions(parts),
                    "domid": parts.booted_domid,
                    "definition": document(definition, _disks(parts), parts.cards),
                    "cards": [{"number": one.number, "address": one.lease.address} for one in parts.cards],
                    "links": [asdict(link) for link in links],
                    "images": images,
                }
            )
        except BaseException:
            # Each is done, also when the one before fails; the last first.
            with ExitStack() as undo:
                pause = Deadline(QMP_SECONDS, f"the end of the pause of domain {definition.name}")
                undo.callback(lambda: loop.run(parts.qemu.cont(), pause))
                undo.callback(parts.served.resume)
                if parts.paravirtual is not None:
                    undo.callback(parts.paravirtual.backend.resume)
            raise
        parts.served.release()


def _require_saved_by_qemu(definition: Definition) -> None:
    """:raise UsageError: it has a device of which QEMU does not save the state, and does not say so."""
    for disk in definition.disks:
        if disk.model == "virtio-pmem":
            raise UsageError(
                f"domain {definition.name} cannot be saved: QEMU does not save what disk {disk.target} has under way",
                hint="a domain with disks of model virtio instead of virtio-pmem can be",
            )


def versions(parts: Parts) -> dict[str, str]:
    """What the state of a domain is worth nothing without, by name."""
    qemu = loop.run(parts.qemu.version(), Deadline(QMP_SECONDS, "the version of QEMU"))
    found = {
        "image": f"{parts.held.image.name} {parts.held.image.digest}",
        "QEMU": qemu,
        "accelerator": parts.held.accelerator.name,
        "link": str(LINK_VERSION),
    }
    if parts.held.accelerator.name == "kvm":
        # The guest has been shown the host's own processor.
        found["processor"] = processor()
    return found


def processor() -> str:
    """The model of the host's processor."""
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        name, _, value = line.partition(":")
        if name.strip() == "model name":
            return value.strip()
    return platform.machine()


def _image(one: AttachedDisk, writer: Writer, deadline: Deadline) -> dict[str, Any]:
    """Have what was written to a disk really written; a description of the image by which it is known again."""
    os.fsync(one.lease.descriptors[-1])
    path = one.lease.path
    if one.disk.path is None:
        path = writer.add_disk(path.name, path, deadline)
    identity = identify(path, one.lease.measure(), block_device=one.lease.block_device)
    return {"target": one.disk.target, **asdict(identity)}


# -- the definition ----------------------------------------------------------------------------------------------------


def _disks(parts: Parts) -> list[Disk]:
    return [*(one.disk for one in parts.disks), *parts.held.served_disks]


def document(definition: Definition, disks: Sequence[Disk], cards: Sequence[AttachedNetwork]) -> dict[str, Any]:
    """A definition of a domain with the devices that it has now, in the words of a definition file."""
    written: dict[str, Any] = {
        "name": definition.name,
        "kind": definition.kind,
        "image": definition.image,
        "memory": f"{definition.memory}MiB",
        "vcpus": definition.vcpus,
        "on_crash": definition.on_crash,
        "disks": [_disk(one) for one in disks],
        "networks": [_network(one) for one in cards],
    }
    if definition.kind == "pv":
        written |= {"consoles": definition.consoles, "driver-domain": definition.driver_domain}
    return written


def _disk(disk: Disk) -> dict[str, Any]:
    written: dict[str, Any] = {"target": disk.target, "model": disk.model}
    written |= {"size": disk.size} if disk.path is None else {"path": os.fspath(disk.path)}
    if disk.readonly:
        written["readonly"] = True
    if disk.io is not None:
        written["io"] = disk.io
    if disk.model == "pv":
        written |= {"cdrom": disk.cdrom, "sector-size": disk.sector_size}
        written |= _settings(disk.notifications, disk.features, disk.backend)
    return written


def _network(one: AttachedNetwork) -> dict[str, Any]:
    card = one.network
    written: dict[str, Any] = {"model": card.model, "mac": one.lease.mac}
    if card.model == "pv":
        written |= {"mtu": card.mtu, **_settings(card.notifications, card.features, card.backend)}
    return written


def _settings(
    notifications: Notifications, features: BlockFeatures | NetFeatures, backend: str | None
) -> dict[str, Any]:
    return {
        **({} if backend is None else {"backend": backend}),
        "notification": {one.name: str(getattr(notifications, one.name)) for one in fields(notifications)},
        "features": {one.name.replace("_", "-"): getattr(features, one.name) for one in fields(features)},
    }
