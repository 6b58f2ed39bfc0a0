"""A TFTP server (RFC 1350, with the block size of RFC 2348) for one transfer at a time.

With it, a test sends and receives UDP datagrams of chosen sizes using no more than a minimal guest's own programs.
"""

from __future__ import annotations

import socket
import struct
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from harness.backend.network_client import NetworkClient

READ, WRITE, DATA, ACKNOWLEDGEMENT, OPTIONS = 1, 2, 3, 4, 6
HEADER = struct.Struct("!HH")
"""Operation, number of the block."""

MAX_DATAGRAM = 1 << 16
ANSWER_SECONDS = 30.0

Address = tuple[str, int]


class Tftp:
    """A server on a port of its own in the private network."""

    def __init__(self, network: NetworkClient) -> None:
        self._socket = network.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._socket.settimeout(ANSWER_SECONDS)
        self._socket.bind((network.host_address, 0))
        self.port: int = self._socket.getsockname()[1]

    def close(self) -> None:
        self._socket.close()

    def give(self, blocks: Sequence[bytes]) -> None:
        """Answer one request for a file with these blocks: full ones, and at the end a shorter one."""
        size, peer = self._agree(READ)
        assert [len(block) == size for block in blocks] == [True] * (len(blocks) - 1) + [False]
        assert HEADER.unpack(self._receive(peer)) == (ACKNOWLEDGEMENT, 0)
        for number, block in enumerate(blocks, start=1):
            self._socket.sendto(HEADER.pack(DATA, number) + block, peer)
            assert HEADER.unpack(self._receive(peer)) == (ACKNOWLEDGEMENT, number)

    def take(self) -> list[bytes]:
        """Accept one file; returns its blocks as they arrived."""
        size, peer = self._agree(WRITE)
        blocks: list[bytes] = []
        while not blocks or len(blocks[-1]) == size:
            datagram = self._receive(peer)
            assert HEADER.unpack_from(datagram) == (DATA, len(blocks) + 1)
            blocks.append(datagram[HEADER.size :])
            self._socket.sendto(HEADER.pack(ACKNOWLEDGEMENT, len(blocks)), peer)
        return blocks

    def _agree(self, expected: int) -> tuple[int, Address]:
        """Take a request, and agree to the block size that it asks for."""
        request, peer = self._socket.recvfrom(MAX_DATAGRAM)
        assert request[:2] == struct.pack("!H", expected)
        _name, _mode, *options, end = request[2:].split(b"\0")
        assert not end
        size = int(options[options.index(b"blksize") + 1])
        self._socket.sendto(struct.pack("!H", OPTIONS) + b"blksize\0%d\0" % size, peer)
        return size, peer

    def _receive(self, peer: Address) -> bytes:
        datagram, sender = self._socket.recvfrom(MAX_DATAGRAM)
        assert sender == peer
        return datagram


@contextmanager
def tftp(network: NetworkClient) -> Iterator[Tftp]:
    """A server for the length of a test."""
    server = Tftp(network)
    try:
        yield server
    finally:
        server.close()
