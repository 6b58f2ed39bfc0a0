"""By what an image is known again that nobody has written to, whether it is on the host or in a driver domain."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from pathlib import Path

from harness.domain.messages import Message
from harness.host.errors import GuestError

BEGINNING = 1 << 20
"""Bytes of a block device that are looked at: who mounts a file system writes there."""
_NANOSECONDS = 9
_TOLD = re.compile(
    r"(?P<size>\d{1,20}) "
    r"(?:(?P<beginning>[0-9a-f]{64})|(?P<seconds>-?\d{1,20}) \S+ [\d:]+(?:\.(?P<fraction>\d{1,9}))? \S+)\n?"
)


@dataclass(frozen=True)
class Identity:
    """What is compared.

    :param size: bytes.
    :param mtime: of a file, nanoseconds; 0 for a block device: nobody knows when that was written to last.
    :param beginning: of a block device, SHA-256 of the first MiB; empty for a file.
    """

    size: int
    mtime: int
    beginning: str

    @classmethod
    def read(cls, message: Message) -> Identity:
        """:raise UsageError: the message is none."""
        return cls(message.get("size", int), message.get("mtime", int), message.get("beginning", str))


def identify(path: Path, size: int, *, block_device: bool) -> Identity:
    """What an image of so many bytes is known by just now.

    :raise OSError: it cannot be read.
    """
    if not block_device:
        return Identity(size, path.stat().st_mtime_ns, "")
    with path.open("rb") as image:
        return Identity(size, 0, hashlib.sha256(image.read(BEGINNING)).hexdigest())


def parse_identity(text: str) -> Identity:
    """What a driver domain says of a disk, see :data:`harness.domain.serving.SETTLE`.

    :raise GuestError: it is nothing like that.
    """
    found = _TOLD.fullmatch(text)
    if found is None:
        raise GuestError(f"a driver domain says what nobody understands of a disk: {text!r}")
    if found["beginning"] is not None:
        return Identity(int(found["size"]), 0, found["beginning"])
    fraction = (found["fraction"] or "").ljust(_NANOSECONDS, "0")
    return Identity(int(found["size"]), int(found["seconds"]) * 10**_NANOSECONDS + int(fraction), "")
