"""A domain's disks on the host: leased images, and scratch images that go with the domain."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from harness.domain.definition import Disk
from harness.domain.leases import Lease
from harness.host.errors import GuestError, HostError


@dataclass(frozen=True)
class AttachedDisk:
    """A disk of the definition and the image behind it.

    :param shared: the lease belongs to somebody else, who goes on with it.
    """

    disk: Disk
    lease: Lease
    shared: bool = False

    def release(self) -> None:
        """Give up a disk that nobody uses any more; a scratch image goes, too."""
        if not self.shared:
            self.lease.release()
        if self.disk.path is None:
            self.lease.path.unlink(missing_ok=True)


def attach(
    disks: Iterable[Disk], scratch: Path, stack: ExitStack, shared_lease: Lease | None = None
) -> list[AttachedDisk]:
    """Make scratch images and take the lease of each disk.

    :param scratch: an existing directory for scratch images; one that is there already is taken as it is.
    :param stack: releases the leases.
    :param shared_lease: held by the caller, for domains that take turns on one image.
    :raise UsageError: an image does not exist, has no disk's size, or is in use.
    :raise HostError: an image cannot be made or opened.
    """
    attached = []
    for disk in disks:
        path = disk.path if disk.path is not None else _make(scratch / f"{disk.target}.img", disk.size)
        if shared_lease is not None and path.samefile(shared_lease.path):
            attached.append(AttachedDisk(disk, shared_lease, shared=True))
        else:
            one = AttachedDisk(disk, Lease(path, readonly=disk.readonly))
            stack.callback(one.lease.release)
            attached.append(one)
        if disk.model == "virtio-pmem":
            _allocate(attached[-1].lease)
    return attached


def _make(path: Path, size: int) -> Path:
    try:
        with path.open("ab") as image:
            image.truncate(size)
    except OSError as error:
        raise HostError(f"cannot make the scratch disk {path} of {size} bytes: {error.strerror}") from error
    return path


def _allocate(lease: Lease) -> None:
    """Have room for all of an image: without it, who stores into mapped memory is killed, and here that is QEMU."""
    if lease.block_device:
        return
    try:
        os.posix_fallocate(lease.descriptors[-1], 0, lease.size)
    except OSError as error:
        raise HostError(
            f"there is no room for the {lease.size} bytes of {lease.path}: {error.strerror}",
            hint="a disk of model virtio-pmem is allocated as a whole; model: virtio takes what is written",
        ) from error


def wait_for(targets: Iterable[str]) -> list[str]:
    """The command that ends when the guest has made some disks that it calls so.

    Paravirtual ones it makes when it has connected to their backends.
    """
    script = 'for disk; do until [ -b "/dev/$disk" ]; do sleep 0.02; done; done'
    return ["sh", "-c", script, "sh", *targets]


def wait_for_virtio(targets: Iterable[str]) -> list[str]:
    """The command that ends when the guest has found some virtio disks, and read their partitions."""
    script = 'for disk; do until grep -qx "$disk" /sys/block/vd*/serial 2>/dev/null; do sleep 0.02; done; done'
    return ["sh", "-c", script, "sh", *targets]


LIST_SCSI_DISKS = ["sh", "-c", "for disk in /sys/block/sd*; do readlink -f $disk; done"]
"""The command whose output tells where each SCSI disk of a guest, which IDE disks are to libata, is plugged in."""

LIST_VIRTIO_DISKS = ["sh", "-c", 'for disk in /sys/block/vd*; do echo "${disk##*/} $(cat "$disk/serial")"; done']
"""The command whose output tells the serial number of each virtio disk of a guest."""


def ide_device(target: str, listing: str) -> str:
    """The guest's device file of an IDE disk.

    Its letter follows from the order in which the guest found its disks; only the place on the bus tells which it is.

    :param target: ``hda`` to ``hdd``.
    :param listing: what ``LIST_SCSI_DISKS`` prints in the guest.
    :raise GuestError: the guest has no disk in that place.
    """
    port, unit = divmod("abcd".index(target[-1]), 2)
    place = rf"/ata{port + 1}/host\d+/target\d+:0:{unit}/[\d:]+/block/(sd[a-z]+)$"
    found = re.search(place, listing, re.MULTILINE)
    if found is None:
        raise GuestError(f"the guest has no disk {target}: nothing at unit {unit} of ata{port + 1} in {listing!r}")
    return f"/dev/{found[1]}"


def virtio_device(target: str, listing: str) -> str:
    """The guest's device file of a virtio disk.

    Its letter follows from the order in which the guest found its disks; its serial number is its target.

    :param target: ``vda`` to ``vdp``.
    :param listing: what ``LIST_VIRTIO_DISKS`` prints in the guest.
    :raise GuestError: the guest has no such disk.
    """
    found = re.search(rf"^(vd[a-z]+) {target}$", listing, re.MULTILINE)
    if found is None:
        raise GuestError(f"the guest has no disk {target}: no virtio disk with that serial number in {listing!r}")
    return f"/dev/{found[1]}"
