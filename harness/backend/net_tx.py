"""Serves a network transmit ring: takes packets out of the guest's frames and writes them to a TAP device."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from typing import NamedTuple

from harness.backend.net_multicast import MulticastFilter
from harness.backend.net_ring import Attachment, Slots
from harness.backend.packet import HEADER_BYTES, MIN_PACKET, find_transport
from harness.backend.tap import VNET_F_NEEDS_CSUM, VNET_GSO_NONE, VNET_GSO_TCPV4, VNET_GSO_TCPV6, VNET_HDR
from harness.backend.trace import RingTrace
from harness.host.errors import GuestError
from harness.hypervisor.events import fence
from harness.hypervisor.grants import GrantError
from harness.hypervisor.layout import FRAME_SIZE
from harness.ring.netif import (
    EXTRA,
    EXTRA_FLAG_MORE,
    EXTRA_GSO,
    GSO_TYPE_TCPV4,
    GSO_TYPE_TCPV6,
    SLOTS_MIN,
    TX_ENTRY_SIZE,
    TX_REQUEST,
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

REQUESTS = Slots("IHHHH")
FIELDS = 5
"""Of a request: grant reference, offset, flags, id, size."""
RESPONSES = Slots("I8x")
"""In one number: id, and the status above it; the rest of the slot is written as zeros."""
NULL = Status.NULL << 16


class BadPacket(Exception):
    """This packet cannot be sent; it is answered with an error."""


class Extras(NamedTuple):
    """What the extra info slots of a packet say.

    :ivar gso: size and type.
    :ivar multicast: changes of the filter: add or delete, and an address.
    """

    slots: int
    gso: tuple[int, int] | None
    multicast: list[tuple[int, bytes]]


NO_EXTRAS = Extras(0, None, [])


class Transmitter:
    """One transmit ring.

    :ivar ring: its indices.
    :param tap: descriptor of a TAP device with VNET_HDR.
    :param multicast: what the guest changes by dummy packets; None: it has not been offered that.
    :param sent: called after a round in which something was sent: an answer may come.
    :ivar trace: who is told of all that happens, while somebody wants to know.
    """

    def __init__(
        self, attachment: Attachment, tap: int, multicast: MulticastFilter | None, sent: Callable[[], None]
    ) -> None:
        self.name = attachment.name
        self.port = attachment.port
        self.notification = attachment.notification
        self.trace: RingTrace | None = None
        self.ring = BackRing(attachment.page, TX_ENTRY_SIZE, fence)
        self._events = attachment.link.events
        self._memory = attachment.link.memory
        self.mappings = attachment.mappings
        self._tap = tap
        self._multicast = multicast
        self._sent = sent
        self._slots: tuple[int, ...] = ()

    def work(self) -> bool:
        """Send the packets that wait.

        :raise GuestError: the ring, or what is in it, is corrupt.
        """
        waiting = self.ring.unconsumed()
        if not waiting:
            return False
        # From here on only this private copy of the requests is looked at.
        self._slots = REQUESTS.take(self.ring, waiting)
        at = 0
        while at < len(self._slots):
            at = self._packet(at)
        self._sent()
        return True

    def arm(self) -> bool:
        """Have the frontend notify us of its next packet; True when one waits already.

        :raise GuestError: the ring is corrupt.
        """
        return self.ring.final_check()

    def _have(self, end: int) -> None:
        """Have the slots before an index, those of this packet that were published after our last look included."""
        if end > len(self._slots):
            self._slots += REQUESTS.take(self.ring, self.ring.unconsumed())
            if end > len(self._slots):
                raise GuestError("the last slot of a packet to transmit is missing")

    def _packet(self, first: int) -> int:
        """Send the packet that begins at an index; returns where the next one does."""
        slots = self._slots
        rest = first + FIELDS
        flags = slots[first + 2]
        extras = NO_EXTRAS
        if self.trace is not None:
            index = self.ring.cons - (len(slots) - first) // FIELDS
            self.trace.sent(index, slots[first + 3], slots[first + 4])
        if flags & EXTRA_INFO:
            extras = self._extras(rest)
            rest += extras.slots * FIELDS
        end = self._end(rest) if flags & MORE_DATA else rest
        try:
            if extras.multicast:
                status = self._change(extras.multicast)
            else:
                pieces = self._gather(first, rest, end)
                status = self._send(self._vnet_header(pieces, extras.gso, flags), pieces)
        except (BadPacket, GrantError):
            status = Status.ERROR
        finally:
            self.mappings.release()
        self._respond([self._slots[first + 3], *self._slots[rest + 3 : end : FIELDS]], extras.slots, status)
        return end

    def _respond(self, numbers: list[int], extras: int, status: int) -> None:
        """Answer a packet's requests, in their order; those that were extra info come second."""
        if status != Status.OKAY:
            upper = (status & 0xFFFF) << 16
            numbers = [number | upper for number in numbers]
        if extras:
            numbers[1:1] = [NULL] * extras
        if self.trace is not None:
            self.trace.answered(self.ring.prod_pvt, numbers[0] & 0xFFFF, status)
        RESPONSES.put(self.ring, numbers)
        notify = self.ring.push()
        if self.trace is not None:
            self.trace.pushed(self.port, notify)
        if notify:
            self._events.send(self.port)

    def _extras(self, at: int) -> Extras:
        """What the extra info slots from an index on say."""
        gso, multicast = None, []
        for count in range(1, MAX_EXTRAS + 1):
            self._have(at + FIELDS)
            # The same bytes as a request's.
            kind, flags, content = EXTRA.unpack_from(TX_REQUEST.pack(*self._slots[at : at + FIELDS]))
            at += FIELDS
            if not ExtraType.NONE < kind <= ExtraType.HASH:
                raise GuestError(f"a packet to transmit has extra info of type {kind}")
            if kind == ExtraType.GSO:
                size, gso_type, _ = EXTRA_GSO.unpack(content)
                if not size or gso_type not in GSO_TYPES:
                    raise GuestError(f"a packet to transmit has GSO type {gso_type} and size {size}")
                gso = size, gso_type
            elif kind != ExtraType.HASH:
                multicast.append((kind, content))
            if not flags & EXTRA_FLAG_MORE:
                return Extras(count, gso, multicast)
        raise GuestError(f"a packet to transmit has more than {MAX_EXTRAS} extra info slots")

    def _end(self, at: int) -> int:
        """Where the slots of data that begin at an index end."""
        for number, flags in enumerate(self._slots[at + 2 : at + FIELDS * (MAX_SLOTS - 1) : FIELDS], 1):
            if not flags & MORE_DATA:
                return at + number * FIELDS
        if len(self._slots) >= at + FIELDS * (MAX_SLOTS - 1):
            raise GuestError(f"a packet to transmit has more than {MAX_SLOTS} slots")
        self._have(len(self._slots) + FIELDS)
        return self._end(at)

    def _change(self, changes: list[tuple[int, bytes]]) -> Status:
        """Change the multicast filter: what a packet with such extra info is for, it has no data."""
        if self._multicast is None:
            return Status.ERROR
        done = True
        for kind, address in changes:
            if kind == ExtraType.MCAST_DEL:
                self._multicast.remove(address)
            else:
                done = self._multicast.add(address) and done
        return Status.OKAY if done else Status.ERROR

    def _send(self, header: bytes, pieces: list[memoryview]) -> Status:
        try:
            os.writev(self._tap, [header, *pieces])
        except BlockingIOError:
            return Status.DROPPED
        except OSError as error:
            raise BadPacket(error.strerror) from error
        return Status.OKAY

    def _gather(self, first: int, rest: int, end: int) -> list[memoryview]:
        """The guest's memory that holds the packet, adjacent pieces joined.

        :param first: index of the first slot, whose size is that of the whole packet.
        :param rest: where the other slots begin.
        """
        slots = self._slots
        total = slots[first + 4]
        sizes = slots[rest + 4 : end : FIELDS]
        size = total - sum(sizes)
        if total < MIN_PACKET or size < 0 or len(sizes) >= SLOTS_MIN:
            raise BadPacket("size or number of slots")
        if not sizes:
            return self._join(((self._frames((slots[first],), (size,))[0], slots[first + 1], size),))
        offsets = (slots[first + 1], *slots[rest + 1 : end : FIELDS])
        sizes = (size, *sizes)
        frames = self._frames((slots[first], *slots[rest:end:FIELDS]), sizes)
        if sizes[:-1].count(FRAME_SIZE) == len(sizes) - 1 and sizes[-1] <= FRAME_SIZE and not any(offsets):
            # Whole frames, which most often lie side by side.
            begin = frames[0]
            if frames == list(range(begin, begin + len(frames))):
                return [self._memory[begin * FRAME_SIZE : begin * FRAME_SIZE + total]]
        return self._join(zip(frames, offsets, sizes, strict=True))

    def _frames(self, refs: tuple[int, ...], sizes: tuple[int, ...]) -> list[int]:
        """The frames behind grant references; a slot without bytes need not have one."""
        kept = self.mappings.kept
        try:
            return [kept[ref].frame for ref in refs]
        except KeyError:
            return [
                self.mappings.map(ref, write=False).frame if size else 0 for ref, size in zip(refs, sizes, strict=True)
            ]

    def _join(self, parts: Iterable[tuple[int, int, int]]) -> list[memoryview]:
        """The pieces of memory that parts of frames are: frame, offset, size of each."""
        memory = self._memory
        pieces: list[memoryview] = []
        start = end = 0
        for frame, offset, size in parts:
            if offset + size > FRAME_SIZE:
                raise GuestError(f"a slot of a packet to transmit crosses its frame: {size} bytes at {offset}")
            if not size:
                continue
            begin = frame * FRAME_SIZE + offset
            if begin != end:
                if end:
                    pieces.append(memory[start:end])
                start = begin
            end = begin + size
        pieces.append(memory[start:end])
        return pieces

    @staticmethod
    def _vnet_header(pieces: list[memoryview], gso: tuple[int, int] | None, flags: int) -> bytes:
        """What is left to do for a packet without checksum, or larger than the MTU."""
        if not gso and not flags & CSUM_BLANK:
            return PLAIN
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
