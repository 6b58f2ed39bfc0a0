"""Connects the user's terminal to a byte stream: a console, or a shell over SSH."""

from __future__ import annotations

import os
import select
import signal
import sys
import termios
import threading
import tty
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Protocol

import paramiko

ESCAPE = b"\x1d"
"""Ctrl-]: leaves the console, as in xl console and telnet."""
CHUNK = 65536


class Stream(Protocol):
    """What sockets and SSH channels have in common."""

    def fileno(self) -> int: ...

    def recv(self, size: int, /) -> bytes: ...

    def sendall(self, data: bytes, /) -> None: ...


@contextmanager
def _raw(descriptor: int) -> Iterator[None]:
    """The terminal passes every key on; when it is none, nothing is changed."""
    if not os.isatty(descriptor):
        yield
        return
    before = termios.tcgetattr(descriptor)
    try:
        # Not flushing, which is tty's default: what has been typed already was meant for the guest.
        tty.setraw(descriptor, termios.TCSADRAIN)
        yield
    finally:
        termios.tcsetattr(descriptor, termios.TCSADRAIN, before)


@contextmanager
def _size_changes() -> Iterator[int]:
    """A descriptor that becomes readable whenever the terminal's size changes."""
    changed, noticed = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)

    def note(_number: int, _frame: object) -> None:
        # A full pipe says it already.
        with suppress(BlockingIOError):
            os.write(noticed, b"\0")

    before = signal.signal(signal.SIGWINCH, note)
    try:
        yield changed
    finally:
        signal.signal(signal.SIGWINCH, before)
        os.close(changed)
        os.close(noticed)


def write_all(descriptor: int, data: bytes) -> None:
    """Write all of it, however little the other end takes at a time."""
    while data:
        data = data[os.write(descriptor, data) :]


def attach(stream: Stream, *, on_resize: Callable[[], None] = lambda: None) -> bool:
    """Copy both ways until the stream ends, or the user leaves with Ctrl-].

    An input that ends (a pipe, /dev/null) only stops the copying in that direction.

    :param on_resize: called when the terminal's size has changed.
    :return: True if the user left, False if the stream ended.
    """
    keyboard, screen = sys.stdin.fileno(), sys.stdout.fileno()
    with _raw(keyboard), _size_changes() as resized:
        sources: list[int] = [stream.fileno(), keyboard, resized]
        while True:
            ready, _, _ = select.select(sources, [], [])
            if resized in ready:
                os.read(resized, CHUNK)
                on_resize()
            if stream.fileno() in ready:
                data = _received(stream)
                if not data:
                    return False
                write_all(screen, data)
            if keyboard in ready:
                typed = os.read(keyboard, CHUNK)
                before, escape, _ = typed.partition(ESCAPE)
                # Whether the stream has ended shows when it is read.
                with suppress(OSError):
                    stream.sendall(before)
                if escape:
                    return True
                if not typed:
                    sources.remove(keyboard)


def _received(stream: Stream) -> bytes:
    """What the stream has; nothing when it has ended, in whatever manner."""
    try:
        return stream.recv(CHUNK)
    except ConnectionError:
        return b""


def pass_through(channel: paramiko.Channel) -> None:
    """Give an SSH channel this process's three standard streams until the command at its other end has ended."""
    outputs = [
        threading.Thread(target=_copy, args=(receive, stream.fileno()), daemon=True)
        for receive, stream in ((channel.recv, sys.stdout), (channel.recv_stderr, sys.stderr))
    ]
    for thread in outputs:
        thread.start()
    # Nobody waits for this one: the command may end without having read everything.
    threading.Thread(target=_feed, args=(channel,), daemon=True).start()
    for thread in outputs:
        thread.join()


def _copy(receive: Callable[[int], bytes], output: int) -> None:
    # Where the reader of our output has gone, the rest is thrown away.
    with suppress(OSError):
        while data := receive(CHUNK):
            write_all(output, data)


def _feed(channel: paramiko.Channel) -> None:
    with suppress(OSError, EOFError, paramiko.SSHException):
        while data := os.read(sys.stdin.fileno(), CHUNK):
            channel.sendall(data)
        channel.shutdown_write()
