"""What a domain shall be: the objects that :mod:`harness.domain.definition_file` makes of a YAML file."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from harness.bus.features import (
    ADAPTIVE,
    ALL_BLOCK,
    ALL_NET,
    SECTOR_SIZES,
    BlockFeatures,
    NetFeatures,
    Notifications,
)
from harness.host.errors import UsageError

Kind = Literal["hvm", "pv"]
DiskModel = Literal["ide", "pv", "virtio", "virtio-pmem"]
DiskIo = Literal["threads", "inline"]
NetworkModel = Literal["ne2000", "e1000", "pv", "virtio"]
OnCrash = Literal["destroy", "restart", "preserve"]

NAME = re.compile(r"(?![0-9]+$)[A-Za-z0-9][A-Za-z0-9_.-]{0,62}")
NAME_EXPECTED = "a name of letters, digits, '_', '.' and '-', at most 63, not only digits (that would be a domid)"

MTU_DEFAULT = 1500
MIB = 1 << 20
ROOM_MINIMUM = 1024
"""MiB."""


@dataclass(frozen=True)
class Disk:
    """A disk of a domain.

    :param target: its name, by which :meth:`Domain.device` finds it. It is the name that the guest gives the disk if
        the disk is ``pv`` or ``virtio-pmem``; the serial number if it is ``virtio``, the place on the bus if ``ide``.
    :param path: the raw image or block device, resolved; or None: an empty disk that lives as long as the domain.
    :param size: bytes, a multiple of the sector size; 0 if only its driver domain knows.
    :param io: of a ``virtio`` disk: who does its I/O, threads of QEMU's, or a processor of the guest (``inline``), see
        :mod:`harness.machine.inline_io`; None: whichever is faster in such a domain here.

    The others are of ``pv`` disks only:

    :param cdrom: the guest sees a CD-ROM drive; such a disk is read-only.
    :param sector_size: bytes of a logical sector.
    :param backend: the name of the driver domain that serves it, in which the path is; None for Domain 0.
    """

    target: str
    model: DiskModel
    path: Path | None
    size: int
    readonly: bool = False
    cdrom: bool = False
    sector_size: int = SECTOR_SIZES[0]
    notifications: Notifications = ADAPTIVE
    features: BlockFeatures = ALL_BLOCK
    backend: str | None = None
    io: DiskIo | None = None


@dataclass(frozen=True)
class Network:
    """A network card of a domain.

    :param mac: lower case, or None: the domain gets one of its own.

    The others are of ``pv`` cards only:

    :param mtu: the largest packet, in bytes without the Ethernet header.
    :param backend: the name of the driver domain that serves it; None for Domain 0.
    """

    model: NetworkModel
    mac: str | None = None
    mtu: int = MTU_DEFAULT
    notifications: Notifications = ADAPTIVE
    features: NetFeatures = ALL_NET
    backend: str | None = None


@dataclass(frozen=True)
class Definition:
    """A domain as its file defines it.

    :param image: the image recipe its kernel and initramfs come from.
    :param memory: MiB.
    :param file: where it was read from.
    :param consoles: how many paravirtual consoles a domain of kind pv has.
    :param driver_domain: it may serve other domains with what it has, and have emulated devices for that.
    :param on_crash: what its owner does when its kernel crashes or its QEMU ends without having been told to.
    :param spare: MiB of ``virtio-pmem`` disks for which it has room besides its own: others may start from its guest.
    """

    name: str
    kind: Kind
    image: str
    memory: int
    vcpus: int
    disks: tuple[Disk, ...]
    networks: tuple[Network, ...]
    file: Path
    consoles: int = 1
    driver_domain: bool = False
    on_crash: OnCrash = "destroy"
    spare: int = 0

    @property
    def room(self) -> int:
        """MiB of the guest's addresses behind its memory that are kept for disks of model ``virtio-pmem``.

        In large steps: a guest that has booted serves only domains with the same room.
        """
        mapped = sum(disk.size for disk in self.disks if disk.model == "virtio-pmem")
        wanted = self.spare + -(-mapped // MIB)
        return max(ROOM_MINIMUM, 1 << (wanted - 1).bit_length()) if wanted else 0

    @property
    def backends(self) -> list[str]:
        """The names of the driver domains that serve its devices, each once."""
        named = [*(disk.backend for disk in self.disks), *(card.backend for card in self.networks)]
        return list(dict.fromkeys(name for name in named if name is not None))

    def renamed(self, name: str) -> Definition:
        """The same under another name.

        :raise UsageError: that is no name for a domain.
        """
        if not NAME.fullmatch(name):
            raise UsageError(f"no domain can be called {name!r}; expected {NAME_EXPECTED}")
        return replace(self, name=name)
