"""Commands and files through the agent of each guest, over an emulated serial port."""

from __future__ import annotations

import random
import signal
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from harness.domain.domain import Domain
from harness.guest.agent import MAX_STDIN
from harness.guest.completed import CommandTimeout
from harness.host.errors import AgentError, UsageError

LENGTH = 150_001
"""Bytes of a file: several requests' worth, and no multiple of one. The serial port takes seconds for more."""


def test_status_signal_and_streams(domain: Domain) -> None:
    completed = domain.execute(["sh", "-c", "echo out; echo err >&2; exit 200"])
    assert (completed.status, completed.signal) == (200, None)
    assert (completed.stdout, completed.stderr) == (b"out\n", b"err\n")
    killed = domain.execute(["sh", "-c", "echo out; kill -SEGV $$"])
    assert (killed.status, killed.signal, killed.stdout) == (None, signal.SIGSEGV, b"out\n")


def test_arguments_and_environment_arrive_as_they_are(domain: Domain) -> None:
    arguments = ["a b", "$HOME", "", "'\"\\", "*", "ünïcödé", "two\nlines"]
    shown = domain.execute(["sh", "-c", r'printf "%s\0" "$@"', "sh", *arguments]).check().stdout
    assert shown.decode().split("\0")[:-1] == arguments
    assert domain.execute(["sh", "-c", 'echo "$KEY"'], env={"KEY": "a = b"}).check().stdout == b"a = b\n"


def test_a_program_that_does_not_exist(domain: Domain) -> None:
    with pytest.raises(AgentError, match="no-such-program"):
        domain.execute(["no-such-program"])


def test_both_streams_and_the_input_carry_any_byte(domain: Domain) -> None:
    content = random.Random(1).randbytes(100_000) + bytes(range(256))
    completed = domain.execute(["tee", "/dev/stderr"], stdin=content).check()
    assert completed.stdout == content
    assert completed.stderr == content
    with pytest.raises(UsageError, match="write it into a file"):
        domain.execute(["cat"], stdin=bytes(MAX_STDIN + 1))


def test_long_output_is_complete(domain: Domain) -> None:
    lines = 50_000
    completed = domain.execute(["sh", "-c", f"seq {lines}; echo end >&2"]).check()
    assert completed.stderr == b"end\n"
    assert completed.stdout.split() == [b"%d" % number for number in range(1, lines + 1)]


def test_commands_run_side_by_side(domain: Domain) -> None:
    # Each waits for the next one's line, so that none ends unless all of them run at once.
    count = 8
    pipes = [f"/tmp/pipe{number}" for number in range(count)]
    domain.execute(["mkfifo", *pipes]).check()

    def pass_on(number: int) -> bytes:
        script = f'echo {number} >"$2" & cat "$1"'
        return domain.execute(["sh", "-c", script, "sh", pipes[number], pipes[(number + 1) % count]]).check().stdout

    with ThreadPoolExecutor(max_workers=count) as pool:
        heard = list(pool.map(pass_on, range(count)))
    assert heard == [b"%d\n" % ((number - 1) % count) for number in range(count)]


def test_who_takes_too_long_is_killed_with_its_children(domain: Domain) -> None:
    quick = threading.Event()

    def others() -> bytes:
        output = domain.execute(["echo", "still here"]).check().stdout
        quick.set()
        return output

    with ThreadPoolExecutor() as pool:
        other = pool.submit(others)
        with pytest.raises(CommandTimeout, match="it was killed") as caught:
            domain.execute(["sh", "-c", "echo begun; sleep 4711 & sleep 4711"], timeout=2)
        assert other.result() == b"still here\n"
    assert caught.value.stdout == b"begun\n"
    assert quick.is_set()
    assert "4711" not in domain.execute(["ps"]).check().text


def test_files_of_any_content_come_back_as_they_went(domain: Domain) -> None:
    content = random.Random(2).randbytes(LENGTH)
    domain.write_file("/tmp/file", content)
    assert domain.read_file("/tmp/file") == content
    # It is replaced, not overwritten at the beginning only.
    domain.write_file("/tmp/file", b"")
    assert domain.read_file("/tmp/file") == b""
    # A file that has no size to begin with.
    assert domain.read_file("/proc/version").startswith(b"Linux version ")
    with pytest.raises(AgentError, match="/tmp/missing"):
        domain.read_file("/tmp/missing")
