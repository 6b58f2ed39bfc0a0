"""The paths that can be compared, and the domains that carry them.

A domain carries one disk path and one network path. All domains of a comparison have the same kernel, the same image,
the same memory, the same raw disk image and the same bridge; only the device between them differs.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

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
    :param registers: QEMU's names of the device's register regions, where every access passes through them; a doorbell
        that is an eventfd does not, so that paths which have one are left out.
    """

    name: str
    domain: str
    kind: Kind
    model: DiskModel | None
    target: str
    registers: tuple[str, ...] = ()


@dataclass(frozen=True)
class NetworkPath:
    """A way to reach a network; fields as for a disk."""

    name: str
    domain: str
    kind: Kind
    model: NetworkModel


DevicePath = DiskPath | NetworkPath

PATHS: dict[str, DevicePath] = {
    path.name: path
    for path in (
        DiskPath("ide", "emulated", "hvm", "ide", "hda", registers=("ide", "piix-bmdma", "bmdma")),
        DiskPath("pv-block", "paravirtual", "pv", "pv", "xvda"),
        DiskPath("virtio-blk", "virtio", "hvm", "virtio", "vda"),
        DiskPath("null-blk", "paravirtual", "pv", None, "nullb0"),
        NetworkPath("ne2000", "emulated", "hvm", "ne2000"),
        NetworkPath("pv-net", "paravirtual", "pv", "pv"),
        NetworkPath("virtio-net", "virtio", "hvm", "virtio"),
        NetworkPath("e1000", "e1000", "hvm", "e1000"),
    )
}
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
    """The domains that carry these paths.

    :param image: the raw disk image that all disk paths lead to.
    """
    found = []
    for domain in dict.fromkeys(path.domain for path in paths):
        carried = [path for path in paths if path.domain == domain]
        size = image.stat().st_size
        found.append(
            Definition(
                name=f"compare-{domain}",
                kind=carried[0].kind,
                image=IMAGE,
                memory=MEMORY,
                vcpus=1,
                disks=tuple(
                    Disk(p.target, p.model, image, size) for p in carried if isinstance(p, DiskPath) and p.model
                ),
                networks=tuple(Network(p.model) for p in carried if isinstance(p, NetworkPath)),
                file=image,
            )
        )
    return found
