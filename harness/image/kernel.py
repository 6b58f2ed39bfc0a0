"""The kernel as QEMU starts it soonest: the stock kernel, taken out of its self-extracting wrapper.

A bzImage is a small program that unpacks the real kernel. Emulated, that takes as long as the rest of the boot; done
here it happens once per build. The bytes that run are the same. QEMU enters such a kernel through its PVH entry point,
so it must have one; otherwise the bzImage is used as it is.
"""

from __future__ import annotations

import bz2
import lzma
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

from harness.host.errors import HostError

# Offsets in a bzImage, from Documentation/x86/boot.rst.
SETUP_SECTORS = 0x1F1
HEADER_MAGIC = 0x202
PROTOCOL = 0x206
PAYLOAD = 0x248
"""Offset and length of the payload, two 32-bit numbers; the offset counts from the protected-mode code."""

PROTOCOL_WITH_PAYLOAD = 0x208
SECTOR = 512
ELF_MAGIC = b"\x7fELF"


# The kernel's build appends the unpacked size to most streams: decompressor objects stop before it.


def _xz(data: bytes) -> bytes:
    return lzma.LZMADecompressor().decompress(data)


def _gzip(data: bytes) -> bytes:
    return zlib.decompressobj(wbits=zlib.MAX_WBITS | 16).decompress(data)


def _bzip2(data: bytes) -> bytes:
    return bz2.BZ2Decompressor().decompress(data)


_FORMATS: tuple[tuple[bytes, Callable[[bytes], bytes]], ...] = (
    (b"\xfd7zXZ\0", _xz),
    (b"\x1f\x8b", _gzip),
    (b"BZh", _bzip2),
)


def unpack(image: bytes) -> bytes | None:
    """The ELF kernel inside a bzImage, or None if it is compressed in a way that is not known here.

    :raise ValueError: it is no bzImage, or it is damaged.
    """
    if len(image) < PAYLOAD + 8 or image[HEADER_MAGIC : HEADER_MAGIC + 4] != b"HdrS":
        raise ValueError("it is no bzImage")
    if struct.unpack_from("<H", image, PROTOCOL)[0] < PROTOCOL_WITH_PAYLOAD:
        raise ValueError("its boot protocol is older than 2.08")
    offset, length = struct.unpack_from("<II", image, PAYLOAD)
    start = ((image[SETUP_SECTORS] or 4) + 1) * SECTOR + offset
    payload = image[start : start + length]
    if not length or len(payload) != length:
        raise ValueError("it is shorter than its header says")
    for magic, decompress in _FORMATS:
        if payload.startswith(magic):
            try:
                kernel = decompress(payload)
            except (lzma.LZMAError, zlib.error, OSError, EOFError) as error:
                raise ValueError(f"its payload is damaged: {error}") from error
            if not kernel.startswith(ELF_MAGIC):
                raise ValueError("its payload is no ELF file")
            return kernel
    return None


def provide(tree: Path, version: str) -> bytes:
    """What QEMU is given as kernel.

    :param tree: the unpacked kernel package.
    :raise HostError: the package's kernel cannot be understood.
    """
    file = tree / "boot" / f"vmlinuz-{version}"
    image = file.read_bytes()
    if "CONFIG_PVH=y" not in (tree / "boot" / f"config-{version}").read_text().splitlines():
        return image
    try:
        return unpack(image) or image
    except ValueError as error:
        raise HostError(f"cannot unpack the kernel {file}: {error}") from error
