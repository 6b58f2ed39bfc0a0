"""Talking to a guest: exec, ssh, and its consoles."""

from __future__ import annotations

import secrets
import signal
import subprocess
import time

import pytest

from tests.guest.cli.commands import HARNESS, Run, wait_for
from tests.guest.cli.terminal import Terminal


def test_exec_passes_both_streams_and_the_status(harness: Run, created: str) -> None:
    done = harness("exec", created, "--", "sh", "-c", "printf 'a\\0\\377b'; echo oops >&2; exit 7")
    assert (done.stdout, done.stderr, done.returncode) == (b"a\0\xffb", b"oops\n", 7)


def test_exec_passes_standard_input_unless_told_not_to(harness: Run, created: str) -> None:
    data = secrets.token_bytes(100_000)
    assert harness("exec", created, "--", "cat", stdin=data).stdout == data
    assert harness("exec", "-n", created, "--", "cat", stdin=data).stdout == b""


def test_exec_leaves_arguments_alone(harness: Run, created: str) -> None:
    words = ["--json", "--", "a b", "", "'", "$HOME", "-n"]
    done = harness("exec", created, "--", "printf", "<%s>", *words)
    assert done.stdout.decode() == "".join(f"<{word}>" for word in words)


def test_exec_tells_its_own_failures(harness: Run, created: str) -> None:
    assert harness("exec", created).returncode == 2
    missing = harness("exec", created, "--", "no-such-program")
    assert missing.returncode == 4
    assert b"no-such-program" in missing.stderr
    assert harness("exec", created, "--", "sh", "-c", "kill -9 $$").returncode == 128 + 9
    slow = harness("exec", "--timeout", "1", created, "--", "sleep", "600")
    assert slow.returncode == 4
    assert b"did not end within 1 s; it was killed" in slow.stderr
    assert b"Traceback" not in missing.stderr + slow.stderr


def test_a_long_command_holds_up_nobody_and_ends_with_its_asker(
    harness: Run, created: str, environment: dict[str, str]
) -> None:
    # The brackets keep the search from finding itself.
    search = "cat /proc/[0-9]*/cmdline | tr '\\0' ' ' | grep -q 'sleep 43[2]1'"
    searching = ("exec", created, "--", "sh", "-c", search)
    asker = subprocess.Popen(
        [*HARNESS, "exec", created, "--", "sleep", "4321"], stdin=subprocess.DEVNULL, env=environment
    )
    try:
        wait_for(lambda: harness(*searching).returncode == 0, asker)
        asker.send_signal(signal.SIGKILL)
    finally:
        asker.kill()
        asker.wait()
    end = time.monotonic() + 10.0
    while harness(*searching).returncode == 0:
        assert time.monotonic() < end, "the command outlived whoever asked for it"


def test_ssh_runs_commands_through_a_shell(harness: Run, created: str) -> None:
    done = harness("ssh", created, "--", "echo $((6 * 7));", "echo oops >&2;", "exit 5")
    assert (done.stdout, done.stderr, done.returncode) == (b"42\n", b"oops\n", 5)
    data = secrets.token_bytes(1_000_000)
    assert harness("ssh", created, "--", "cat", stdin=data).stdout == data


def test_ssh_on_a_terminal(created: str, environment: dict[str, str]) -> None:
    with Terminal([*HARNESS, "ssh", created], environment) as terminal:
        terminal.expect(b"# ")
        terminal.type(b"tty; exit 6\n")
        terminal.expect(b"/dev/pts/0")
        assert terminal.wait() == 6


@pytest.mark.parametrize(("console", "device"), [("serial", "/dev/ttyS0"), ("pv", "/dev/hvc0")])
def test_console_on_a_terminal(console: str, device: str, created: str, environment: dict[str, str]) -> None:
    with Terminal([*HARNESS, "console", "-t", console, created], environment) as terminal:
        terminal.expect(b"Ctrl-] leaves")
        terminal.type(b"\n")
        terminal.expect(b"# ")
        terminal.type(b"tty\n")
        terminal.expect(device.encode())
        terminal.type(b"\x1d")
        assert terminal.wait() == 0
