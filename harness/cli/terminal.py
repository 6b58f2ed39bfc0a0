"""Connects the user's terminal to a byte stream: a console, or a shell over SSH."""

from __future__ import annotations

import os
import select
import sys
import termios
import tty
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

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
        tty.setraw(descriptor)
        yield
    finally:
        termios.tcsetattr(descriptor, termios.TCSADRAIN, before)


def attach(stream: Stream) -> bool:
    """Copy both ways until the stream ends, or the user leaves with Ctrl-].

    An input that ends (a pipe, /dev/null) only stops the copying in that direction.

    :return: True if the user left, False if the stream ended.
    """
    keyboard, screen = sys.stdin.fileno(), sys.stdout.fileno()
    sources: list[int] = [stream.fileno(), keyboard]
    with _raw(keyboard):
        while True:
            ready, _, _ = select.select(sources, [], [])
            if stream.fileno() in ready:
                data = stream.recv(CHUNK)
                if not data:
                    return False
                os.write(screen, data)
            if keyboard in ready:
                typed = os.read(keyboard, CHUNK)
                before, escape, _ = typed.partition(ESCAPE)
                if before:
                    stream.sendall(before)
                if escape:
                    return True
                if not typed:
                    sources.remove(keyboard)
