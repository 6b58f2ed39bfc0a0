"""The paths that can be compared, and the domains that carry them.

A domain carries one disk path and one network path. All domains of a comparison have the same kernel, the same image,
the same memory, the same raw disk image and the same bridge; only the device between them differs. With ``@driver`` the
backend is in a driver domain, which has the image in its memory (virtio-pmem; with ``-blk`` behind it, through
virtio-blk) and the bridge through virtio; with a number behind that, so many domains use it at once, each with a disk
of its own there.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from harness.bus.features import Notification
from harness.domain.definition import Definition, Disk, DiskIo, DiskModel, Kind, Network, NetworkModel
from harness.host.errors import UsageError

IMAGE = "minimal"
MEMORY = 256
DRIVER = "compare-driver"
"""The name of the driver domain."""
ISOLATED = "isolated"
LOWER: dict[DiskModel, str] = {"virtio-pmem": "pmem0", "virtio": "vda"}
"""The targets of the image in the driver domain, by the model of the disk."""
SHARED_DISK = 256 << 20
"""Bytes of each disk when several domains share the driver domain."""


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
    :param io: who does the I/O of a ``virtio`` disk, as in a definition; that of the driver domain is ``inline``.
    :param driver: the backend is in the driver domain.
    :param lower: the model of the driver domain's own disk.
    :param clients: how many domains use this path at once; the others are called as the first, with a number.
    """

    name: str
    domain: str
    kind: Kind
    model: DiskModel | None
    target: str
    notification: Notification | None = None
    registers: tuple[str, ...] = ()
    io: DiskIo | None = None
    driver: bool = False
    lower: DiskModel = "virtio-pmem"
    clients: int = 1


@dataclass(frozen=True)
class NetworkPath:
    """A way to reach a network; fields as for a disk."""

    name: str
    domain: str
    kind: Kind
    model: NetworkModel
    notification: Notification | None = None
    driver: bool = False
    clients: int = 1


DevicePath = DiskPath | NetworkPath

PATHS: dict[str, DevicePath] = {
    path.name: path
    for path in (
        DiskPath("ide", "emulated", "hvm", "ide", "hda", registers=("ide", "piix-bmdma", "bmdma")),
        DiskPath("pv-block", "paravirtual", "pv", "pv", "xvda"),
        DiskPath("pv-block-event", "paravirtual", "pv", "pv", "xvdb", Notification.EVENT),
        DiskPath("pv-block-poll", "paravirtual", "pv", "pv", "xvdb", Notification.POLL),
        DiskPath("pv-block@driver", ISOLATED, "pv", "pv", "xvda", driver=True),
        DiskPath("pv-block@driver-blk", ISOLATED, "pv", "pv", "xvdc", driver=True, lower="virtio"),
        DiskPath("pv-block@driver-2", ISOLATED, "pv", "pv", "xvdb", driver=True, clients=2),
        DiskPath("pv-block@driver-4", ISOLATED, "pv", "pv", "xvdb", driver=True, clients=4),
        DiskPath("virtio-blk", "virtio", "hvm", "virtio", "vda"),
        DiskPath("virtio-blk-inline", "virtio", "hvm", "virtio", "vdb", io="inline"),
        DiskPath("virtio-pmem", "virtio", "hvm", "virtio-pmem", "pmem0"),
        DiskPath("null-blk", "paravirtual", "pv", None, "nullb0"),
        NetworkPath("ne2000", "emulated", "hvm", "ne2000"),
        NetworkPath("pv-net", "paravirtual", "pv", "pv"),
        NetworkPath("pv-net-event", "paravirtual", "pv", "pv", Notification.EVENT),
        NetworkPath("pv-net-poll", "paravirtual", "pv", "pv", Notification.POLL),
        NetworkPath("pv-net@driver", ISOLATED, "pv", "pv", driver=True),
        NetworkPath("pv-net@driver-2", ISOLATED, "pv", "pv", driver=True, clients=2),
        NetworkPath("pv-net@driver-4", ISOLATED, "pv", "pv", driver=True, clients=4),
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


def domains(path: DevicePath) -> list[str]:
    """The names of the domains that carry a path."""
    return [_name(path.domain, client) for client in range(path.clients)]


def _name(domain: str, client: int) -> str:
    return f"compare-{domain}" if client == 0 else f"compare-{domain}-{client + 1}"


def definitions(paths: list[DevicePath], image: Path) -> list[Definition]:
    """The domains that carry these paths, with the devices that are there all the time; driver domains come first.

    :param image: the raw disk image that all disk paths lead to.
    """
    found = []
    if any(path.driver for path in paths):
        found.append(_driver_domain(paths, image))
    for domain in dict.fromkeys(path.domain for path in paths):
        carried = [path for path in paths if path.domain == domain]
        for client in range(max(path.clients for path in carried)):
            disks = tuple(
                disk
                for path in carried
                if isinstance(path, DiskPath) and client < path.clients
                for disk in _disks(path, client, image)
            )
            found.append(
                Definition(
                    name=_name(domain, client),
                    kind=carried[0].kind,
                    image=IMAGE,
                    memory=MEMORY,
                    vcpus=1,
                    disks=tuple({disk.target: disk for disk in disks}.values()),
                    networks=_networks(carried, client),
                    file=image,
                )
            )
    return found


def _disks(path: DiskPath, client: int, image: Path) -> list[Disk]:
    """The disk of a path in one of its domains, if it is there all the time."""
    if path.notification is not None or path.model is None:
        return []
    if not path.driver:
        return [Disk(path.target, path.model, image, image.stat().st_size, io=path.io)]
    # Those that are shared out are behind the driver domain's first, which is the image.
    device = f"pmem{1 + client}" if path.clients > 1 else LOWER[path.lower]
    return [Disk(path.target, path.model, Path("/dev", device), 0, backend=DRIVER)]


def _networks(carried: list[DevicePath], client: int) -> tuple[Network, ...]:
    # One card in any case: the far end is found by it.
    cards = [path for path in carried if isinstance(path, NetworkPath) and client < path.clients]
    return tuple({path.model: Network(path.model, backend=DRIVER if path.driver else None) for path in cards}.values())


def _driver_domain(paths: list[DevicePath], image: Path) -> Definition:
    carried = [path for path in paths if isinstance(path, DiskPath) and path.driver]
    sharing = max((path.clients for path in carried if path.clients > 1), default=0)
    models = dict.fromkeys(["virtio-pmem", *(path.lower for path in carried)])
    image_disks = [Disk(LOWER[model], model, image, image.stat().st_size) for model in models]
    shared = [Disk(f"pmem{1 + client}", "virtio-pmem", None, SHARED_DISK) for client in range(sharing)]
    return Definition(
        name=DRIVER,
        kind="pv",
        image=IMAGE,
        memory=MEMORY,
        vcpus=1,
        disks=(*image_disks, *shared),
        networks=(Network("virtio"),),
        file=image,
        driver_domain=True,
    )
