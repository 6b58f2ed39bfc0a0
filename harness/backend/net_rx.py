"""Serves a network receive ring: reads packets from a TAP device into the frames that the guest has posted."""

from __future__ import annotations

import os

from harness.backend.mappings import Mappings
from harness.backend.tap import (
    VNET_F_DATA_VALID,
    VNET_F_NEEDS_CSUM,
    VNET_GSO_ECN,
    VNET_GSO_NONE,
    VNET_GSO_TCPV4,
    VNET_GSO_TCPV6,
    VNET_HDR,
)
from harness.host.errors import HostError
from harness.hypervisor.events import fence
from harness.hypervisor.grants import GrantError
from harness.hypervisor.layout import FRAME_SIZE
from harness.hypervisor.link import LinkEnd
from harness.ring.netif import (
    EXTRA,
    EXTRA_GSO,
    GSO_TYPE_TCPV4,
    GSO_TYPE_TCPV6,
    RX_ENTRY_SIZE,
    RX_REQUEST,
    RX_RESPONSE,
    ExtraType,
    RxFlags,
    Status,
)
from harness.ring.ring import BackRing

MAX_PACKET = 17 * FRAME_SIZE
"""More than any packet that a TAP device gives: 64 KiB and an Ethernet header."""
BATCH = 64
"""Packets per round, so that the other rings get their turn."""

DATA_VALIDATED = int(RxFlags.DATA_VALIDATED)
CSUM_BLANK = int(RxFlags.CSUM_BLANK)
MORE_DATA = int(RxFlags.MORE_DATA)
EXTRA_INFO = int(RxFlags.EXTRA_INFO)

GSO_TYPES = {VNET_GSO_TCPV4: GSO_TYPE_TCPV4, VNET_GSO_TCPV6: GSO_TYPE_TCPV6}


class Receiver:
    """One receive ring.

    A packet that the guest has no frames for waits here, and those after it in the TAP device, which drops what is
    too much: a guest that posts nothing costs one packet of memory.

    :param link: where the guest's frames are.
    :param page: the ring's page.
    :param port: local port to notify the frontend by.
    :param tap: non-blocking descriptor of a TAP device with VNET_HDR.
    :param sg: the frontend takes packets of several slots.
    """

    def __init__(self, link: LinkEnd, mappings: Mappings, page: memoryview, port: int, tap: int, *, sg: bool) -> None:
        self._link = link
        self._mappings = mappings
        self._page = page
        self._port = port
        self._tap = tap
        self._longest = MAX_PACKET if sg else FRAME_SIZE
        self._ring = BackRing(page, RX_ENTRY_SIZE, fence)
        self._header = bytearray(VNET_HDR.size)
        self._packet = memoryview(bytearray(MAX_PACKET))
        self._length = 0
        self._readable = True

    def readable(self) -> None:
        """The TAP device has got something."""
        self._readable = True

    def work(self) -> bool:
        """Hand over the packets that have come, as far as there are frames for them.

        :raise GuestError: the ring is corrupt.
        :raise HostError: the TAP device is gone.
        """
        done = 0
        while done < BATCH and self._fetch() and self._needed() <= self._ring.unconsumed():
            self._deliver()
            if self._ring.push():
                self._link.events.send(self._port)
            done += 1
        return done > 0

    def arm(self) -> bool:
        """Have the frontend notify us of frames if we wait for some; True when there are enough already.

        :raise GuestError: the ring is corrupt.
        """
        if not self._length:
            return self._readable
        needed = self._needed()
        self._ring.final_check(needed)
        return needed <= self._ring.unconsumed()

    def _fetch(self) -> bool:
        """Have a packet; False when there is none."""
        while not self._length and self._readable:
            try:
                size = os.readv(self._tap, [self._header, self._packet])
            except BlockingIOError:
                self._readable = False
            except OSError as error:
                raise HostError(f"reading from the TAP device failed: {error.strerror}") from error
            else:
                length = size - VNET_HDR.size
                if 0 < length <= self._longest:
                    self._length = length
        return self._length > 0

    def _needed(self) -> int:
        """Slots that the packet takes."""
        slots = -(-self._length // FRAME_SIZE)
        return slots + 1 if self._header[1] & ~VNET_GSO_ECN != VNET_GSO_NONE else slots

    def _deliver(self) -> None:
        flags, gso_type, _, gso_size, _, _ = VNET_HDR.unpack(self._header)
        gso = GSO_TYPES.get(gso_type & ~VNET_GSO_ECN)
        rx_flags = DATA_VALIDATED if flags & (VNET_F_NEEDS_CSUM | VNET_F_DATA_VALID) else 0
        if flags & VNET_F_NEEDS_CSUM:
            rx_flags |= CSUM_BLANK
        if gso is not None:
            rx_flags |= EXTRA_INFO
        length = self._length
        self._length = 0
        for start in range(0, length, FRAME_SIZE):
            end = min(start + FRAME_SIZE, length)
            self._put(self._packet[start:end], rx_flags | MORE_DATA if end < length else rx_flags)
            rx_flags = 0
            if gso is not None:
                # It takes the place of the answer, whatever the request in that slot was.
                self._ring.take()
                content = EXTRA_GSO.pack(gso_size, gso, 0)
                EXTRA.pack_into(self._page, self._ring.put(), ExtraType.GSO, 0, content)
                gso = None

    def _put(self, data: memoryview, flags: int) -> None:
        """Answer the next request with a piece of a packet."""
        request_id, ref = RX_REQUEST.unpack_from(self._page, self._ring.take())
        status: int = len(data)
        try:
            self._mappings.map(ref, write=True).memory[: len(data)] = data
        except GrantError:
            status = Status.ERROR
        self._mappings.release()
        RX_RESPONSE.pack_into(self._page, self._ring.put(), request_id, 0, flags, status)
