"""Receive-side steering: the guest tells by a hash of each packet's flow on which queue it wants to get it."""

from __future__ import annotations

from typing import NamedTuple

from harness.backend.packet import find_flow
from harness.ring.netif import HashAlgorithm, HashType

MAX_KEY = 40
MAX_MAPPING = 128
ALL_TYPES = sum(1 << kind for kind in HashType)
CACHED_FLOWS = 4096


class Hashed(NamedTuple):
    """The hash of a packet."""

    kind: HashType
    value: int


def toeplitz(key: bytes, data: bytes) -> int:
    """The Toeplitz hash as netif.h defines it.

    :param key: zeros follow it.
    """
    length = len(data) * 8
    keys = int.from_bytes(key[: len(data) + 4].ljust(len(data) + 4, b"\0"), "big")
    bits = int.from_bytes(data, "big")
    value = 0
    for position in range(length):
        if bits >> (length - 1 - position) & 1:
            value ^= keys >> (length - position)
    return value & 0xFFFFFFFF


class Steering:
    """What the guest has said about hashing.

    :ivar active: packets have to be hashed. With one queue there is nothing to choose.
    :param queues: of the network interface.
    """

    def __init__(self, queues: int) -> None:
        self.active = False
        self.algorithm = HashAlgorithm.NONE
        self.types = 0
        self._queues = queues
        self._key = b""
        self._mapping: list[int] = []
        self._known: dict[bytes, int] = {}

    def choose(self, algorithm: HashAlgorithm, types: int) -> None:
        """Set the algorithm, and the types of hash, which are bits with HashType's numbers."""
        self.algorithm, self.types = algorithm, types
        self.active = self._queues > 1 and algorithm == HashAlgorithm.TOEPLITZ and types != 0

    def set_key(self, key: bytes) -> None:
        """At most MAX_KEY bytes; zeros follow."""
        self._key = key
        self._known.clear()

    @property
    def size(self) -> int:
        """Entries of the mapping; 0: queues follow from the hash by division."""
        return len(self._mapping)

    def resize(self, size: int) -> None:
        """A mapping of that many zeros."""
        self._mapping = [0] * size

    def change(self, offset: int, part: tuple[int, ...]) -> bool:
        """Replace a part of the mapping; False, and nothing is changed, if it does not fit or names no queue."""
        if offset + len(part) > len(self._mapping) or any(queue >= self._queues for queue in part):
            return False
        # The whole at once: a packet sees the old one or the new one.
        self._mapping = [*self._mapping[:offset], *part, *self._mapping[offset + len(part) :]]
        return True

    def hash(self, header: bytes) -> Hashed | None:
        """The hash of a packet, by the most specific type that the guest has allowed; None: none applies.

        :param header: a private copy of the begin of the packet.
        """
        flow = find_flow(header)
        if flow is None:
            return None
        plain, with_ports = (HashType.IPV6, HashType.IPV6_TCP) if flow.ipv6 else (HashType.IPV4, HashType.IPV4_TCP)
        if flow.tcp_ports and self.types >> with_ports & 1:
            return Hashed(with_ports, self._value(flow.addresses + flow.tcp_ports))
        if self.types >> plain & 1:
            return Hashed(plain, self._value(flow.addresses))
        return None

    def queue(self, hashed: Hashed | None) -> int:
        """Number of the queue for a packet."""
        value = hashed.value if hashed else 0
        return self._mapping[value % len(self._mapping)] if self._mapping else value % self._queues

    def _value(self, data: bytes) -> int:
        value = self._known.get(data)
        if value is None:
            # Who invents flow after flow must not fill our memory with them.
            if len(self._known) >= CACHED_FLOWS:
                self._known.clear()
            value = self._known[data] = toeplitz(self._key, data)
        return value
