"""The server's half of the ivshmem protocol (QEMU's docs/specs/ivshmem-spec.rst); each client has a socket of its own.

Everything a client is told fits into the socket's buffer, so nobody has to serve the socket. A disconnect is never
sent, and no peer ID ever used twice: either makes QEMU free the peer's descriptors twice. A peer that has ended is
followed by one with another ID, which the others are told of.
"""

from __future__ import annotations

import array
import socket
import struct
from collections.abc import Mapping, Sequence

from harness.host.errors import HostError

PROTOCOL_VERSION = 0
_MESSAGE = struct.Struct("<q")
_SHARED_MEMORY = -1


def _send(server: socket.socket, number: int, descriptor: int | None = None) -> None:
    rights = [] if descriptor is None else [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [descriptor]))]
    server.sendmsg([_MESSAGE.pack(number)], rights)


def queue_messages(
    server: socket.socket, peer: int, memory_fd: int, own_fds: Sequence[int], others: Mapping[int, Sequence[int]]
) -> None:
    """Queue all messages for a new client on the server's end of a stream socket pair.

    :param peer: the client's ID.
    :param memory_fd: the shared memory; its size must be a power of two.
    :param own_fds: one eventfd for each vector of the client.
    :param others: for every other peer's ID, one eventfd for each of its vectors.
    :raise HostError: the socket cannot hold them all.
    """
    messages: list[tuple[int, int | None]] = [(PROTOCOL_VERSION, None), (peer, None), (_SHARED_MEMORY, memory_fd)]
    for other, descriptors in others.items():
        messages += [(other, descriptor) for descriptor in descriptors]
    _queue(server, f"for peer {peer}", [*messages, *((peer, descriptor) for descriptor in own_fds)])


def announce(server: socket.socket, peer: int, descriptors: Sequence[int]) -> None:
    """Tell a client of a peer that has come; arguments and errors as for :func:`queue_messages`."""
    _queue(server, f"about peer {peer}", [(peer, descriptor) for descriptor in descriptors])


def _queue(server: socket.socket, what: str, messages: Sequence[tuple[int, int | None]]) -> None:
    blocking = server.getblocking()
    server.setblocking(False)
    try:
        for number, descriptor in messages:
            _send(server, number, descriptor)
    except OSError as error:
        raise HostError(
            f"cannot queue the ivshmem messages {what}: {error.strerror}",
            hint="raise the limit of open files (ulimit -n) and of socket buffers (net.core.wmem_default)",
        ) from error
    finally:
        server.setblocking(blocking)
