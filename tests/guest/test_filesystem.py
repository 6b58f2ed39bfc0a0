"""A file system on each kind of disk, from mkfs in the guest to fsck on the host."""

from __future__ import annotations

import hashlib
import io
import random
import subprocess
import tarfile
from dataclasses import replace
from pathlib import Path

import pytest

from harness.pytest_plugin.plugin import StartDomain
from tests.guest.conftest import GUESTS, named

SIZE = 64 << 20
FILES = 300

MAKE = """
set -e
mkfs.ext4 -q "$1"
mkdir /tmp/mnt
mount "$1" /tmp/mnt
tar -x -z -f /tmp/files.tar.gz -C /tmp/mnt
sync
umount /tmp/mnt
"""
LOOK = """
set -e
e2fsck -f -n "$1" >&2
mount -o ro "$1" /tmp/mnt
cd /tmp/mnt
find files -type f -exec sha256sum {} +
cd /
umount /tmp/mnt
"""


def some_files() -> dict[str, bytes]:
    """Paths and contents: many sizes from nothing to several hundred blocks, in directories of several depths.

    Contents repeat, each with a length of its own, so that they take the short way into the guest: compressed.
    """
    generator = random.Random(1)
    sizes = [0, 1, 4095, 4096, 4097, 1_000_000, *(generator.randrange(60_000) for _ in range(FILES))]
    files = {}
    for number, size in enumerate(sizes):
        directory = "/".join(["files", *(f"d{generator.randrange(5)}" for _ in range(number % 4))])
        files[f"{directory}/f{number}"] = (generator.randbytes(16) * (size // 16 + 1))[:size]
    return files


def packed(files: dict[str, bytes]) -> bytes:
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w:gz") as tar:
        for path, content in files.items():
            entry = tarfile.TarInfo(path)
            entry.size = len(content)
            tar.addfile(entry, io.BytesIO(content))
    return archive.getvalue()


@pytest.mark.parametrize("kind", GUESTS)
def test_a_file_system_is_whole_in_the_guest_and_on_the_host(
    kind: str, request: pytest.FixtureRequest, start_domain: StartDomain, tmp_path: Path
) -> None:
    definition = named(kind, request)
    image = tmp_path / "image"
    with image.open("xb") as file:
        file.truncate(SIZE)
    disk = replace(definition.disks[0], path=image, size=SIZE)
    domain = start_domain(replace(definition, disks=(disk,)))
    device, files = domain.device(disk.target), some_files()

    domain.write_file("/tmp/files.tar.gz", packed(files))
    domain.execute(["sh", "-c", MAKE, "sh", device]).check()
    domain.execute(["blockdev", "--flushbufs", device]).check()
    lines = domain.execute(["sh", "-c", LOOK, "sh", device]).check().text.splitlines()
    sums = {path: hashlib.sha256(content).hexdigest() for path, content in files.items()}
    assert {path: digest for digest, path in (line.split("  ") for line in lines)} == sums

    domain.shutdown()
    subprocess.run(["/sbin/e2fsck", "-f", "-n", image], check=True, capture_output=True)
    for path, content in list(files.items())[:20]:
        shown = subprocess.run(["/sbin/debugfs", "-R", f"cat /{path}", image], check=True, capture_output=True)
        assert shown.stdout == content
