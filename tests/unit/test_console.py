"""The console's log, its readers, and what it makes of a hostile guest."""

from __future__ import annotations

import asyncio
import itertools
import re
import socket
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TypeVar

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import harness.guest.console as console_module
from harness.guest.console import MAX_LINE, ConsoleLog
from harness.guest.oops import Kind
from harness.guest.text import printable
from harness.host.deadline import Deadline
from harness.host.errors import GuestCrashed, GuestGone, GuestSilent

T = TypeVar("T")
PANIC = b"[    9.000000] Kernel panic - not syncing: Attempted to kill init!\r\n"
PANIC_END = b"[    9.100000] ---[ end Kernel panic - not syncing: Attempted to kill init! ]---\r\n"


def soon(seconds: float = 10.0) -> Deadline:
    return Deadline(seconds, "the test")


@pytest.fixture
def log(tmp_path: Path) -> Path:
    return tmp_path / "console.log"


def using(log: Path, body: Callable[[ConsoleLog], Awaitable[T]], *, boots: int = 1) -> T:
    async def main() -> T:
        console = ConsoleLog(log, boots=boots)
        try:
            return await body(console)
        finally:
            console.close()

    return asyncio.run(main())


def test_log_has_time_stamps_and_the_unfinished_last_line(log: Path) -> None:
    async def body(console: ConsoleLog) -> None:
        console.feed(b"first\r\nsec")
        await asyncio.sleep(0.3)
        console.feed(b"ond\r\n\r\nprompt# ")

    using(log, body)
    entries = [re.fullmatch(r"\[ *(\d+\.\d{3})\] (.*)", line) for line in log.read_text().splitlines()]
    assert [entry and entry[2] for entry in entries] == ["first", "second", "", "prompt# "]
    stamps = [float(entry[1]) for entry in entries if entry]
    assert stamps == sorted(stamps)
    assert stamps[1] < 0.3, "a line's time is when it began"


def test_wait_finds_past_present_and_future_lines(log: Path) -> None:
    async def body(console: ConsoleLog) -> None:
        console.feed(b"booted 1\r\nlogin: ")
        assert (await console.wait_for(r"booted (\d)", soon()))[1] == "1"
        assert await console.wait_for("login: $", soon())
        later = asyncio.create_task(console.wait_for("ready", soon()))
        await asyncio.sleep(0)
        for byte in b"re\x1b[1mady\n":
            console.feed(bytes([byte]))
        assert (await later).string == "login: ready"

    using(log, body)


def test_wait_can_leave_out_the_past(log: Path) -> None:
    async def body(console: ConsoleLog) -> None:
        console.feed(b"done\r\n")
        position = console.position
        with pytest.raises(GuestSilent, match=r"did not print 'done' within 0\.05 s"):
            await console.wait_for("done", soon(0.05), after=position)
        again = asyncio.create_task(console.wait_for("done", soon(), after=position))
        await asyncio.sleep(0)
        console.feed(b"done\r\n")
        await again

    using(log, body)


def test_a_line_is_found_even_if_it_is_gone_at_once(log: Path) -> None:
    async def body(console: ConsoleLog) -> None:
        waiter = asyncio.create_task(console.wait_for("needle", soon()))
        await asyncio.sleep(0)
        console.feed(b"needle\n" + b"hay\n" * 10000)
        await waiter

    using(log, body)


def test_silence_shows_the_last_lines_and_the_log(log: Path) -> None:
    async def body(console: ConsoleLog) -> None:
        console.feed(b"one\ntwo \x1b[2J\x07\n")
        with pytest.raises(GuestSilent) as caught:
            await console.wait_for("three", soon(0.01))
        assert caught.value.console == ["one", "two \N{REPLACEMENT CHARACTER}"]
        assert str(log) in str(caught.value)

    using(log, body)


def test_panic_ends_a_wait_with_the_report(log: Path) -> None:
    async def body(console: ConsoleLog) -> None:
        waiter = asyncio.create_task(console.wait_for("never", soon()))
        crash = asyncio.create_task(console.crashed())
        await asyncio.sleep(0)
        console.feed(PANIC + b"[    9.050000] Call Trace:\r\n" + PANIC_END)
        with pytest.raises(GuestCrashed, match=r"panicked.*kill init") as caught:
            await waiter
        assert len(caught.value.console) == 3
        assert "Call Trace" in caught.value.console[1]
        assert "panicked" in str(await crash)
        with pytest.raises(GuestCrashed):
            await console.wait_for("never", soon())

    using(log, body)


def test_report_without_an_end_is_published_after_a_moment(log: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(console_module, "_REPORT_SECONDS", 0.1)

    async def body(console: ConsoleLog) -> None:
        console.feed(PANIC)
        assert console.crash is None
        console.feed(b"RIP: somewhere\n")
        crash = await asyncio.wait_for(console.crashed(), 5)
        assert crash.console[-1] == "RIP: somewhere"

    using(log, body)


def test_end_of_the_console_publishes_an_unfinished_report(log: Path) -> None:
    async def body(console: ConsoleLog) -> None:
        waiter = asyncio.create_task(console.wait_for("never", soon()))
        await asyncio.sleep(0)
        console.feed(PANIC.strip())
        console.close()
        with pytest.raises(GuestCrashed):
            await waiter

    using(log, body)


def test_warning_is_noted_but_not_fatal(log: Path) -> None:
    async def body(console: ConsoleLog) -> None:
        console.feed(b"[    1.000000] WARNING: CPU: 0 PID: 1 at a.c:1 f+0x1/0x2\n---[ end trace 0 ]---\nready\n")
        await console.wait_for("ready", soon())
        assert [warning.kind for warning in console.warnings] == [Kind.WARNING]
        assert console.crash is None

    using(log, body)


def test_second_boot_is_trouble_unless_expected(log: Path) -> None:
    boot = b"[    0.000000] Linux version 6.1.0\r\n"

    async def body(console: ConsoleLog) -> None:
        console.feed(boot)
        console.expect_boot()
        console.feed(boot + b"fine\r\n")
        await console.wait_for("fine", soon())
        console.feed(boot)
        console.close()
        assert console.crash is not None
        assert "booted again" in str(console.crash)

    using(log, body)


def test_what_comes_after_the_end_is_lost(log: Path) -> None:
    async def body(console: ConsoleLog) -> list[str]:
        console.feed(b"last\n")
        console.close()
        # QEMU has ended, but what it had printed is still being read.
        console.feed(b"late\nlater")
        return console.last_lines()

    assert using(log, body) == ["last"]
    assert "late" not in log.read_text()


def test_run_reads_to_the_end_and_write_types(log: Path) -> None:
    async def body(console: ConsoleLog) -> None:
        ours, theirs = socket.socketpair()
        with ours, theirs:
            running = asyncio.create_task(console.run(ours))
            theirs.send(b"login: ")
            await console.wait_for("login: ", soon())
            await console.write(b"root\n")
            assert theirs.recv(100) == b"root\n"
            waiter = asyncio.create_task(console.wait_for("never", soon()))
            await asyncio.sleep(0)
            theirs.close()
            await running
            with pytest.raises(GuestGone, match="has ended"):
                await waiter
            with pytest.raises(GuestGone):
                await console.write(b"x")

    using(log, body)


def test_viewers_get_raw_bytes_and_slow_ones_miss_some(log: Path) -> None:
    async def body(console: ConsoleLog) -> None:
        seen = bytearray()

        async def look() -> None:
            with console.viewer() as viewer:
                async for chunk in viewer:
                    seen.extend(chunk)

        console.feed(b"before")
        looking = asyncio.create_task(look())
        await asyncio.sleep(0)
        console.feed(b"\x1b[1mraw\xff")
        console.feed(b" end")
        while not seen.endswith(b" end"):
            await asyncio.sleep(0)
        with console.viewer() as slow:
            for n in range(10000):
                console.feed(b"%d\n" % n)
            console.close()
            missed = [chunk async for chunk in slow]
        await looking
        assert seen.startswith(b"\x1b[1mraw\xff end")
        assert missed[-1] == b"9999\n"
        assert len(missed) < 10000

    using(log, body)


def test_endless_line_is_cut_and_memory_bounded(log: Path) -> None:
    async def body(console: ConsoleLog) -> None:
        for _ in range(50):
            console.feed(b"x" * 65536)
        assert max(map(len, console.last_lines(10_000))) <= MAX_LINE
        assert len(console.last_lines(10_000)) < 1000
        console.feed(b"\n" + PANIC + PANIC_END)
        assert console.crash is not None

    using(log, body)


def test_log_file_is_bounded(log: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(console_module, "MAX_LOG", 10_000)

    async def body(console: ConsoleLog) -> None:
        console.feed(b"spam\n" * 10_000)
        console.feed(PANIC + PANIC_END)
        assert console.crash is not None

    using(log, body)
    assert log.stat().st_size < 11_000
    assert log.read_text().endswith("(the log ends here: it is full)\n")


def test_hostile_escapes_are_linear(log: Path) -> None:
    async def body(console: ConsoleLog) -> float:
        started = time.monotonic()
        console.feed(b"\x1b]" * 500_000 + b"\n" + b"\x1b[" * 500_000 + b"\n")
        return time.monotonic() - started

    assert using(log, body) < 5


TRANSCRIPT = (
    b"[    0.000000] Linux version 6.1.0\r\nplain \xe2\x82\xac\r\n/ # \x1b[32mecho\x1b[0m\r\n"
    + b"10%\r20%\r100%\r\n[    1.000000] WARNING: CPU: 0 PID: 1 at a.c:1 f\r\n---[ end trace 1 ]---\r\n"
    + b"half a line [    8.000000] BUG: unable to handle page fault for address: 0\r\n"
    + b"[    8.000001][    T1] Oops: 0002 [#1] SMP\r\n"
    + PANIC
    + PANIC_END
    + b"tail"
)


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.integers(0, len(TRANSCRIPT)), max_size=40))
def test_chunk_boundaries_mean_nothing(log: Path, cuts: list[int]) -> None:
    async def body(console: ConsoleLog) -> tuple[list[str], str, int]:
        edges = [0, *sorted(cuts), len(TRANSCRIPT)]
        for start, end in itertools.pairwise(edges):
            console.feed(TRANSCRIPT[start:end])
        return console.last_lines(100), str(console.crash), len(console.warnings)

    lines, crash, warnings = using(log, body)
    assert lines[1:6] == ["plain \u20ac", "/ # echo", "10%", "20%", "100%"]
    assert lines[-1] == "tail"
    assert "panicked" in crash
    assert "unable to handle" in crash
    assert warnings == 1


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.binary(max_size=200), max_size=20))
def test_any_bytes_are_logged_harmlessly(log: Path, chunks: list[bytes]) -> None:
    async def body(console: ConsoleLog) -> list[str]:
        for chunk in chunks:
            console.feed(chunk)
        return console.last_lines(1000)

    lines = using(log, body)
    assert not any(set("\x1b\r\n\x00\x07\x9b") & set(line) for line in lines)


@given(st.text())
def test_printable_leaves_nothing_to_obey(text: str) -> None:
    safe = printable(text)
    assert all(character in "\t\n" or character.isprintable() or ord(character) > 0x9F for character in safe)
    assert printable(safe) == safe
