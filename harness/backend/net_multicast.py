"""Multicast control: a guest says which multicast packets it wants to get, instead of getting them all."""

from __future__ import annotations

MAX_ADDRESSES = 64
BROADCAST = b"\xff" * 6


class MulticastFilter:
    """The addresses of one network interface; all its queues share it.

    :ivar active: the guest wants it applied. It can be changed before that.
    """

    def __init__(self) -> None:
        self.active = False
        self._addresses: set[bytes] = set()

    def add(self, address: bytes) -> bool:
        """Let packets to a multicast address through; False when there are too many already, or it is not one."""
        if not address[0] & 1 or (len(self._addresses) >= MAX_ADDRESSES and address not in self._addresses):
            return False
        self._addresses.add(address)
        return True

    def remove(self, address: bytes) -> None:
        """Let them through no more, if they were at all."""
        self._addresses.discard(address)

    def passes(self, target: bytes) -> bool:
        """Whether the guest gets a packet that is sent to this address."""
        return not (self.active and target[0] & 1) or target == BROADCAST or target in self._addresses
