"""Serves a network transmit ring: takes packets out of the guest's frames and writes them to a TAP device."""

from __future__ import annotations

import os

from harness.backend.mappings import Mappings
from harness.backend.packet import HEADER_BYTES, MIN_PACKET, find_transport
from harness.backend.tap import VNET_F_NEEDS_CSUM, VNET_GSO_NONE, VNET_GSO_TCPV4, VNET_GSO_TCPV6, VNET_HDR
from harness.host.errors import GuestError
from harness.hypervisor.events import fence
from harness.hypervisor.grants import GrantError
from harness.hypervisor.layout import FRAME_SIZE
from harness.hypervisor.link import LinkEnd
from harness.ring.netif import (
    EXTRA,
    EXTRA_FLAG_MORE,
    EXTRA_GSO,
    GSO_TYPE_TCPV4,
    GSO_TYPE_TCPV6,
    SLOTS_MIN,
    TX_ENTRY_SIZE,
    TX_REQUEST,
    TX_RESPONSE,
    ExtraType,
    Status,
    TxFlags,
)
from harness.ring.ring import BackRing

MAX_SLOTS = 20
"""A packet of more slots than SLOTS_MIN is dropped; of more than this, the frontend is taken to be broken."""
MAX_EXTRAS = 5

# Plain numbers: operations of an IntFlag are slow.
CSUM_BLANK = int(TxFlags.CSUM_BLANK)
MORE_DATA = int(TxFlags.MORE_DATA)
EXTRA_INFO = int(TxFlags.EXTRA_INFO)

GSO_TYPES = {GSO_TYPE_TCPV4: VNET_GSO_TCPV4, GSO_TYPE_TCPV6: VNET_GSO_TCPV6}
PLAIN = VNET_HDR.pack(0, VNET_GSO_NONE, 0, 0, 0, 0)

Slot = tuple[int, int, int, int, int]
"""A TX_REQUEST: grant reference, offset, flags, id, size."""


class BadPacket(Exception):
    """This packet cannot be sent; it is answered with an error."""


class Transmitter:
    """One transmit ring.

    :param link: where the guest's frames are.
    :param page: the ring's page.
    :param port: local port to notify the frontend by.
    :param tap: descriptor of a TAP device with VNET_HDR.
    """

    def __init__(self, link: LinkEnd, mappings: Mappings, page: memoryview, port: int, tap: int) -> None:
        self._link = link
        self._memory = link.memory
        self._mappings = mappings
        self._page = page
        self._port = port
        self._tap = tap
        self._ring = BackRing(page, TX_ENTRY_SIZE, fence)
        self._waiting = 0

    def work(self) -> bool:
        """Send the packets that wait.

        :raise GuestError: the ring, or what is in it, is corrupt.
        """
        self._waiting = self._ring.unconsumed()
        if not self._waiting:
            return False
        while self._waiting:
            self._packet()
        return True

    def arm(self) -> bool:
        """Have the frontend notify us of its next packet; True when one waits already.

        :raise GuestError: the ring is corrupt.
        """
        return self._ring.final_check()

    def _next(self) -> int:
        """Offset of the next slot of a packet."""
        if not self._waiting:
            self._waiting = self._ring.unconsumed()
            if not self._waiting:
                raise GuestError("the last slot of a packet to transmit is missing")
        self._waiting -= 1
        return self._ring.take()

    def _packet(self) -> None:
        page = self._page
        first: Slot = TX_REQUEST.unpack_from(page, self._next())
        flags = first[2]
        gso, extras = self._extras() if flags & EXTRA_INFO else (None, 0)
        rest = self._rest() if flags & MORE_DATA else []
        try:
            status = self._send(first, rest, gso)
        except (BadPacket, GrantError):
            status = Status.ERROR
        finally:
            self._mappings.release()
        ring = self._ring
        TX_RESPONSE.pack_into(page, ring.put(), first[3], status)
        for _ in range(extras):
            TX_RESPONSE.pack_into(page, ring.put(), 0, Status.NULL)
        for slot in rest:
            TX_RESPONSE.pack_into(page, ring.put(), slot[3], status)
        if ring.push():
            self._link.events.send(self._port)

    def _extras(self) -> tuple[tuple[int, int] | None, int]:
        """Take the extra info slots: GSO size and type, if any, and their number."""
        gso = None
        for number in range(1, MAX_EXTRAS + 1):
            kind, flags, content = EXTRA.unpack_from(self._page, self._next())
            if not ExtraType.NONE < kind <= ExtraType.HASH:
                raise GuestError(f"a packet to transmit has extra info of type {kind}")
            if kind == ExtraType.GSO:
                size, gso_type, _ = EXTRA_GSO.unpack(content)
                if not size or gso_type not in GSO_TYPES:
                    raise GuestError(f"a packet to transmit has GSO type {gso_type} and size {size}")
                gso = size, gso_type
            if not flags & EXTRA_FLAG_MORE:
                return gso, number
        raise GuestError(f"a packet to transmit has more than {MAX_EXTRAS} extra info slots")

    def _rest(self) -> list[Slot]:
        """Take the slots of data after the first."""
        rest: list[Slot] = []
        flags = MORE_DATA
        while flags & MORE_DATA:
            if len(rest) + 1 == MAX_SLOTS:
                raise GuestError(f"a packet to transmit has more than {MAX_SLOTS} slots")
            slot: Slot = TX_REQUEST.unpack_from(self._page, self._next())
            flags = slot[2]
            rest.append(slot)
        return rest

    def _send(self, first: Slot, rest: list[Slot], gso: tuple[int, int] | None) -> Status:
        pieces = self._gather(first, rest)
        header = self._vnet_header(pieces, gso) if first[2] & CSUM_BLANK or gso else PLAIN
        try:
            os.writev(self._tap, [header, *pieces])
        except BlockingIOError:
            return Status.DROPPED
        except OSError as error:
            raise BadPacket(error.strerror) from error
        return Status.OKAY

    def _gather(self, first: Slot, rest: list[Slot]) -> list[memoryview]:
        """The guest's memory that holds the packet, adjacent pieces joined."""
        size = first[4]
        if rest:
            # The first slot tells the size of the whole packet.
            size -= sum(slot[4] for slot in rest)
        if first[4] < MIN_PACKET or size < 0 or len(rest) + 1 > SLOTS_MIN:
            raise BadPacket("size or number of slots")
        memory = self._memory
        pieces: list[memoryview] = []
        start = end = 0
        for ref, offset, length in [(first[0], first[1], size), *((slot[0], slot[1], slot[4]) for slot in rest)]:
            if offset + length > FRAME_SIZE:
                raise GuestError(f"a slot of a packet to transmit crosses its frame: {length} bytes at {offset}")
            if not length:
                continue
            begin = self._mappings.map(ref, write=False).frame * FRAME_SIZE + offset
            if begin != end:
                if end:
                    pieces.append(memory[start:end])
                start = begin
            end = begin + length
        pieces.append(memory[start:end])
        return pieces

    @staticmethod
    def _vnet_header(pieces: list[memoryview], gso: tuple[int, int] | None) -> bytes:
        """What is left to do for a packet without checksum, or larger than the MTU."""
        header = bytes(pieces[0][:HEADER_BYTES])
        for piece in pieces[1:]:
            if len(header) == HEADER_BYTES:
                break
            header += bytes(piece[: HEADER_BYTES - len(header)])
        transport = find_transport(header)
        if transport is None:
            raise BadPacket("no transport header")
        size, kind = (gso[0], GSO_TYPES[gso[1]]) if gso else (0, VNET_GSO_NONE)
        length = transport.end if gso else 0
        return VNET_HDR.pack(VNET_F_NEEDS_CSUM, kind, length, size, transport.start, transport.checksum)
