"""Taking the kernel out of a bzImage."""

from __future__ import annotations

import bz2
import gzip
import lzma
import struct
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.image.kernel import ELF_MAGIC, HEADER_MAGIC, PAYLOAD, PROTOCOL, SECTOR, SETUP_SECTORS, unpack

KERNEL = ELF_MAGIC + bytes(range(256)) * 20


def bzimage(payload: bytes, *, setup_sectors: int = 3, offset: int = 40, protocol: int = 0x20F) -> bytes:
    image = bytearray(((setup_sectors or 4) + 1) * SECTOR + offset)
    image[SETUP_SECTORS] = setup_sectors
    image[HEADER_MAGIC : HEADER_MAGIC + 4] = b"HdrS"
    struct.pack_into("<H", image, PROTOCOL, protocol)
    struct.pack_into("<II", image, PAYLOAD, offset, len(payload))
    return bytes(image) + payload + b"what follows"


def with_size(data: bytes) -> bytes:
    return data + struct.pack("<I", len(KERNEL))


@pytest.mark.parametrize("compress", [lzma.compress, gzip.compress, bz2.compress])
@pytest.mark.parametrize("setup_sectors", [0, 1, 39])
def test_known_compressions(compress: Callable[[bytes], bytes], setup_sectors: int) -> None:
    assert unpack(bzimage(with_size(compress(KERNEL)), setup_sectors=setup_sectors)) == KERNEL


def test_unknown_compression_is_left_to_the_wrapper() -> None:
    assert unpack(bzimage(b"\x28\xb5\x2f\xfd" + bytes(100))) is None


@pytest.mark.parametrize(
    ("image", "words"),
    [
        (b"", "no bzImage"),
        (bytes(4096), "no bzImage"),
        (bzimage(lzma.compress(KERNEL), protocol=0x207), "older"),
        (bzimage(b""), "shorter"),
        (bzimage(lzma.compress(KERNEL))[:-100], "shorter"),
        (bzimage(b"\x1f\x8b" + bytes(100)), "damaged"),
        (bzimage(lzma.compress(b"MZ" + KERNEL)), "no ELF"),
    ],
)
def test_damage_is_told(image: bytes, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        unpack(image)


@given(st.data())
def test_a_truncated_or_altered_image_never_gives_another_kernel(data: st.DataObject) -> None:
    image = bytearray(bzimage(lzma.compress(KERNEL)))
    position = data.draw(st.integers(0, len(image) - 1))
    image[position] ^= data.draw(st.integers(1, 255))
    try:
        kernel = unpack(bytes(image[: data.draw(st.integers(position, len(image)))]))
    except ValueError:
        return
    assert kernel in (None, KERNEL)
