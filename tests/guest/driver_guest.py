"""A driver domain whose kernel serves disks to a frontend in Python: the other end of its link is the test's."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

from harness.bus import toolstack
from harness.bus.devices import Device
from harness.bus.toolstack import Storage
from harness.domain import disks
from harness.domain.domain import Domain
from harness.hypervisor.layout import GRANTEE, GRANTER, LINK_PORTS
from harness.hypervisor.link import Link
from harness.machine import command_line, loop
from harness.store.client import StoreClient
from tests.guest import links
from tests.unit.backend_guest import GuestSide
from tests.unit.blockfront import SECTORS

FRONTEND_DOMID = 900
"""No domain has it: the test plays this one."""

DISKS = 6
SIZE = SECTORS * 512

DEBUGGING = ("slub_debug=FZP", "page_poison=1", "panic_on_warn=1")
"""Kernel parameters under which what is done to the memory of others, or only looks wrong, ends the domain."""

_COMPLAINT = re.compile(rb"BUG:|WARNING:|Oops|Call Trace|hung task|grants have been left mapped")


@contextmanager
def debugging() -> Iterator[None]:
    """Domains that start meanwhile do so with :data:`DEBUGGING`."""
    with patch.object(command_line, "KERNEL_ARGUMENTS", (*command_line.KERNEL_ARGUMENTS, *DEBUGGING)):
        yield


class DriverGuest(GuestSide):
    """The frontend's domain, and the driver domain's disks, which take turns as what its disks are kept on.

    :param domain: a paravirtual guest, running.
    :param directory: for the images.
    """

    def __init__(self, domain: Domain, link: Link, store: StoreClient, directory: Path) -> None:
        # Port 1 is the store's on other links, and nobody's here.
        super().__init__(link, store, link.layout.domid[GRANTER], ports=range(2, LINK_PORTS))
        self.domain = domain
        self._images = [directory / f"disk{number}.img" for number in range(DISKS)]
        self._next = 0

    def plug_disks(self) -> None:
        """Give the driver domain its disks."""
        for number, image in enumerate(self._images):
            image.write_bytes(bytes(SIZE))
            self._plug(f"back{number}", image)

    def _plug(self, serial: str, image: Path) -> None:
        file = {"driver": "file", "filename": str(image), "locking": "off"}
        node = {"driver": "raw", "node-name": serial, "file": file, "discard": "unmap"}
        loop.run(self.domain.parts.qemu.execute("blockdev-add", node))
        device = {"driver": "virtio-blk-pci", "id": f"{serial}-card", "drive": serial, "serial": serial}
        loop.run(self.domain.parts.qemu.execute("device_add", {**device, "discard": True}))
        script = 'until cat /sys/block/vd*/serial 2>/dev/null | grep -q "$1"; do sleep 0.02; done'
        self.domain.execute(["sh", "-c", script, "sh", serial]).check()

    def device_file(self, number: int) -> str:
        """What the driver domain calls one of its disks."""
        return disks.virtio_device(f"back{number}", self.domain.execute(disks.LIST_VIRTIO_DISKS).check().text)

    def resize(self, number: int, size: int) -> None:
        """Give one of the driver domain's disks another size, and wait until its kernel knows."""
        loop.run(self.domain.parts.qemu.execute("block_resize", {"node-name": f"back{number}", "size": size}))
        name = self.device_file(number).removeprefix("/dev/")
        script = 'until [ "$(cat /sys/block/$1/size)" = "$2" ]; do sleep 0.02; done'
        self.domain.execute(["sh", "-c", script, "sh", name, str(size // 512)]).check()

    def take(self, image: Path) -> int:
        """The next of the driver domain's disks, with an image's contents; the image is that disk from now on."""
        number = self._next
        self._next = (number + 1) % DISKS
        disk = self._images[number]
        if not (image.is_symlink() and image.samefile(disk)):
            with image.open("rb") as source, disk.open("r+b") as target:
                shutil.copyfileobj(source, target)
        if not image.is_symlink():
            image.unlink()
            image.symlink_to(disk)
        return number

    def add_disk(self, target: str, image: Path, **disk: Any) -> Device:  # noqa: ANN401 - as the base's
        return self.add_storage(target, self.device_file(self.take(image)), **disk)

    def add_storage(self, target: str, device: str, **disk: Any) -> Device:  # noqa: ANN401 - likewise
        """A disk that is kept on a device of the driver domain."""
        storage = Storage(self.domain.domid, device, (0, 0))
        return toolstack.add_vbd(self.store, self.domid, target, Path(device), storage=storage, **disk)

    def remove_disk(self, device: Device) -> None:
        super().remove_disk(device)
        self.store.rm(device.toolstack)

    def check_backend(self) -> None:
        found = _COMPLAINT.search(self.domain.execute(["dmesg"]).check().stdout)
        assert not found, found

    def statistics(self, device: Device) -> dict[str, int]:
        """What the backend has counted."""
        path = f"/sys/bus/pvbus/devices/backend-vbd-{self.domid}-{device.devid}/statistics"
        lines = self.domain.read_file(path).decode().splitlines()
        return {name: int(value) for name, value in (line.split() for line in lines)}

    def unplug(self) -> None:
        """Take the link out of the driver domain's machine."""
        links.unplug(self.domain, _name(self.domid))


def _name(domid: int) -> str:
    return f"frontend{domid}"


@contextmanager
def plugged(domain: Domain, directory: Path, domid: int = FRONTEND_DOMID) -> Iterator[DriverGuest]:
    """Plug a link into a running domain, at whose other end the test is."""
    with ExitStack() as stack:
        link = stack.enter_context(Link.between(domid, domain.domid, size=16 << 20))
        links.plug(domain, _name(domid), link, GRANTEE)
        store = stack.enter_context(StoreClient.connect())
        yield DriverGuest(domain, link, store, directory)


@contextmanager
def driver_guest(domain: Domain, directory: Path) -> Iterator[DriverGuest]:
    """As :func:`plugged`, with disks; all is let go of and well in the end."""
    with plugged(domain, directory) as guest:
        guest.plug_disks()
        yield guest
        assert guest.mapped() == 0
        guest.unplug()
        guest.check_backend()
