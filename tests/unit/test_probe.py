"""Probes: the guest really runs, with what a disk may use, and what stands in the way is told in words."""

from __future__ import annotations

import ctypes
import errno
import shutil
from pathlib import Path

import pytest

from harness.machine import inline_io, probe
from harness.machine.command_line import QEMU
from harness.machine.inline_io import inline_verdict
from harness.machine.probe import Verdict, run_probe
from harness.machine.probe_guest import RESET_VECTOR, ROM_SIZE, rom

IO_URING_SETUP = 425
"""asm/unistd_64.h."""

needs_qemu = pytest.mark.skipif(shutil.which(QEMU) is None, reason=f"{QEMU} is not installed")


@pytest.fixture(autouse=True)
def _private_directories(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HARNESS_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("HARNESS_RUNTIME", str(tmp_path / "run"))


def test_rom_fits_and_starts_at_the_reset_vector() -> None:
    image = rom()
    assert len(image) == ROM_SIZE
    offset = int.from_bytes(image[RESET_VECTOR + 1 : RESET_VECTOR + 3], "little")
    assert (RESET_VECTOR + 3 + offset) % ROM_SIZE == 0


@needs_qemu
def test_probe_guest_runs_to_its_end() -> None:
    verdict = run_probe("tcg", seconds=30)
    assert verdict.works, verdict.reason


@needs_qemu
def test_guest_without_progress_is_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probe, "rom", lambda: bytes(RESET_VECTOR) + b"\xeb\xfe" + bytes(14))
    assert run_probe("tcg", seconds=0.5) == Verdict(
        False, "a small test guest was started and made no progress in 0.5 s"
    )


@needs_qemu
def test_qemu_that_refuses_is_quoted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probe, "base_arguments", lambda name: [QEMU, "-accel", f"no-such-{name}"])
    verdict = run_probe("tcg", seconds=30)
    assert not verdict.works
    assert "QEMU ended with status 1" in verdict.reason
    assert "no-such-tcg" in verdict.reason


def test_guest_that_crashes_does_not_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    # QEMU under -no-reboot ends with status 0 when the guest resets: that is not the status of success.
    monkeypatch.setattr(probe, "base_arguments", lambda _: ["sh", "-c", "exit 0"])
    assert not run_probe("tcg").works


@needs_qemu
def test_io_uring_is_there_if_the_kernel_has_it() -> None:
    # No entries at all are no valid request: a kernel that would take another one says so.
    libc = ctypes.CDLL(None, use_errno=True)
    assert libc.syscall(IO_URING_SETUP, 0, None) == -1
    known = ctypes.get_errno() not in (errno.ENOSYS, errno.EPERM)
    verdict = inline_verdict()
    assert verdict.works == known, verdict.reason


@needs_qemu
def test_io_uring_that_is_refused_is_quoted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(inline_io.IMAGE["file"], "aio", "no-such-engine")
    verdict = inline_verdict()
    assert not verdict.works
    assert "no-such-engine" in verdict.reason
