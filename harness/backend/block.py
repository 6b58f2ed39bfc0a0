"""The backend of a virtual disk: what it offers to the frontend, and how it connects to one."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack

from harness.backend.block_ring import MAX_INDIRECT_SEGMENTS, BlockRing
from harness.backend.frontend import Frontend
from harness.backend.image import Image
from harness.backend.loop import Loop
from harness.backend.mappings import Mappings
from harness.bus.nodes import read_or_none
from harness.bus.xenbus import BackendDevice
from harness.host.errors import GuestError, HostError
from harness.hypervisor.link import LinkEnd
from harness.ring.blkif import SECTOR_SIZE, VDISK_CDROM, VDISK_READONLY, VDISK_REMOVABLE

NATIVE_PROTOCOL = "x86_64-abi"


class BlockDevice:
    """A ``vbd``."""

    def __init__(self, device: BackendDevice, link: LinkEnd, loop: Loop) -> None:
        self._device = device
        self._link = link
        self._loop = loop
        self._connection = ExitStack()
        self._image: Image | None = None

    def features(self) -> Mapping[str, str]:
        """Open the image; what to publish before the frontend connects.

        :raise HostError: the image cannot be used.
        """
        self._open()
        return {
            "feature-flush-cache": "1",
            "feature-barrier": "1",
            "feature-persistent": "1",
            "feature-max-indirect-segments": str(MAX_INDIRECT_SEGMENTS),
            "max-ring-page-order": "0",
            "multi-queue-max-queues": "1",
            "hotplug-status": "connected",
        }

    def connect(self, frontend: str) -> Mapping[str, str]:
        """Attach to the frontend's ring; what to publish with the state Connected.

        :raise HarnessError: what the frontend has written makes no sense, or the image cannot be used.
        """
        front, image = Frontend(self._device.store, frontend), self._open()
        protocol = front.text("protocol", NATIVE_PROTOCOL)
        if protocol != NATIVE_PROTOCOL:
            raise GuestError(f"{frontend}/protocol is {protocol!r}: only {NATIVE_PROTOCOL} is spoken here")
        front.require_default("ring-page-order", 0)
        front.require_default("multi-queue-num-queues", 1)
        with ExitStack() as connection:
            page = front.map(connection, self._link, "ring-ref")
            port = front.bind(connection, self._link, "event-channel")
            mappings = Mappings(self._link.grants, persistent=front.flag("feature-persistent"))
            connection.callback(mappings.close)
            ring = BlockRing(self._link, image, mappings, page, port)
            self._loop.add(ring, self._device.fail)
            connection.callback(self._loop.remove, ring)
            self._connection = connection.pop_all()
        return {
            "sectors": str(image.sectors),
            "info": str(self._info(image)),
            "sector-size": str(SECTOR_SIZE),
            "physical-sector-size": str(SECTOR_SIZE),
        }

    def disconnect(self) -> None:
        """Let go of everything that is the frontend's, and of the image; may be called again."""
        self._connection.close()
        if self._image is not None:
            self._image.close()
            self._image = None

    def _open(self) -> Image:
        if self._image is None:
            path = self._own("params")
            if not path:
                raise HostError(f"{self._device.path}/params does not name an image")
            self._image = Image(path, readonly=self._own("mode") != "w")
        return self._image

    def _own(self, name: str) -> str:
        """What the toolstack has written for us; empty when it has not."""
        return (read_or_none(self._device.store, f"{self._device.path}/{name}") or b"").decode(errors="surrogateescape")

    def _info(self, image: Image) -> int:
        info = VDISK_READONLY if image.readonly else 0
        if self._own("removable") == "1":
            info |= VDISK_REMOVABLE
        if self._own("device-type") == "cdrom":
            info |= VDISK_CDROM
        return info
