"""A real backend process carrying a domain's console between its page and a stream."""

from __future__ import annotations

import contextlib
import random
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from harness.host.deadline import Deadline
from harness.hypervisor.layout import GUEST_CONSOLE_PORT
from harness.ring.console import IN_PROD, IN_SIZE, OUT_PROD, OUT_SIZE
from tests.unit.backend_guest import SECONDS, domain_below, pattern, wait_until
from tests.unit.blockfront import connected
from tests.unit.terminal import Terminal


@pytest.fixture
def terminal(tmp_path: Path) -> Iterator[Terminal]:
    ours, theirs = socket.socketpair()
    ours.settimeout(SECONDS)
    with ours, theirs, domain_below(tmp_path, console_fds=[theirs.fileno()]) as guest:
        # Only the backend's copy is left: when it hangs up we see it.
        theirs.close()
        yield Terminal(guest, ours, GUEST_CONSOLE_PORT, guest.memory(guest.end.layout.console_frame))


def test_what_is_printed_is_seen(terminal: Terminal) -> None:
    terminal.print(b"login: ")
    assert terminal.seen(7) == b"login: "


def test_what_is_typed_is_read(terminal: Terminal) -> None:
    terminal.stream.sendall(b"root\n")
    assert terminal.read(5) == b"root\n"


def test_much_in_both_directions_at_once(terminal: Terminal) -> None:
    dice = random.Random(1)
    printed, typed = dice.randbytes(300_000), dice.randbytes(100_000)
    out, in_ = printed, typed
    seen = read = b""
    terminal.stream.setblocking(False)
    deadline = Deadline(SECONDS, "all of it")
    while len(seen) < len(printed) or len(read) < len(typed):
        deadline.check()
        if out:
            out = out[terminal.write(out[: dice.randint(1, OUT_SIZE)]) :]
        read += terminal.input.read(dice.randint(1, IN_SIZE))
        terminal.notify()
        try:
            seen += terminal.stream.recv(dice.randint(1, 9999))
            in_ = in_[terminal.stream.send(in_[: dice.randint(1, 9999)]) :] if in_ else b""
        except BlockingIOError:
            continue
    assert (seen, read) == (printed, typed)


def test_a_guest_waits_for_a_reader_and_loses_nothing(terminal: Terminal) -> None:
    printed = random.Random(2).randbytes(4 << 20)
    length = 0
    # The stream takes a lot before it is full; then the page fills up and stays so.
    while terminal.room_within(0.2):
        length += terminal.write(printed[length : length + OUT_SIZE])
    assert length < len(printed)
    assert terminal.seen(length) == printed[:length]
    terminal.print(b"and on it goes")
    assert terminal.seen(14) == b"and on it goes"


def test_nobody_waits_for_a_reader_that_has_left(terminal: Terminal) -> None:
    terminal.print(b"x" * OUT_SIZE)
    terminal.stream.close()
    terminal.print(b"y" * 100_000)
    wait_until("an empty page", lambda: terminal.output.used == 0)


def test_without_a_stream_what_is_printed_is_thrown_away(tmp_path: Path) -> None:
    with domain_below(tmp_path) as guest, socket.socket() as unused:
        terminal = Terminal(guest, unused, GUEST_CONSOLE_PORT, guest.memory(guest.end.layout.console_frame))
        terminal.print(b"z" * 100_000)
        wait_until("an empty page", lambda: terminal.output.used == 0)


@pytest.mark.parametrize("index", [IN_PROD, OUT_PROD])
def test_impossible_indices_cost_the_console_only(terminal: Terminal, tmp_path: Path, index: int) -> None:
    disk = tmp_path / "disk.img"
    disk.write_bytes(pattern(4096, 9))
    with connected(terminal.guest, disk) as front:
        terminal.words[index // 4] += 5000
        terminal.stream.sendall(b"typed")
        terminal.notify()
        # Whoever reads the stream is told; as a reset, if something typed was not read any more.
        with contextlib.suppress(ConnectionResetError):
            assert terminal.stream.recv(100) == b""
        assert front.read(0, 1) == pattern(4096, 9)
    assert "the indices" in (tmp_path / "backend.log").read_text()
