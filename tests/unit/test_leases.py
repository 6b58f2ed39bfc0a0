"""An image can be reached through many names; whoever writes to it has it alone, by all of them."""

from __future__ import annotations

import os
import stat
import subprocess
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from harness.domain.leases import Lease
from harness.host.errors import UsageError
from tests.loop_devices import attach

SIZE = 1 << 20


@pytest.fixture
def image(tmp_path: Path) -> Path:
    path = tmp_path / "disk.img"
    path.write_bytes(bytes(SIZE))
    return path


@pytest.fixture
def loop(image: Path) -> Iterator[Path]:
    """A loop device on the image."""
    with attach(image) as device:
        yield device


def mknod(path: Path, device: Path) -> Path:
    """Another node of a block device."""
    os.mknod(path, 0o600 | stat.S_IFBLK, device.stat().st_rdev)
    return path


def symbolic_link(path: Path) -> Path:
    alias = path.with_name("symbolic")
    alias.symlink_to(path)
    return alias


def hard_link(path: Path) -> Path:
    alias = path.with_name("hard")
    alias.hardlink_to(path)
    return alias


def assert_excluded(one: Path, other: Path) -> None:
    """Check that two names cannot be leased together, but by two readers."""
    for first, second in ((one, other), (other, one)):
        for readonly in ((False, False), (False, True), (True, False)):
            with Lease(first, readonly=readonly[0]), pytest.raises(UsageError, match=rf"{second} is in use by"):
                Lease(second, readonly=readonly[1])
        with Lease(first, readonly=True), Lease(second, readonly=True):
            pass


@pytest.mark.parametrize("alias", [symbolic_link, hard_link])
def test_a_file_is_leased_under_all_its_names(alias: Callable[[Path], Path], image: Path) -> None:
    assert_excluded(image, alias(image))


def test_a_device_is_leased_under_all_its_nodes(loop: Path, tmp_path: Path) -> None:
    assert_excluded(loop, mknod(tmp_path / "node", loop))


def test_a_device_is_leased_through_a_symbolic_link(loop: Path, tmp_path: Path) -> None:
    alias = tmp_path / "link"
    alias.symlink_to(loop)
    assert_excluded(loop, alias)


def test_a_loop_device_has_its_size_and_can_be_opened_by_those_who_serve_it(loop: Path) -> None:
    with Lease(loop, readonly=False) as lease:
        assert lease.block_device
        assert lease.size == SIZE
        os.close(os.open(loop, os.O_RDWR))
        with pytest.raises(OSError, match="busy"):
            os.open(loop, os.O_RDWR | os.O_EXCL)
    with Lease(loop, readonly=False):
        pass


def test_a_file_with_a_loop_device_is_not_written_to_besides_it(loop: Path, image: Path) -> None:
    with pytest.raises(UsageError, match=f"{image} is in use by the loop device {loop}") as caught:
        Lease(image, readonly=False)
    assert caught.value.hint is not None
    assert f"losetup --detach {loop}" in caught.value.hint
    with Lease(image, readonly=True), pytest.raises(UsageError, match=f"{loop} is in use by another"):
        Lease(loop, readonly=False)
    with Lease(loop, readonly=False), pytest.raises(UsageError, match=f"{image} is in use by another"):
        Lease(image, readonly=True)
    with Lease(loop, readonly=True), Lease(image, readonly=True):
        pass


def test_a_lease_is_kept_when_a_loop_device_is_made_afterwards(image: Path) -> None:
    with Lease(image, readonly=False), attach(image) as late, pytest.raises(UsageError, match=f"{late} is in use by"):
        Lease(late, readonly=False)


def test_of_two_loop_devices_on_a_file_none_is_written_to(loop: Path, image: Path) -> None:
    with attach(image) as second:
        for one, other in ((loop, second), (second, loop)):
            with pytest.raises(UsageError, match=f"{one} is in use by the loop device {other}"):
                Lease(one, readonly=False)


def test_a_loop_device_whose_file_has_been_removed_can_be_leased(loop: Path, image: Path) -> None:
    image.unlink()
    image.write_bytes(bytes(SIZE))
    with Lease(loop, readonly=False), Lease(image, readonly=False):
        pass


def test_a_loop_device_on_a_device_is_refused(loop: Path) -> None:
    with attach(loop) as upper, pytest.raises(UsageError, match=f"{upper} is a loop device on {loop}") as caught:
        Lease(upper, readonly=False)
    assert caught.value.hint == f"use {loop} itself"


def test_a_mounted_device_is_not_written_to_and_a_leased_one_is_not_mounted(loop: Path, tmp_path: Path) -> None:
    subprocess.run(["mkfs.ext4", "-q", loop], check=True)
    place = tmp_path / "place"
    place.mkdir()
    mount = ["mount", str(loop), str(place)]
    with Lease(loop, readonly=False):
        assert subprocess.run(mount, capture_output=True, check=False).returncode != 0
        assert not place.is_mount()
    with ExitStack() as stack:
        subprocess.run(mount, check=True)
        stack.callback(subprocess.run, ["umount", str(place)], check=True)
        with pytest.raises(UsageError, match=f"{loop} is in use on the host: mounted"):
            Lease(loop, readonly=False)
        with Lease(loop, readonly=True):
            pass
    with Lease(loop, readonly=False):
        pass


def test_a_node_of_no_device_is_refused(tmp_path: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("needs root, who can make device nodes")
    os.mknod(tmp_path / "node", 0o600 | stat.S_IFBLK, os.makedev(240, 77))
    with pytest.raises(UsageError, match=r"there is no block device 240:77, which .*node names"):
        Lease(tmp_path / "node", readonly=False)


def test_a_pipe_is_refused_and_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(UsageError, match="neither a file nor a block device"):
        Lease(tmp_path / "pipe", readonly=True)


def test_a_refused_lease_leaves_nothing_open(image: Path) -> None:
    with Lease(image, readonly=False):
        before = os.listdir("/proc/self/fd")  # noqa: PTH208 - just the names
        with pytest.raises(UsageError):
            Lease(image, readonly=True)
        assert os.listdir("/proc/self/fd") == before  # noqa: PTH208
