"""What a domain shall be, read from a YAML file and checked as far as it can be without starting anything."""

from __future__ import annotations

import os
import re
import stat
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, cast, get_args

from harness.domain.definition_yaml import Value, load_document
from harness.host.errors import UsageError

Kind = Literal["hvm", "pv"]
DiskModel = Literal["ide", "pv", "virtio"]
NetworkModel = Literal["ne2000", "e1000", "pv", "virtio"]

SECTOR = 512
MIB = 1 << 20

MEMORY_MINIMUM = 128 * MIB
"""With less, the stock kernel and a small initramfs run out of memory while they boot."""
MEMORY_MAXIMUM = 1 << 40
VCPUS_MAXIMUM = 64
DISK_MINIMUM = SECTOR
DISK_MAXIMUM = 16 << 40
DISKS_MAXIMUM = 16
NETWORKS_MAXIMUM = 8

NAME = re.compile(r"(?![0-9]+$)[A-Za-z0-9][A-Za-z0-9_.-]{0,62}")
NAME_EXPECTED = "a name of letters, digits, '_', '.' and '-', at most 63, not only digits (that would be a domid)"
MAC = re.compile(r"[0-9A-Fa-f]{2}(:[0-9A-Fa-f]{2}){5}")

TARGETS: dict[DiskModel, re.Pattern[str]] = {
    "ide": re.compile(r"hd[a-d]"),
    "pv": re.compile(r"xvd[a-p]"),
    "virtio": re.compile(r"vd[a-p]"),
}
TARGETS_EXPECTED: dict[DiskModel, str] = {
    "ide": "hda to hdd (the piix3 controller has room for four)",
    "pv": "xvda to xvdp",
    "virtio": "vda to vdp",
}

KIND_RULE = {
    "pv": "only pv devices in a domain of kind pv, which has no emulated disk or network card",
    "hvm": "no pv devices in a domain of kind hvm, an unmodified guest",
}


Identity = tuple[Literal["file", "device"], int, int]
"""What an image is, by whatever path it is reached: a device's number, or a file's device and inode."""


@dataclass(frozen=True)
class Disk:
    """A disk of a domain.

    :param target: its name, by which :meth:`Domain.device` finds it. It is the name that the guest gives the disk if
        the disk is ``pv``; the serial number if it is ``virtio``, the place on the bus if it is ``ide``.
    :param path: the raw image or block device, resolved; or None: an empty disk that lives as long as the domain.
    :param size: bytes, a multiple of 512.
    """

    target: str
    model: DiskModel
    path: Path | None
    size: int
    readonly: bool = False


@dataclass(frozen=True)
class Network:
    """A network card of a domain.

    :param mac: lower case, or None: the domain gets one of its own.
    """

    model: NetworkModel
    mac: str | None = None


@dataclass(frozen=True)
class Definition:
    """A domain as its file defines it.

    :param image: the image recipe its kernel and initramfs come from.
    :param memory: MiB.
    :param file: where it was read from.
    """

    name: str
    kind: Kind
    image: str
    memory: int
    vcpus: int
    disks: tuple[Disk, ...]
    networks: tuple[Network, ...]
    file: Path

    def renamed(self, name: str) -> Definition:
        """The same under another name.

        :raise UsageError: that is no name for a domain.
        """
        if not NAME.fullmatch(name):
            raise UsageError(f"no domain can be called {name!r}; expected {NAME_EXPECTED}")
        return replace(self, name=name)


KEYS = ("name", "kind", "image", "memory", "vcpus", "disks", "networks")
DISK_KEYS = ("target", "model", "path", "size", "readonly")
NETWORK_KEYS = ("model", "mac")


def load(file: Path) -> Definition:
    """Read and check a definition.

    Paths in it are relative to the directory of the file.

    :raise DefinitionError: names the file, the line, the key and what was expected.
    """
    return define(load_document(file))


def define(document: Value) -> Definition:
    """Make a definition of a document.

    :raise DefinitionError: as :func:`load`.
    """
    found = document.mapping(KEYS)
    if "kind" not in found:
        raise document.error("the key 'kind' is missing", expected="kind: hvm, or kind: pv")
    kind = cast(Kind, found["kind"].choice(get_args(Kind)))
    return Definition(
        name=_name(document, found.get("name")),
        kind=kind,
        image=found["image"].matching(NAME, "the name of an image recipe") if "image" in found else "minimal",
        memory=found["memory"].size(MEMORY_MINIMUM, MEMORY_MAXIMUM, MIB) // MIB if "memory" in found else 256,
        vcpus=found["vcpus"].integer(1, VCPUS_MAXIMUM) if "vcpus" in found else 1,
        disks=_disks(found["disks"], kind) if "disks" in found else (),
        networks=_networks(found["networks"], kind) if "networks" in found else (),
        file=document.file,
    )


def _name(document: Value, value: Value | None) -> str:
    if value is not None:
        return value.matching(NAME, NAME_EXPECTED)
    name = document.file.stem
    if not NAME.fullmatch(name):
        raise document.error("the key 'name' is missing, and the file's name will not do", expected=NAME_EXPECTED)
    return name


def _check_kind(model: Value, kind: Kind) -> None:
    if (model.text() == "pv") != (kind == "pv"):
        raise model.error(f"{model.text()} in a domain of kind {kind}", expected=KIND_RULE[kind])


def _disks(value: Value, kind: Kind) -> tuple[Disk, ...]:
    disks: list[Disk] = []
    images: dict[Identity, Path] = {}
    for entry in value.sequence(DISKS_MAXIMUM):
        found = entry.mapping(DISK_KEYS)
        disk = _disk(entry, found, kind, images)
        if any(disk.target == other.target for other in disks):
            raise found["target"].error(f"two disks are called {disk.target}", expected="each target once")
        disks.append(disk)
    return tuple(disks)


def _disk(entry: Value, found: dict[str, Value], kind: Kind, images: dict[Identity, Path]) -> Disk:
    """A disk; its image is added to ``images``."""
    for key in ("target", "model"):
        if key not in found:
            raise entry.error(f"the key {key!r} is missing", expected="such as {target: hda, model: ide, size: 1GiB}")
    model = cast(DiskModel, found["model"].choice(get_args(DiskModel)))
    _check_kind(found["model"], kind)
    target = found["target"].matching(TARGETS[model], f"for model {model}: {TARGETS_EXPECTED[model]}")
    readonly = found["readonly"].boolean() if "readonly" in found else False
    if readonly and model == "ide":
        raise found["readonly"].error("an IDE disk cannot be read-only", expected="false, or another model")
    if ("path" in found) == ("size" in found):
        raise entry.error(
            f"has {'both' if 'path' in found else 'neither'} of 'path' and 'size'",
            expected="path: an existing image; or size: of an empty disk that lives as long as the domain",
        )
    if "size" in found:
        return Disk(target, model, None, found["size"].size(DISK_MINIMUM, DISK_MAXIMUM, SECTOR), readonly)
    path, size, identity = _image(found["path"])
    if identity in images:
        other = images[identity]
        names = str(path) if path == other else f"{other}, also called {path}"
        raise found["path"].error(f"two disks are on {names}", expected="each image once")
    images[identity] = path
    return Disk(target, model, path, size, readonly)


def _identity(status: os.stat_result) -> Identity:
    if stat.S_ISBLK(status.st_mode):
        return ("device", status.st_rdev, 0)
    return ("file", status.st_dev, status.st_ino)


def _image(value: Value) -> tuple[Path, int, Identity]:
    """The resolved path, the size in bytes and the identity of an existing raw image or block device."""
    path = value.file.parent.joinpath(value.text("the path of a raw disk image"))
    try:
        path = path.resolve(strict=True)
        status = path.stat()
        if not (stat.S_ISREG(status.st_mode) or stat.S_ISBLK(status.st_mode)):
            raise value.error(f"{path} is neither a file nor a block device", expected="a raw disk image")
        with path.open("rb") as image:
            size = image.seek(0, os.SEEK_END)
    except (OSError, RuntimeError, ValueError) as error:  # RuntimeError: symbolic links in a circle
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise value.error(f"{path} cannot be opened: {reason}", expected="a raw disk image") from error
    if size == 0 or size % SECTOR:
        raise value.error(
            f"{path} has {size} bytes", expected=f"a raw disk image, some multiple of {SECTOR} bytes long"
        )
    return path, size, _identity(status)


def _networks(value: Value, kind: Kind) -> tuple[Network, ...]:
    networks: list[Network] = []
    for entry in value.sequence(NETWORKS_MAXIMUM):
        found = entry.mapping(NETWORK_KEYS)
        if "model" not in found:
            raise entry.error("the key 'model' is missing", expected="one of " + ", ".join(get_args(NetworkModel)))
        model = cast(NetworkModel, found["model"].choice(get_args(NetworkModel)))
        _check_kind(found["model"], kind)
        mac = _mac(found["mac"]) if "mac" in found else None
        if mac is not None and any(mac == other.mac for other in networks):
            raise found["mac"].error(f"two networks have the address {mac}", expected="each address once")
        networks.append(Network(model, mac))
    return tuple(networks)


def _mac(value: Value) -> str:
    mac = value.matching(MAC, "six pairs of hexadecimal digits, such as 00:16:3e:00:00:01").lower()
    if int(mac[:2], 16) & 1:
        raise value.error(f"{mac} is a multicast address", expected="a first byte that is even")
    if mac == "00:00:00:00:00:00":
        raise value.error("the all-zero address is no card's address", expected="such as 00:16:3e:00:00:01")
    return mac
