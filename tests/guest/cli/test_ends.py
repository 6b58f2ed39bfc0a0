"""How domains end: saved, shut down, crashed, or with the console that they were booted on."""

from __future__ import annotations

import os
import time
from pathlib import Path

from harness.host.directories import GUESTS
from tests.guest.cli.commands import HARNESS, SECONDS, Run, record, scratch
from tests.guest.cli.terminal import Terminal


def test_save_and_restore(harness: Run, name: str, runtime: Path, tmp_path: Path) -> None:
    """A domain that was not booted either: it began with one that is in the cache."""
    done = harness("create", "--warm", str(GUESTS / "pv.yaml"), "--name", name)
    assert done.returncode == 0, done.stderr.decode()
    assert harness("exec", name, "--", "sh", "-c", "echo word >/tmp/word").returncode == 0
    done = harness("save", name, str(tmp_path / "saved"))
    assert done.returncode == 0, done.stderr.decode()
    assert record(runtime, name) is None
    assert scratch(name) == []

    for _ in range(2):
        done = harness("restore", str(tmp_path / "saved"), "--name", f"{name}-again")
        assert done.returncode == 0, done.stderr.decode()
        assert harness("exec", f"{name}-again", "--", "cat", "/tmp/word").stdout == b"word\n"
        assert harness("destroy", f"{name}-again").returncode == 0
    assert scratch(name) == []

    os.truncate(tmp_path / "saved", 1 << 20)
    done = harness("restore", str(tmp_path / "saved"))
    assert (done.returncode, b"is damaged" in done.stderr) == (2, True), done.stderr.decode()
    done = harness("save", name, str(tmp_path / "saved"))
    assert done.returncode == 2
    assert f"no domain is called {name}".encode() in done.stderr
    assert f"it was saved to {tmp_path / 'saved'}".encode() in done.stderr
    done = harness("create", "--warm", str(GUESTS / "hvm.yaml"), "--name", name)
    assert (done.returncode, b"cannot start warm" in done.stderr) == (2, True), done.stderr.decode()


def test_shutdown_and_what_is_said_of_a_domain_that_has_ended(harness: Run, name: str, runtime: Path) -> None:
    assert harness("create", str(GUESTS / "hvm.yaml"), "--name", name).returncode == 0
    assert harness("shutdown", name).returncode == 0
    after = harness("exec", name, "--", "true")
    assert after.returncode == 2
    assert b"the guest powered itself off" in after.stderr
    assert record(runtime, name) is None
    assert scratch(name) == []


def test_a_domain_that_panics_is_removed_and_its_end_is_told(harness: Run, name: str, runtime: Path) -> None:
    assert harness("create", str(GUESTS / "hvm.yaml"), "--name", name).returncode == 0
    crashed = harness("exec", name, "--", "sh", "-c", "echo c >/proc/sysrq-trigger")
    assert crashed.returncode == 4
    assert b"sysrq" in crashed.stderr
    end = time.monotonic() + SECONDS
    while record(runtime, name) is not None:
        assert time.monotonic() < end
        time.sleep(0.05)
    assert b"panic" in harness("exec", name, "--", "true").stderr.lower()


def test_boot_passes_piped_input_to_the_console(harness: Run, name: str) -> None:
    done = harness("boot", str(GUESTS / "hvm.yaml"), "--name", name, stdin=b"echo $((6 * 7))\npoweroff\n")
    assert done.returncode == 0, done.stderr.decode()
    assert b"42" in done.stdout
    assert b"powered itself off" in done.stderr
    assert scratch(name) == []


def test_boot_ends_with_the_guests_fault(harness: Run, name: str) -> None:
    done = harness(
        "boot", "--pv-console", str(GUESTS / "pv.yaml"), "--name", name, stdin=b"echo c >/proc/sysrq-trigger\n"
    )
    assert done.returncode == 4
    assert b"Kernel panic" in done.stderr or b"panicked" in done.stderr
    assert b"Traceback" not in done.stderr


def test_boot_on_a_terminal(name: str, environment: dict[str, str]) -> None:
    with Terminal([*HARNESS, "boot", str(GUESTS / "pv.yaml"), "--name", name], environment) as terminal:
        terminal.expect(b"Ctrl-] ends it")
        terminal.expect(b"# ")
        terminal.type(b"tty\n")
        terminal.expect(b"/dev/ttyS0")
        terminal.type(b"\x1d")
        assert terminal.wait() == 0
    assert scratch(name) == []
