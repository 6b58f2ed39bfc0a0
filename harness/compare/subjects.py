"""The paths that can be compared, and the domains that carry them.

A domain carries one disk path and one network path. All domains of a comparison have the same kernel, the same image,
the same memory, the same raw disk image and the same bridge; only the device between them differs.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from harness.bus.features import Notification
from harness.domain.definition import Definition, Disk, DiskModel, Kind, Network, NetworkModel
from harness.host.errors import UsageError

IMAGE = "minimal"
MEMORY = 256


@dataclass(frozen=True)
class DiskPath:
    """A way to reach a disk.

    :param domain: name of the domain that carries it.
    :param kind: of that domain.
    :param target: the disk's name in the guest.
    :param model: None: the guest's own null_blk, a disk without a device. Nothing in this guest can be faster.
    :param notification: the strategy of both ends; such a disk is plugged in only while it is measured, since one whose
        ends poll would disturb all others.
    :param registers: QEMU's names of the device's register regions, where every access passes through them; a doorbell
        that is an eventfd does not, so that paths which have one are left out.
    """

    name: str
    domain: str
    kind: Kind
    model: DiskModel | None
    target: str
    notification: Notification | None = None
    registers: tuple[str, ...] = ()


@dataclass(frozen=True)
class NetworkPath:
    """A way to reach a network; fields as for a disk."""

    name: str
    domain: str
    kind: Kind
    model: NetworkModel
    notification: Notification | None = None


DevicePath = DiskPath | NetworkPath

PATHS: dict[str, DevicePath] = {
    path.name: path
    for path in (
        DiskPath("ide", "emulated", "hvm", "ide", "hda", registers=("ide", "piix-bmdma", "bmdma")),
        DiskPath("pv-block", "paravirtual", "pv", "pv", "xvda"),
        DiskPath("pv-block-event", "paravirtual", "pv", "pv", "xvdb", Notification.EVENT),
        DiskPath("pv-block-poll", "paravirtual", "pv", "pv", "xvdb", Notification.POLL),
        DiskPath("virtio-blk", "virtio", "hvm", "virtio", "vda"),
        DiskPath("null-blk", "paravirtual", "pv", None, "nullb0"),
        NetworkPath("ne2000", "emulated", "hvm", "ne2000"),
        NetworkPath("pv-net", "paravirtual", "pv", "pv"),
        NetworkPath("pv-net-event", "paravirtual", "pv", "pv", Notification.EVENT),
        NetworkPath("pv-net-poll", "paravirtual", "pv", "pv", Notification.POLL),
        NetworkPath("virtio-net", "virtio", "hvm", "virtio"),
        NetworkPath("e1000", "e1000", "hvm", "e1000"),
    )
}
STRATEGIES = tuple(
    {
        Notification.ADAPTIVE: adaptive,
        Notification.EVENT: f"{adaptive}-event",
        Notification.POLL: f"{adaptive}-poll",
    }
    for adaptive in ("pv-block", "pv-net")
)
"""The paths that differ in nothing but the strategy."""
DEFAULT = ("ide", "pv-block", "virtio-blk", "ne2000", "pv-net", "virtio-net")


def chosen(names: list[str]) -> list[DevicePath]:
    """The paths with these names, in that order.

    :raise UsageError: one of them does not exist.
    """
    unknown = [name for name in names if name not in PATHS]
    if unknown:
        raise UsageError(f"there is no path called {unknown[0]}", hint=f"paths: {', '.join(PATHS)}")
    return [PATHS[name] for name in dict.fromkeys(names)]


def definitions(paths: list[DevicePath], image: Path) -> list[Definition]:
    """The domains that carry these paths, with the devices that are there all the time.

    :param image: the raw disk image that all disk paths lead to.
    """
    found = []
    for domain in dict.fromkeys(path.domain for path in paths):
        carried = [path for path in paths if path.domain == domain]
        lasting = [path for path in carried if path.notification is None]
        size = image.stat().st_size
        found.append(
            Definition(
                name=f"compare-{domain}",
                kind=carried[0].kind,
                image=IMAGE,
                memory=MEMORY,
                vcpus=1,
                disks=tuple(
                    Disk(p.target, p.model, image, size) for p in lasting if isinstance(p, DiskPath) and p.model
                ),
                # One card in any case: the far end is found by it.
                networks=tuple(
                    Network(m) for m in dict.fromkeys(p.model for p in carried if isinstance(p, NetworkPath))
                ),
                file=image,
            )
        )
    return found
