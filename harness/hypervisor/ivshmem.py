"""The server's half of the ivshmem protocol (QEMU's docs/specs/ivshmem-spec.rst), for exactly one client.

Everything a client is ever told fits into the socket's buffer, so it is queued before QEMU starts and nobody has to
serve the socket. Later messages are never sent: a disconnect makes QEMU free the peer's descriptors twice.
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
    """Queue all messages for a client on the server's end of a stream socket pair.

    :param peer: the client's ID.
    :param memory_fd: the shared memory; its size must be a power of two.
    :param own_fds: one eventfd for each vector of the client.
    :param others: for every other peer's ID, one eventfd for each of its vectors.
    :raise HostError: the socket cannot hold them all.
    """
    blocking = server.getblocking()
    server.setblocking(False)
    try:
        _send(server, PROTOCOL_VERSION)
        _send(server, peer)
        _send(server, _SHARED_MEMORY, memory_fd)
        for other, descriptors in others.items():
            for descriptor in descriptors:
                _send(server, other, descriptor)
        for descriptor in own_fds:
            _send(server, peer, descriptor)
    except OSError as error:
        raise HostError(
            f"cannot queue the ivshmem messages of peer {peer}: {error.strerror}",
            hint="raise the limit of open files (ulimit -n) and of socket buffers (net.core.wmem_default)",
        ) from error
    finally:
        server.setblocking(blocking)
