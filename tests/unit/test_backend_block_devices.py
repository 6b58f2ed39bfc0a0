"""A block device as the image of a disk."""

from __future__ import annotations

from pathlib import Path

from harness.backend.image import Image
from tests.loop_devices import attach
from tests.unit.backend_guest import pattern

SECTORS = 16384
CONTENTS = pattern(SECTORS * 512, 1)


def test_a_block_device_discards_what_it_is_told_to(tmp_path: Path) -> None:
    path = tmp_path / "disk.img"
    path.write_bytes(CONTENTS)
    before = path.stat().st_blocks
    with attach(path) as device:
        image = Image(str(device), readonly=False)
        assert image.sectors == SECTORS
        assert image.discard is not None
        assert image.discard.granularity >= 512
        image.discard(4096, 8192)
        frame = memoryview(bytearray(4096))
        image.read([frame], 4096, 4096)
        assert not any(frame)
        image.flush()
        image.close()
    assert path.stat().st_blocks <= before - 8192
    assert path.read_bytes() == CONTENTS[: 4096 * 512] + bytes(8192 * 512) + CONTENTS[12288 * 512 :]


def test_a_read_only_block_device_does_not(tmp_path: Path) -> None:
    path = tmp_path / "disk.img"
    path.write_bytes(CONTENTS)
    with attach(path) as device:
        image = Image(str(device), readonly=True, logical_size=4096)
        assert image.discard is None
        assert image.physical_size == 4096
        image.close()
