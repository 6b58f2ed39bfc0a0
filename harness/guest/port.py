"""The byte stream to an agent, cut into lines."""

from __future__ import annotations

import asyncio
import socket

from harness.guest.qga import MAX_LINE, SENTINEL
from harness.host.errors import AgentError, GuestGone

_CHUNK = 65536


class AgentPort:
    """Sends bytes to, and receives lines from, a connected socket. For one task at a time."""

    def __init__(self, sock: socket.socket) -> None:
        sock.setblocking(False)
        self._sock = sock
        self._received = bytearray()
        self._searched = 0

    def close(self) -> None:
        self._sock.close()

    async def send(self, data: bytes) -> None:
        """Send all of it.

        :raise GuestGone: the other end has closed the port.
        """
        try:
            await asyncio.get_running_loop().sock_sendall(self._sock, data)
        except OSError as error:
            raise _gone() from error

    async def line(self) -> bytes:
        """The next line, without its end and without what a sentinel in it makes void.

        :raise GuestGone: the other end has closed the port.
        :raise AgentError: the line is longer than any answer; what has come of it is dropped.
        """
        while (end := self._received.find(b"\n", self._searched)) < 0:
            self._searched = len(self._received)
            if self._searched > MAX_LINE:
                self._received.clear()
                self._searched = 0
                raise AgentError(f"the guest's agent sent a line of more than {MAX_LINE} bytes")
            self._received += await self._receive()
        line = bytes(self._received[:end])
        del self._received[: end + 1]
        self._searched = 0
        return line.rpartition(SENTINEL)[2].strip()

    async def _receive(self) -> bytes:
        try:
            data = await asyncio.get_running_loop().sock_recv(self._sock, _CHUNK)
        except OSError as error:
            raise _gone() from error
        if not data:
            raise _gone()
        return data


def _gone() -> GuestGone:
    return GuestGone("the port to the guest's agent was closed: QEMU has ended")
