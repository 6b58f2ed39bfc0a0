"""A machine's state in a file: written, read back, and refused. Runs QEMU, but no kernel."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from harness.host.errors import HostError, UsageError
from harness.hypervisor.layout import GRANTEE, GRANTER
from harness.hypervisor.link import Link
from harness.machine import loop, migration
from harness.machine.command_line import QEMU
from harness.machine.qemu import QemuProcess, QemuState
from tests.unit.test_qemu_process import deadline, spawn_bare, told_and_known

pytestmark = pytest.mark.skipif(shutil.which(QEMU) is None, reason=f"{QEMU} is not installed")

AHEAD = b"what stands before the state"
WORD = b"in a frame of the link"
FRAME = 5000
INCOMING = ("-incoming", "defer")


@contextmanager
def running(directory: Path, *more: str) -> Iterator[QemuProcess]:
    process = spawn_bare(directory, *more)
    try:
        loop.run(process.connect(deadline()))
        yield process
    finally:
        loop.run(process.quit(deadline()))


@contextmanager
def opened(path: Path) -> Iterator[int]:
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


@pytest.fixture
def state(tmp_path: Path) -> Path:
    """The state of a machine that has run, behind some other bytes."""
    path = tmp_path / "state"
    with running(tmp_path) as process, opened(path) as descriptor:
        os.write(descriptor, AHEAD)
        loop.run(process.cont())
        loop.run(process.stop())
        loop.run(migration.save(process, descriptor, deadline()))
    return path


def test_a_saved_state_is_gone_on_from(tmp_path: Path, state: Path) -> None:
    assert state.read_bytes()[: len(AHEAD)] == AHEAD
    with running(tmp_path, *INCOMING) as process, opened(state) as descriptor:
        os.lseek(descriptor, len(AHEAD), os.SEEK_SET)
        loop.run(migration.load(process, descriptor, deadline()))
        assert told_and_known(process) == ("paused", QemuState.PREPARED)
        loop.run(process.cont())
        assert told_and_known(process) == ("running", QemuState.RUNNING)


def test_a_machine_can_go_on_after_it_was_saved(tmp_path: Path) -> None:
    with running(tmp_path) as process, opened(tmp_path / "state") as descriptor:
        loop.run(process.cont())
        for _ in range(2):
            loop.run(process.stop())
            loop.run(migration.save(process, descriptor, deadline()))
            loop.run(process.cont())
        assert told_and_known(process) == ("running", QemuState.RUNNING)


def test_a_machine_that_runs_is_not_saved(tmp_path: Path) -> None:
    with running(tmp_path) as process, opened(tmp_path / "state") as descriptor:
        loop.run(process.cont())
        with pytest.raises(UsageError, match="running"):
            loop.run(migration.save(process, descriptor, deadline()))


def test_no_room_for_the_state(tmp_path: Path) -> None:
    with running(tmp_path) as process, opened(Path("/dev/full")) as descriptor:
        loop.run(process.cont())
        loop.run(process.stop())
        with pytest.raises(HostError, match=r"bare was not written: .*(space|failed)"):
            loop.run(migration.save(process, descriptor, deadline()))
        loop.run(process.cont())
        assert told_and_known(process) == ("running", QemuState.RUNNING)


def test_a_state_that_ends_too_early_is_refused(tmp_path: Path, state: Path) -> None:
    os.truncate(state, 4096)
    with running(tmp_path, *INCOMING) as process, opened(state) as descriptor:
        os.lseek(descriptor, len(AHEAD), os.SEEK_SET)
        with pytest.raises(HostError, match="cannot go on from the saved state"):
            loop.run(migration.load(process, descriptor, deadline()))


def test_what_is_no_state_is_refused_with_what_qemu_says(tmp_path: Path) -> None:
    with running(tmp_path, *INCOMING) as process, opened(tmp_path / "state") as descriptor:
        os.write(descriptor, bytes(1 << 16))
        os.lseek(descriptor, 0, os.SEEK_SET)
        with pytest.raises(HostError, match="Not a migration stream"):
            loop.run(migration.load(process, descriptor, deadline()))


def test_the_memory_of_a_link_is_saved_by_the_granters_machine_only(tmp_path: Path) -> None:
    path = tmp_path / "state"
    with Link.between(1, 2) as link, running(tmp_path) as process, opened(path) as descriptor:
        link.frame(FRAME)[: len(WORD)] = WORD
        _plug(process, link, GRANTER)
        loop.run(process.cont())
        loop.run(process.stop())
        loop.run(migration.save(process, descriptor, deadline()))
    assert WORD in path.read_bytes()
    assert path.stat().st_size < link.layout.size // 16
    with Link.between(1, 2) as link, running(tmp_path) as process, opened(path) as descriptor:
        _plug(process, link, GRANTEE)
        loop.run(process.cont())
        loop.run(process.stop())
        with pytest.raises(HostError, match="ivshmem"):
            loop.run(migration.save(process, descriptor, deadline()))


def _plug(process: QemuProcess, link: Link, end: int) -> None:
    with link.qemu_socket(end) as server:
        loop.run(process.attach_link("link", server, link.layout.vectors[end], deadline(), granter=end == GRANTER))
