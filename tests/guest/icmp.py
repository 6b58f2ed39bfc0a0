"""Echo requests from inside the private network, built byte by byte so that every byte can be checked."""

from __future__ import annotations

import secrets
import socket
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Self

from harness.backend.network_client import NetworkClient
from harness.host.deadline import Deadline

ECHO_REPLY, ECHO_REQUEST = 0, 8
HEADER = struct.Struct("!BBHHH")
"""Type, code, checksum, identifier, sequence number."""

IP_MTU_DISCOVER, DONT, DO = 10, 0, 2
"""From linux/in.h, which Python's socket module does not have: whether packets may be fragmented."""

MAX_PACKET = 1 << 16
ANSWER_SECONDS = 20.0


def checksum(packet: bytes) -> int:
    """The internet checksum; 0 over a packet that has the right one in it."""
    words = struct.unpack(f"!{(len(packet) + 1) // 2}H", packet + b"\0" * (len(packet) % 2))
    total: int = sum(words)
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return 0xFFFF - total


@dataclass(frozen=True)
class Echo:
    """An echo request or reply as it arrived."""

    source: str
    kind: int
    identifier: int
    sequence: int
    payload: bytes

    @classmethod
    def parse(cls, packet: bytes) -> Self:
        """Take apart an IP packet with an ICMP message in it; the kernel has checked the outer header only."""
        message = packet[(packet[0] & 0xF) * 4 :]
        assert checksum(message) == 0
        kind, _, _, identifier, sequence = HEADER.unpack_from(message)
        return cls(socket.inet_ntoa(packet[12:16]), kind, identifier, sequence, message[HEADER.size :])


class Icmp:
    """A raw socket in the private network. It sees all ICMP messages that reach the host.

    :param fragment: whether a packet larger than the MTU may be cut into pieces; if not, it is refused.
    """

    def __init__(self, network: NetworkClient, *, fragment: bool) -> None:
        self._socket = network.socket(socket.AF_INET, socket.SOCK_RAW)
        self._socket.setsockopt(socket.IPPROTO_IP, IP_MTU_DISCOVER, DONT if fragment else DO)
        self._identifier = secrets.randbits(16)
        self._sequence = 0

    def close(self) -> None:
        self._socket.close()

    def receive(self, source: str, kind: int) -> Echo:
        """The next echo message of a kind from somewhere; others are none of our business.

        :raise DeadlineExpired: none came.
        """
        deadline = Deadline(ANSWER_SECONDS, f"an ICMP message from {source}")
        while True:
            self._socket.settimeout(deadline.check())
            try:
                echo = Echo.parse(self._socket.recv(MAX_PACKET))
            except TimeoutError:
                continue
            if echo.source == source and echo.kind == kind:
                return echo

    def ping(self, address: str, payload: bytes) -> bytes:
        """Send one request and return the payload of its reply.

        :raise OSError: it is too long to be sent in one piece, and may not be cut.
        """
        self._sequence += 1
        fields = (self._identifier, self._sequence)
        unsigned = HEADER.pack(ECHO_REQUEST, 0, 0, *fields) + payload
        self._socket.sendto(HEADER.pack(ECHO_REQUEST, 0, checksum(unsigned), *fields) + payload, (address, 0))
        while True:
            reply = self.receive(address, ECHO_REPLY)
            if (reply.identifier, reply.sequence) == fields:
                return reply.payload


@contextmanager
def icmp(network: NetworkClient, *, fragment: bool = False) -> Iterator[Icmp]:
    """A raw socket for the length of a test."""
    opened = Icmp(network, fragment=fragment)
    try:
        yield opened
    finally:
        opened.close()
