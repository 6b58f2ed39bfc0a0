"""Reads packets from one queue of a TAP device."""

from __future__ import annotations

import os

from harness.backend.tap import (
    VNET_F_DATA_VALID,
    VNET_F_NEEDS_CSUM,
    VNET_GSO_ECN,
    VNET_GSO_TCPV4,
    VNET_GSO_TCPV6,
    VNET_HDR,
)
from harness.bus.features import Notification
from harness.host.errors import HostError
from harness.hypervisor.layout import FRAME_SIZE
from harness.ring.netif import EXTRA, EXTRA_GSO, GSO_TYPE_TCPV4, GSO_TYPE_TCPV6, ExtraType, RxFlags

MAX_PACKET = 17 * FRAME_SIZE
"""More than any packet that a TAP device gives: 64 KiB and an Ethernet header."""
MAX_WAITING = 1000
"""Packets that a queue of a TAP device keeps, unless somebody has changed that."""
HOT_TRIES = 256
"""How often to look for the next packet without having been told of one: an answer often follows."""

HEADER_SIZE = VNET_HDR.size
GSO_TYPES = {VNET_GSO_TCPV4: GSO_TYPE_TCPV4, VNET_GSO_TCPV6: GSO_TYPE_TCPV6}
KNOWN_HEADERS = 256
"""Headers whose meaning is remembered: a connection has few different ones."""

Offload = tuple[int, tuple[int, ...]]
"""What a VNET_HDR says, for the guest: flags of the first response, and entries of extra info as numbers."""


def translate(header: bytes) -> Offload:
    flags, gso_type, _, gso_size, _, _ = VNET_HDR.unpack(header)
    checksum = RxFlags(0)
    if flags & (VNET_F_NEEDS_CSUM | VNET_F_DATA_VALID):
        checksum = RxFlags.DATA_VALIDATED
    if flags & VNET_F_NEEDS_CSUM:
        checksum |= RxFlags.CSUM_BLANK
    kind = GSO_TYPES.get(gso_type & ~VNET_GSO_ECN)
    if kind is None:
        return int(checksum), ()
    extra = EXTRA.pack(ExtraType.GSO, 0, EXTRA_GSO.pack(gso_size, kind, 0))
    return int(checksum | RxFlags.EXTRA_INFO), (int.from_bytes(extra, "little"),)


class Source:
    """One queue.

    :ivar header: the VNET_HDR of the packet read last.
    :ivar length: bytes of that packet.
    :ivar rest: memory for what is not read elsewhere.
    :ivar readable: something may be there.
    :param tap: non-blocking descriptor of a TAP device with VNET_HDR.
    """

    def __init__(self, tap: int) -> None:
        self.header = bytearray(VNET_HDR.size)
        self.length = 0
        self.rest = memoryview(bytearray(MAX_PACKET))
        self.readable = True
        self._tap = tap
        self._tries = 0
        self._known: dict[bytes, Offload] = {}

    def announced(self) -> None:
        """The TAP device has got something."""
        self.readable = True

    def expect(self) -> None:
        """Something has been sent; an answer may come soon."""
        self._tries = HOT_TRIES

    def worth_trying(self, notification: Notification) -> bool:
        """Whether to look for a packet: reading costs less than asking the kernel whether there is one."""
        return self.readable or (self._tries > 0 and notification != Notification.EVENT)

    def read(self, memory: list[memoryview | bytearray]) -> bool:
        """Read a packet to pieces of memory, one after the other; False when there is none.

        :param memory: ``header`` first.
        :raise HostError: the TAP device is gone.
        """
        try:
            size = os.readv(self._tap, memory)
        except BlockingIOError:
            self.readable = False
            self._tries -= 1
            return False
        except OSError as error:
            raise HostError(f"reading from the TAP device failed: {error.strerror}") from error
        self.readable = True
        self._tries = HOT_TRIES
        self.length = size - HEADER_SIZE
        return True

    def put_back(self, data: bytes) -> None:
        """Have a packet as if it had just been read to ``rest``."""
        self.length = len(data)
        self.rest[: len(data)] = data

    def drain(self) -> None:
        """Throw away what waits; who sends faster than that does not keep us here.

        :raise HostError: the TAP device is gone.
        """
        for _ in range(MAX_WAITING):
            if not self.read([self.header, self.rest]):
                return

    def offload(self) -> Offload:
        """What the header of the packet read last says."""
        header = bytes(self.header)
        found = self._known.get(header)
        if found is None:
            if len(self._known) >= KNOWN_HEADERS:
                self._known.clear()
            found = self._known[header] = translate(header)
        return found
