"""What Xen's toolstack writes: the nodes of a domain and of its devices, and their removal.

Keys, their order and their permissions are those of a real Xen system, so that its tools feel at home. Everything that
belongs together is written in one transaction: a guest sees a device whole, or not at all.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from harness.bus.devices import Device, disk_number
from harness.bus.features import (
    ADAPTIVE,
    ALL_BLOCK,
    ALL_NET,
    SECTOR_SIZES,
    BlockFeatures,
    NetFeatures,
    Notifications,
    nodes,
)
from harness.bus.nodes import Nodes
from harness.bus.tree import Permissions, make_node
from harness.bus.xenbus import XenbusState
from harness.hypervisor.layout import GUEST_CONSOLE_PORT, GUEST_STORE_PORT
from harness.hypervisor.link import Link
from harness.store.client import StoreClient
from harness.store.errors import StoreError
from harness.store.paths import home

CONSOLE_LIMIT = 1 << 20
"""Bytes of console output that Domain 0 keeps."""


@dataclass(frozen=True)
class Description:
    """What the toolstack says about a paravirtual domain.

    :param memory_kib: its RAM.
    """

    name: str
    uuid: str
    memory_kib: int
    vcpus: int
    kernel: Path
    ramdisk: Path
    cmdline: str


def add_domain(store: StoreClient, domid: int, link: Link, description: Description) -> None:
    """Introduce a domain and write its nodes.

    The domain belongs to the connection from its introduction on, so that nothing is left when its owner dies here.
    """
    layout = link.layout
    store.introduce(domid, layout.store_frame, GUEST_STORE_PORT, link.store_fds())

    def change(nodes: Nodes) -> None:
        _write_domain(nodes, domid, description)
        _write_vm(nodes, domid, description)
        permissions = Permissions(domid)
        make_node(
            nodes,
            f"{home(domid)}/store",
            permissions.readable,
            {"port": str(GUEST_STORE_PORT), "ring-ref": str(layout.store_frame)},
        )
        nodes.mkdir(f"/libxl/{domid}/device")
        make_node(nodes, f"/libxl/{domid}", permissions.private, {"type": "pv", "dm-version": "qemu_xen"})

    try:
        store.transact(change)
    except BaseException:
        store.release(domid)
        raise


def _write_domain(nodes: Nodes, domid: int, description: Description) -> None:
    base, permissions = home(domid), Permissions(domid)
    memory = str(description.memory_kib)
    make_node(nodes, base, permissions.readable, {"vm": f"/vm/{description.uuid}", "name": description.name})
    for cpu in range(description.vcpus):
        nodes.write(f"{base}/cpu/{cpu}/availability", "online")
    for name, value in (("static-max", memory), ("target", memory), ("videoram", "0")):
        nodes.write(f"{base}/memory/{name}", value)
    nodes.mkdir(f"{base}/device")
    make_node(nodes, f"{base}/device/suspend/event-channel", permissions.guest)
    nodes.mkdir(f"{base}/control")
    for name in ("shutdown", "feature-poweroff", "feature-reboot", "feature-suspend", "sysrq"):
        make_node(nodes, f"{base}/control/{name}", permissions.guest)
    for name in ("platform-feature-multiprocessor-suspend", "platform-feature-xs_reset_watches"):
        nodes.write(f"{base}/control/{name}", "1")
    for name in ("data", "drivers", "feature", "attr", "error"):
        make_node(nodes, f"{base}/{name}", permissions.guest)
    nodes.write(f"{base}/domid", str(domid))


def _write_vm(nodes: Nodes, domid: int, description: Description) -> None:
    base = f"/vm/{description.uuid}"
    make_node(nodes, base, Permissions(domid).readable, {"name": description.name, "uuid": description.uuid})
    image = {
        "ostype": "linux",
        "kernel": str(description.kernel),
        "ramdisk": str(description.ramdisk),
        "cmdline": description.cmdline,
    }
    for name, value in image.items():
        nodes.write(f"{base}/image/{name}", value)
    nodes.write(f"{base}/start_time", f"{time.time():.2f}")


def remove_domain(store: StoreClient, domid: int) -> None:
    """Release a domain: the store removes its nodes and those of its devices, and tells whoever watches for that."""
    store.release(domid)
    for kind in ("vbd", "vif", "console"):
        # What backends have reported about it is of no use to who gets its number next.
        with suppress(StoreError):
            store.rm(f"{home(0)}/error/backend/{kind}/{domid}")


def _add_device(
    store: StoreClient,
    device: Device,
    frontend: Mapping[str, str],
    backend: Mapping[str, str],
    *,
    guest_owns: Collection[str] = (),
    guest_reads: Collection[str] = (),
) -> None:
    """Write both ends of a device, and what the toolstack remembers of it.

    :param guest_owns: the only frontend nodes that the guest may change, if there are any such; else it may change all,
    :param guest_reads: except these.
    """
    permissions = Permissions(device.domid, device.backend_domid)
    backend = {"frontend": device.frontend, **backend}
    frontend = {"backend": device.backend, "backend-id": str(device.backend_domid), **frontend}

    def change(nodes: Nodes) -> None:
        remembered = {"frontend": device.frontend, "backend": device.backend, **backend}
        make_node(nodes, device.toolstack, permissions.private, remembered)
        make_node(nodes, device.frontend, permissions.readable if guest_owns else permissions.frontend, frontend)
        for name in guest_owns:
            nodes.set_perms(f"{device.frontend}/{name}", permissions.frontend)
        for name in guest_reads:
            nodes.set_perms(f"{device.frontend}/{name}", permissions.readable)
        make_node(nodes, device.backend, permissions.backend, backend)

    store.transact(change)


def _common_backend_nodes(device: Device) -> dict[str, str]:
    return {"frontend-id": str(device.domid), "online": "1"}


def add_vbd(
    store: StoreClient,
    domid: int,
    target: str,
    path: Path,
    *,
    readonly: bool = False,
    cdrom: bool = False,
    sector_size: int = SECTOR_SIZES[0],
    features: BlockFeatures = ALL_BLOCK,
    notifications: Notifications = ADAPTIVE,
) -> Device:
    """Make a disk.

    :param target: its name in the guest, such as ``xvda``.
    :param path: the image file.
    :param cdrom: the guest is to see a CD-ROM drive; it cannot write to it.
    :param sector_size: bytes of a logical sector.
    :raise UsageError: there is no such name.
    """
    device = Device("vbd", domid, disk_number(target))
    initial = str(XenbusState.INITIALISING.value)
    kind = "cdrom" if cdrom else "disk"
    readonly = readonly or cdrom
    for_frontend, for_backend = nodes(features, notifications)
    if sector_size != SECTOR_SIZES[0]:
        for_backend["sector-size"] = str(sector_size)
    _add_device(
        store,
        device,
        {
            "state": initial,
            "virtual-device": str(device.devid),
            "device-type": kind,
            "trusted": "1",
            **for_frontend,
        },
        {
            "params": str(path),
            **_common_backend_nodes(device),
            "removable": "1" if cdrom else "0",
            "bootable": "1",
            "state": initial,
            "dev": target,
            "type": "file",
            "mode": "r" if readonly else "w",
            "device-type": kind,
            "discard-enable": "1",
            "specification": "xen",
            **for_backend,
            **({"discard-enable": "0"} if readonly else {}),
        },
    )
    return device


def add_vif(
    store: StoreClient,
    domid: int,
    devid: int,
    mac: str,
    bridge: str,
    *,
    mtu: int = 1500,
    features: NetFeatures = ALL_NET,
    notifications: Notifications = ADAPTIVE,
) -> Device:
    """Make a network interface.

    :param mac: six hexadecimal bytes separated by colons.
    :param bridge: the bridge in Domain 0 that it is plugged into.
    """
    device = Device("vif", domid, devid)
    initial = str(XenbusState.INITIALISING.value)
    for_frontend, for_backend = nodes(features, notifications)
    _add_device(
        store,
        device,
        {"state": initial, "handle": str(devid), "mac": mac, "trusted": "1", "mtu": str(mtu), **for_frontend},
        {
            **_common_backend_nodes(device),
            "state": initial,
            "mac": mac,
            "bridge": bridge,
            "handle": str(devid),
            "type": "vif",
            **for_backend,
        },
        guest_reads=("mtu",),
    )
    return device


def add_further_console(store: StoreClient, domid: int, number: int) -> Device:
    """Make a console that the guest finds through XenBus, as all but the first are.

    :param number: from 1 on.
    """
    device = Device("console", domid, number)
    initial = str(XenbusState.INITIALISING.value)
    _add_device(
        store,
        device,
        {"state": initial, "limit": str(CONSOLE_LIMIT), "type": "xenconsoled", "output": "pty", "tty": ""},
        {**_common_backend_nodes(device), "state": initial, "protocol": "vt100"},
    )
    return device


def add_console(store: StoreClient, domid: int, link: Link) -> Device:
    """Make the first console, whose page and port the guest knows from its start info."""
    device = Device("console", domid, 0)
    _add_device(
        store,
        device,
        {
            "limit": str(CONSOLE_LIMIT),
            "type": "xenconsoled",
            "output": "pty",
            "tty": "",
            "port": str(GUEST_CONSOLE_PORT),
            "ring-ref": str(link.layout.console_frame),
        },
        {**_common_backend_nodes(device), "state": str(XenbusState.INITIALISING.value), "protocol": "vt100"},
        guest_owns=("backend-id",),
    )
    return device
