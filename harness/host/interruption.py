"""Blocking calls that somebody else may have to cut short, because what they wait for can no longer happen."""

from __future__ import annotations

import socket
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext, suppress
from typing import Protocol

Guard = Callable[[Callable[[], object]], AbstractContextManager[None]]
"""Makes a context for blocking calls. It is given what makes them fail: quick, harmless when they have returned, and
callable from any thread. The context may raise a better error in place of theirs."""


def unguarded(_interrupt: Callable[[], object]) -> AbstractContextManager[None]:
    """The guard of somebody who knows nothing that could happen."""
    return nullcontext()


class Connection(Protocol):
    """A socket, or what can be had in place of one."""

    def shutdown(self, how: int, /) -> object:
        """As a socket's."""


def cut(connection: Connection) -> None:
    """End a connection, whatever others do with it: they find it closed by the peer."""
    # It may not be connected yet, or no longer.
    with suppress(OSError):
        connection.shutdown(socket.SHUT_RDWR)
