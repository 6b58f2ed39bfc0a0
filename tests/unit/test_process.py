"""Children: their output, their end, and their end when their parent is killed."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from harness.host.deadline import Deadline
from harness.host.errors import DeadlineExpired, HostError, LaunchError
from harness.host.process import run, spawn

SLEEPER = ["sh", "-c", "echo started; exec sleep 600"]


def wait_for_end(pid: int) -> bool:
    """Whether a process that is not our child ends within 5 s."""
    try:
        descriptor = os.pidfd_open(pid)
    except ProcessLookupError:
        return True
    try:
        return bool(select.select([descriptor], [], [], 5.0)[0])
    finally:
        os.close(descriptor)


def test_output_and_status_become_part_of_the_error(tmp_path: Path) -> None:
    child = spawn("a child", ["sh", "-c", "echo to out; echo to err >&2; exit 7"], log=tmp_path / "log")
    assert child.wait(Deadline(5, "its end")) == 7
    error = child.error("the child failed")
    assert error.exit_status == 7
    assert "to out" in error.output
    assert "to err" in error.output
    assert "exit 7" in str(error)


def test_stop_ends_a_child_that_ignores_sigterm(tmp_path: Path) -> None:
    log = tmp_path / "log"
    child = spawn("a stubborn child", ["sh", "-c", "trap '' TERM; echo ready; while :; do sleep 600; done"], log=log)
    while "ready" not in child.output_tail():
        assert child.poll() is None
    assert child.stop(grace=0.1) == -signal.SIGKILL


def test_a_missing_program_is_the_machines_fault(tmp_path: Path) -> None:
    with pytest.raises(HostError, match="no-such-program is not installed"):
        spawn("a child", ["no-such-program"], log=tmp_path / "log")
    with pytest.raises(LaunchError, match="no-such-program is not installed"):
        run("a child", ["no-such-program"], Deadline(1, "its end"))


def test_run_returns_output_and_raises_with_both_streams() -> None:
    assert run("cat", ["cat"], Deadline(5, "its end"), stdin=b"through") == "through"
    with pytest.raises(LaunchError) as caught:
        run("a shell", ["sh", "-c", "echo one; echo two >&2; exit 3"], Deadline(5, "its end"))
    assert caught.value.exit_status == 3
    assert "one" in caught.value.output
    assert "two" in caught.value.output


def test_run_kills_what_takes_too_long() -> None:
    with pytest.raises(DeadlineExpired, match=r"the nap did not happen within 0\.1 s"):
        run("a nap", ["sleep", "600"], Deadline(0.1, "the nap"))


def test_a_child_dies_with_a_parent_that_is_killed(tmp_path: Path) -> None:
    program = (
        "import pathlib, sys\n"
        "from harness.host.process import spawn\n"
        f"print(spawn('child', {SLEEPER!r}, log=pathlib.Path({str(tmp_path / 'log')!r})).pid, flush=True)\n"
        "sys.stdin.read()\n"
    )
    with subprocess.Popen([sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as parent:
        assert parent.stdout is not None
        pid = int(parent.stdout.readline())
        log = tmp_path / "log"
        while not log.exists() or "started" not in log.read_text():
            assert parent.poll() is None
        parent.kill()
    assert wait_for_end(pid)
