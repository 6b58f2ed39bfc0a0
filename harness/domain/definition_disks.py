"""Reads the disks of a definition, and looks at their images."""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Literal, cast, get_args

from harness.bus.features import ADAPTIVE, ALL_BLOCK, SECTOR_SIZES, BlockFeatures
from harness.domain.definition import Disk, DiskIo, DiskModel, Kind
from harness.domain.definition_features import (
    check_kind,
    check_paravirtual,
    read_backend,
    read_features,
    read_notifications,
)
from harness.domain.definition_yaml import Value

DISK_MAXIMUM = 16 << 40
DISKS_MAXIMUM = 16
PMEM_UNIT = 2 << 20
"""Bytes of which a disk in a guest's memory is a multiple: Linux maps such memory in sections of that size."""

KEYS = ("target", "model", "path", "size", "readonly", "io")
PARAVIRTUAL_KEYS = ("cdrom", "sector-size", "notification", "features", "backend")

TARGETS: dict[DiskModel, re.Pattern[str]] = {
    "ide": re.compile(r"hd[a-d]"),
    "pv": re.compile(r"xvd[a-p]"),
    "virtio": re.compile(r"vd[a-p]"),
    "virtio-pmem": re.compile(r"pmem(?:[0-9]|1[0-5])"),
}
TARGETS_EXPECTED: dict[DiskModel, str] = {
    "ide": "hda to hdd (the piix3 controller has room for four)",
    "pv": "xvda to xvdp",
    "virtio": "vda to vdp",
    "virtio-pmem": "pmem0 to pmem15",
}
READ_WRITE: dict[DiskModel, str] = {"ide": "an IDE disk", "virtio-pmem": "a disk in the guest's memory"}
"""Models of which QEMU makes no disk that cannot be written to."""

Identity = tuple[Literal["file", "device"], int, int]
"""What an image is, by whatever path it is reached: a device's number, or a file's device and inode."""


def read_disks(value: Value, kind: Kind, *, driver: bool = False) -> tuple[Disk, ...]:
    """The disks of a domain of some kind, each target and each image once.

    :param driver: it is a driver domain.
    """
    disks: list[Disk] = []
    images: dict[Identity, Path] = {}
    for entry in value.sequence(DISKS_MAXIMUM):
        found = entry.mapping((*KEYS, *PARAVIRTUAL_KEYS))
        disk = read_disk(entry, found, kind, driver=driver)
        if any(disk.target == other.target for other in disks):
            raise found["target"].error(f"two disks are called {disk.target}", expected="each target once")
        if disk.path is not None and disk.backend is None:
            _check_image_once(found["path"], disk.path, images)
        disks.append(disk)
    _check_numbers(value, disks)
    return tuple(disks)


def _check_numbers(value: Value, disks: list[Disk]) -> None:
    """Check that disks which the guest numbers as it finds them have those numbers."""
    targets = {disk.target for disk in disks if disk.model == "virtio-pmem"}
    for number in range(len(targets)):
        if f"pmem{number}" not in targets:
            raise value.error(f"there is no pmem{number}, but others", expected="pmem0, pmem1 and so on, without a gap")


def read_disk(entry: Value, found: Mapping[str, Value], kind: Kind, *, driver: bool = False) -> Disk:
    """One disk, from the mapping that an entry is."""
    for key in ("target", "model"):
        if key not in found:
            raise entry.error(f"the key {key!r} is missing", expected="such as {target: hda, model: ide, size: 1GiB}")
    model = cast(DiskModel, found["model"].choice(get_args(DiskModel)))
    check_kind(found["model"], kind, driver=driver)
    check_paravirtual(found, PARAVIRTUAL_KEYS)
    if "io" in found and model != "virtio":
        raise found["io"].error(f"it is a choice for disks of model virtio, and this one is {model}")
    cdrom, readonly = (found[key].boolean() if key in found else False for key in ("cdrom", "readonly"))
    if readonly and model in READ_WRITE:
        raise found["readonly"].error(f"{READ_WRITE[model]} cannot be read-only", expected="false, or another model")
    if cdrom and not readonly and "readonly" in found:
        raise found["readonly"].error("a CD-ROM is read-only", expected="true, or no such key")
    sector_size = _sector_size(found["sector-size"]) if "sector-size" in found else SECTOR_SIZES[0]
    path, size = _storage(entry, found, PMEM_UNIT if model == "virtio-pmem" else sector_size)
    return Disk(
        found["target"].matching(TARGETS[model], f"for model {model}: {TARGETS_EXPECTED[model]}"),
        model,
        path,
        size,
        readonly or cdrom,
        cdrom,
        sector_size,
        read_notifications(found["notification"]) if "notification" in found else ADAPTIVE,
        read_features(found["features"], BlockFeatures) if "features" in found else ALL_BLOCK,
        read_backend(found["backend"]) if "backend" in found else None,
        cast(DiskIo, found["io"].choice(get_args(DiskIo))) if "io" in found else None,
    )


def _sector_size(value: Value) -> int:
    return int(value.choice([str(size) for size in SECTOR_SIZES]))


def _storage(entry: Value, found: Mapping[str, Value], unit: int) -> tuple[Path | None, int]:
    """Where a disk is kept, None for a scratch image, and its size in bytes, 0 if nobody here knows it.

    :param unit: bytes of which the size is a multiple.
    """
    if "backend" in found:
        return _path_elsewhere(entry, found), 0
    if ("path" in found) == ("size" in found):
        raise entry.error(
            f"has {'both' if 'path' in found else 'neither'} of 'path' and 'size'",
            expected="path: an existing image; or size: of an empty disk that lives as long as the domain",
        )
    if "size" in found:
        return None, found["size"].size(unit, DISK_MAXIMUM, unit)
    return _image(found["path"], unit)


def _path_elsewhere(entry: Value, found: Mapping[str, Value]) -> Path:
    """Where a disk is in the driver domain that serves it; there, and not here, it is looked for."""
    if "size" in found:
        raise found["size"].error(
            "the size of a disk that a driver domain serves is what it has there",
            expected="path: a block device or a file in the driver domain",
        )
    if "path" not in found:
        raise entry.error("has no 'path'", expected="path: a block device or a file in the driver domain")
    text = found["path"].text("a path in the driver domain")
    path = Path(text)
    if not path.is_absolute() or ".." in path.parts or not text.isprintable():
        raise found["path"].error(f"found {text!r}", expected="an absolute path in the driver domain, such as /dev/vda")
    return path


def _check_image_once(value: Value, path: Path, images: dict[Identity, Path]) -> None:
    """Check that no other disk is on an image, by whatever name, and note it in ``images``."""
    identity = _identity(path.stat())
    if identity in images:
        other = images[identity]
        names = str(path) if path == other else f"{other}, also called {path}"
        raise value.error(f"two disks are on {names}", expected="each image once")
    images[identity] = path


def _identity(status: os.stat_result) -> Identity:
    if stat.S_ISBLK(status.st_mode):
        return ("device", status.st_rdev, 0)
    return ("file", status.st_dev, status.st_ino)


def _image(value: Value, unit: int) -> tuple[Path, int]:
    """The resolved path and the size in bytes of an existing raw image or block device."""
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
    if size == 0 or size % unit:
        raise value.error(
            f"{path} has {size} bytes",
            expected=f"a raw disk image, some multiple of {unit} bytes long (truncate -s %{unit} FILE lengthens one)",
        )
    return path, size
