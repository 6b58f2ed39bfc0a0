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
from harness.host.errors import GuestGone
from harness.hypervisor.layout import GRANTEE, GRANTER, GUEST_CONSOLE_PORT, GUEST_STORE_PORT
from harness.hypervisor.link import Link
from harness.store.client import StoreClient
from harness.store.errors import StoreError
from harness.store.paths import home

BLOCK_SCRIPT = "/etc/xen/scripts/block"
VIF_SCRIPT = "/etc/xen/scripts/vif-bridge"
"""Where Xen's hotplug scripts are. What they would do in a driver domain, the harness does there through the agent."""

END_NAMES = {GRANTER: "granter", GRANTEE: "grantee"}
"""What a domain is told that it is on a link."""

CONSOLE_LIMIT = 1 << 20
"""Bytes of console output that Domain 0 keeps."""


@dataclass(frozen=True)
class Description:
    """What the toolstack says about a paravirtual domain.

    :param memory_kib: its RAM.
    :param driver_domain: it may have back ends for other domains.
    """

    name: str
    uuid: str
    memory_kib: int
    vcpus: int
    kernel: Path
    ramdisk: Path
    cmdline: str
    driver_domain: bool = False


@dataclass(frozen=True)
class Storage:
    """A disk as a driver domain has it, when the hotplug script there has prepared it.

    :param backend_domid: of the driver domain.
    :param device: the block device that it is there, such as ``/dev/vda`` or ``/dev/loop0``.
    :param number: that device's number, major and minor.
    """

    backend_domid: int
    device: str
    number: tuple[int, int]


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
    # Somebody may have plugged in a link while an earlier one with this number ended.
    if nodes.exists(f"{base}/link"):
        nodes.rm(f"{base}/link")
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
    if description.driver_domain:
        # Its back ends are announced here, and it may always look. The others are for a toolstack of its own.
        nodes.mkdir(f"{base}/backend")
        for name in ("libxl", "device-model"):
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


def add_link(store: StoreClient, domid: int, slot: int, end: int, other: int) -> None:
    """Tell a domain who is at the other end of a link that has been plugged in; until then it does not use it.

    The link's own memory says so, too, but whoever is at the other end can write there.

    :param slot: where on the PCI bus the link is.
    :param end: where on the link the domain is.
    :param other: the domain at the other end.
    :raise GuestGone: the domain has ended.
    """
    path = _link_node(domid, slot)

    def change(nodes: Nodes) -> None:
        if not nodes.exists(home(domid)):
            raise GuestGone(f"domain {domid} has ended")
        nodes.write(path, f"{END_NAMES[end]} {other}")
        nodes.set_perms(path, Permissions(domid).readable)

    store.transact(change)


def remove_link(store: StoreClient, domid: int, slot: int) -> None:
    """Forget who is at the other end of a link, before it is unplugged: afterwards the slot may be another's.

    A guest that does not let go of the link may go on to use it.
    """
    try:
        store.rm(_link_node(domid, slot))
    except StoreError as error:
        # It went with the domain.
        if error.name != "ENOENT":
            raise


def _link_node(domid: int, slot: int) -> str:
    return f"{home(domid)}/link/{slot:02x}"


def _add_device(
    store: StoreClient,
    device: Device,
    frontend: Mapping[str, str],
    backend: Mapping[str, str],
    *,
    guest_owns: Collection[str] = (),
    guest_reads: Collection[str] = (),
    by_script: Mapping[str, str] | None = None,
    again: bool = False,
) -> None:
    """Write both ends of a device, and what the toolstack remembers of it.

    :param guest_owns: the only frontend nodes that the guest may change, if there are any such; else it may change all,
    :param guest_reads: except these.
    :param by_script: backend nodes that were not asked for but found out, which the toolstack does not remember.
    :param again: the driver domain has died and come back: the device is there, and only gets its backend again.
    """
    permissions = Permissions(device.domid, device.backend_domid)
    backend = {"frontend": device.frontend, **backend}
    frontend = {"backend": device.backend, "backend-id": str(device.backend_domid), **frontend}

    def change(nodes: Nodes) -> None:
        remembered = {"frontend": device.frontend, "backend": device.backend, **backend}
        make_node(nodes, device.backend, permissions.backend, {**backend, **(by_script or {})})
        if again:
            _admit_again(nodes, device.frontend, permissions.frontend)
        else:
            make_node(nodes, device.toolstack, permissions.private, remembered)
            make_node(nodes, device.frontend, permissions.backend if guest_owns else permissions.frontend, frontend)
        for name in guest_owns:
            nodes.set_perms(f"{device.frontend}/{name}", permissions.frontend)
        for name in guest_reads:
            # They were the driver domain's, if there is one, and went with it.
            nodes.write(f"{device.frontend}/{name}", frontend[name])
            nodes.set_perms(f"{device.frontend}/{name}", permissions.backend)

    store.transact(change)


def remove_backend(store: StoreClient, device: Device) -> None:
    """Have the backend of a device go, as if its domain had died: the frontend waits for another one.

    One that is told by other means to go says that it has closed, and the frontend would close, too.
    """
    try:
        store.rm(device.backend)
    except StoreError as error:
        # It went with its domain.
        if error.name != "ENOENT":
            raise


def _admit_again(nodes: Nodes, path: str, permissions: list[str]) -> None:
    """Let the backend's domain, which has come back under its number, read a frontend.

    What the dead one might read the store has taken from the number: as far as it knows, this is somebody else.
    """
    nodes.set_perms(path, permissions)
    for name in nodes.directory(path):
        _admit_again(nodes, f"{path}/{name}", permissions)


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
    storage: Storage | None = None,
    again: bool = False,
) -> Device:
    """Make a disk.

    :param target: its name in the guest, such as ``xvda``.
    :param path: the image, as its domain was told to have it.
    :param cdrom: the guest is to see a CD-ROM drive; it cannot write to it.
    :param sector_size: bytes of a logical sector.
    :param storage: what it is in the driver domain that serves it; None if Domain 0 does.
    :param again: that has died and come back, and the guest has the disk still: only the backend's nodes are missing.
    :raise UsageError: there is no such name.
    """
    device = Device("vbd", domid, disk_number(target), storage.backend_domid if storage else 0)
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
            **({"script": BLOCK_SCRIPT} if storage else {}),
            **_common_backend_nodes(device),
            "removable": "1" if cdrom else "0",
            "bootable": "1",
            "state": initial,
            "dev": target,
            "type": "phy" if storage else "file",
            "mode": "r" if readonly else "w",
            "device-type": kind,
            "discard-enable": "1",
            "specification": "xen",
            **for_backend,
            **({"discard-enable": "0"} if readonly else {}),
        },
        by_script=_block_script_nodes(storage) if storage else {},
        again=again,
    )
    return device


def _block_script_nodes(storage: Storage) -> dict[str, str]:
    """What the hotplug script of a disk writes in a driver domain; numbers are hexadecimal."""
    major, minor = storage.number
    return {
        "physical-device": f"{major:x}:{minor:x}",
        "physical-device-path": storage.device,
        "hotplug-status": "connected",
    }


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
    backend_domid: int = 0,
    again: bool = False,
) -> Device:
    """Make a network interface.

    :param mac: six hexadecimal bytes separated by colons.
    :param bridge: the bridge that it is plugged into, in the domain that serves it.
    :param backend_domid: that domain; a driver domain says when it has plugged it in, see :func:`vif_is_plugged`.
    :param again: as for :func:`add_vbd`.
    """
    device = Device("vif", domid, devid, backend_domid)
    initial = str(XenbusState.INITIALISING.value)
    for_frontend, for_backend = nodes(features, notifications)
    _add_device(
        store,
        device,
        {"state": initial, "handle": str(devid), "mac": mac, "trusted": "1", "mtu": str(mtu), **for_frontend},
        {
            **_common_backend_nodes(device),
            "state": initial,
            **({"script": VIF_SCRIPT} if backend_domid else {}),
            "mac": mac,
            "bridge": bridge,
            "handle": str(devid),
            "type": "vif",
            **for_backend,
        },
        guest_reads=("mtu",),
        again=again,
    )
    return device


def vif_is_plugged(store: StoreClient, device: Device) -> None:
    """Note that the hotplug script has made an interface a port of its bridge."""
    store.write(f"{device.backend}/hotplug-status", "connected")


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
