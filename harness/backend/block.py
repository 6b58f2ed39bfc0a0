"""The backend of a virtual disk: what it offers to the frontend, and how it connects to one."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import replace

from harness.backend.block_pool import Pool
from harness.backend.block_ring import BlockRing, Disk
from harness.backend.frontend import Frontend
from harness.backend.image import Image
from harness.backend.loop import Loop
from harness.backend.mappings import Mappings
from harness.bus.backend import BackendDevice
from harness.bus.features import BlockFeatures, read_block_features, read_notification, read_sector_size
from harness.bus.nodes import read_or_none
from harness.host.errors import GuestError, HostError
from harness.hypervisor.link import LinkEnd
from harness.ring.blkif import ABIS, VDISK_CDROM, VDISK_READONLY, VDISK_REMOVABLE, X86_64

KEPT_PER_SLOT = 66
"""Persistent grants of a ring that stay mapped for each entry of it: twice what a request of 128 KiB needs."""


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
        image = self._open()
        features = self._features(image)
        nodes = {
            "feature-flush-cache": str(int(features.flush)),
            "feature-barrier": str(int(features.barrier)),
            "feature-discard": str(int(features.discard)),
            "feature-persistent": str(int(features.persistent)),
            "feature-max-indirect-segments": str(features.indirect_segments),
            "max-ring-page-order": str(features.ring_page_order),
            "multi-queue-max-queues": str(features.queues),
            "hotplug-status": "connected",
        }
        if features.discard and image.discard is not None:
            nodes["discard-granularity"] = str(max(image.discard.granularity, image.logical_size))
            nodes["discard-alignment"] = str(image.discard.alignment)
            nodes["discard-secure"] = "0"
        return nodes

    def connect(self, frontend: str) -> Mapping[str, str]:
        """Attach to the frontend's rings; what to publish with the state Connected.

        :raise HarnessError: what the frontend has written makes no sense, or the image cannot be used.
        """
        front, image = Frontend(self._device.store, frontend), self._open()
        protocol = front.text("protocol", X86_64.name)
        if protocol not in ABIS:
            raise GuestError(f"{frontend}/protocol is {protocol!r}: only {' and '.join(ABIS)} are spoken here")
        features = self._features(image)
        pool = Pool(self._loop, self._device.fail)
        disk = Disk(image, features, pool, ABIS[protocol], read_notification(self._device.store, self._device.path))
        with ExitStack() as connection:
            self._attach(connection, front, disk)
            # The first to go: its threads may still be using what the rings have mapped.
            connection.callback(pool.close)
            self._connection = connection.pop_all()
        return {
            "sectors": str(image.sectors),
            "info": str(self._info(image)),
            "sector-size": str(image.logical_size),
            "physical-sector-size": str(image.physical_size),
        }

    def _attach(self, connection: ExitStack, front: Frontend, disk: Disk) -> None:
        order = front.number("ring-page-order", range(disk.features.ring_page_order + 1), 0)
        queues = front.number("multi-queue-num-queues", range(1, disk.features.queues + 1), 1)
        persistent = disk.features.persistent and front.flag("feature-persistent")
        rings = []
        for number in range(queues):
            queue = front if queues == 1 else front.queue(number)
            memory = queue.map_ring(connection, self._link, "ring-ref", order)
            port = queue.bind(connection, self._link, "event-channel")
            slots = len(memory) // disk.abi.entry_size
            mappings = Mappings(self._link.grants, persistent=persistent, limit=slots * KEPT_PER_SLOT)
            connection.callback(mappings.close)
            name = f"vbd/{self._device.path.rpartition('/')[2]}/queue-{number}"
            rings.append(BlockRing(name, self._link, disk, mappings, memory, port))
        for ring in rings:
            self._loop.add(ring, self._device.fail)
            connection.callback(self._loop.remove, ring)

    def resized(self) -> Mapping[str, str]:
        """Look how large the image is now; what to publish with the state Connected.

        :raise HostError: it cannot have that size; the disk keeps the one that it had.
        """
        image = self._open()
        image.measure_again()
        return {"sectors": str(image.sectors)}

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
            readonly = self._own("mode") != "w" or self._own("device-type") == "cdrom"
            sector_size = read_sector_size(self._device.store, self._device.path)
            self._image = Image(path, readonly=readonly, logical_size=sector_size)
        return self._image

    def _features(self, image: Image) -> BlockFeatures:
        """What this disk can do, of what the toolstack lets it."""
        features = read_block_features(self._device.store, self._device.path)
        return replace(features, discard=features.discard and image.discard is not None)

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
