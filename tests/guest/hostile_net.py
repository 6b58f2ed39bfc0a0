"""A backend process whose network cards break the protocol when they are told to; the real process in all else.

A card is told what to do by the node ``order`` below its backend's node, and answers by the same text in ``done``.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from unittest.mock import patch

from harness.backend import __main__ as process
from harness.backend import domain
from harness.backend.frontend import Frontend
from harness.backend.loop import Loop
from harness.backend.network_client import NetworkClient
from harness.bus.backend import BackendDevice
from harness.bus.nodes import read_or_none
from harness.hypervisor.events import fence
from harness.hypervisor.layout import FRAME_SIZE
from harness.hypervisor.link import LinkEnd
from harness.ring.netif import (
    EXTRA,
    EXTRA_FLAG_MORE,
    EXTRA_GSO,
    GSO_TYPE_TCPV4,
    RX_ENTRY_SIZE,
    RX_REQUEST,
    RX_RESPONSE,
    TX_ENTRY_SIZE,
    TX_REQUEST,
    TX_RESPONSE,
    ExtraType,
    RxFlags,
    Status,
)
from harness.ring.ring import BackRing
from harness.store.client import StoreClient

MODULE = "tests.guest.hostile_net"
MORE, EXTRAS, BLANK = RxFlags.MORE_DATA, RxFlags.EXTRA_INFO, RxFlags.CSUM_BLANK


@dataclass(frozen=True)
class Part:
    """A receive response: what is written to the frame, and what is said of it.

    :param status: what the response says; None: the length of the data.
    """

    data: bytes = b""
    flags: int = 0
    offset: int = 0
    status: int | None = None


Packet = Sequence[Part | bytes]
"""Parts, and the extra info that takes the place of some."""


def extra(kind: int, content: bytes = b"", *, more: bool = False) -> bytes:
    return EXTRA.pack(kind, EXTRA_FLAG_MORE if more else 0, content)


def gso(size: int, kind: int = GSO_TYPE_TCPV4, *, more: bool = False) -> bytes:
    return extra(ExtraType.GSO, EXTRA_GSO.pack(size, kind, 0), more=more)


GOOD = b"\xff" * 6 + b"\2\0\0\0\0\1" + b"\x88\xb5" + bytes(46)
"""A broadcast frame of an experimental type: all that happens is that it is counted."""
SEGMENTS = (
    b"\xff" * 6 + b"\2\0\0\0\0\1" + b"\x08\0"
    + bytes.fromhex("4500 0bd8 0000 4000 4006 0000 c0000201 c0000202")
    + bytes.fromhex("0001 0002 00000000 00000000 5010 ffff 0000 0000") + bytes(2984)
)  # fmt: skip
"""A TCP packet of two segments for somebody else, without the right checksums."""

PACKETS: Mapping[str, Packet] = {
    "good": [Part(GOOD)],
    "segments whose checksum is not said to be blank": [Part(SEGMENTS, EXTRAS), gso(1460)],
    "negative status": [Part(status=-1)],
    "most negative status": [Part(status=-32768)],
    "status beyond a frame": [Part(status=32767)],
    "offset and status beyond a frame": [Part(GOOD, offset=FRAME_SIZE - 1, status=2)],
    "offset beyond a frame": [Part(GOOD, offset=0xFFFF, status=60)],
    "runt": [Part(GOOD[:13])],
    "nothing at all": [Part()],
    "header in many pieces, and too short": [*[Part(b"x", MORE)] * 12, Part(b"x")],
    "too many slots": [*[Part(GOOD, MORE)] * 30, Part(GOOD)],
    "longer than any packet": [*[Part(bytes(FRAME_SIZE), MORE)] * 16, Part(bytes(FRAME_SIZE))],
    "next slot missing": [Part(GOOD, MORE)],
    "extra info missing": [Part(GOOD, EXTRAS)],
    "next extra info missing": [Part(GOOD, EXTRAS), gso(1460, more=True)],
    "extra info of no type": [Part(GOOD, EXTRAS), extra(ExtraType.NONE)],
    "extra info of an unknown type": [Part(GOOD, EXTRAS), extra(77)],
    "segments of size 0": [Part(SEGMENTS, EXTRAS | BLANK), gso(0)],
    "segments of an unknown type": [Part(SEGMENTS, EXTRAS | BLANK), gso(1460, 7)],
    "segments without headers": [Part(GOOD, EXTRAS | BLANK), gso(1460)],
    "blank checksum in no transport": [Part(GOOD, BLANK)],
}
GOOD_ONES = ("good", "segments whose checksum is not said to be blank")


class HostileCard:
    """A backend that connects as it should, and does nothing but what it is ordered to."""

    def __init__(
        self, name: str, device: BackendDevice, link: LinkEnd, loop: Loop, network: Callable[[], NetworkClient]
    ) -> None:
        self._device = device
        self._link = link
        self._loop = loop
        self._connection = ExitStack()
        self._greedy = False
        self._orders = {**dict.fromkeys(PACKETS, self._deliver), **self._crimes()}
        self._store = StoreClient.connect()
        self._store.watch(f"{device.path}/order", "order")
        loop.watch(self._store.fileno(), self._obey)

    def features(self) -> Mapping[str, str]:
        names = ("rx-copy", "sg", "gso-tcpv4", "gso-tcpv6", "split-event-channels")
        return {f"feature-{name}": "1" for name in names}

    def connect(self, frontend: str) -> Mapping[str, str]:
        front = Frontend(self._device.store, frontend)
        tx_page = front.map(self._connection, self._link, "tx-ring-ref")
        rx_page = front.map(self._connection, self._link, "rx-ring-ref")
        self._tx_port = front.bind(self._connection, self._link, "event-channel-tx")
        self._rx_port = front.bind(self._connection, self._link, "event-channel-rx")
        self._tx = BackRing(tx_page, TX_ENTRY_SIZE, fence)
        self._rx = BackRing(rx_page, RX_ENTRY_SIZE, fence)
        return {}

    def disconnect(self) -> None:
        if not self._greedy:
            self._connection.close()

    def _obey(self) -> None:
        while self._store.poll_event() is not None:
            pass
        order = (read_or_none(self._store, f"{self._device.path}/order") or b"").decode()
        if order:
            self._orders[order](order)
            self._store.write(f"{self._device.path}/done", order)

    # ---- to the receive ring ----

    def _deliver(self, name: str) -> None:
        for part in PACKETS[name]:
            self._rx.unconsumed()
            number, ref = RX_REQUEST.unpack_from(self._rx.memory, self._rx.take())
            at = self._rx.put()
            if isinstance(part, bytes):
                self._rx.memory[at : at + RX_ENTRY_SIZE] = part
                continue
            grant = self._link.grants.map(ref, write=True)
            room = max(0, FRAME_SIZE - part.offset)
            grant.memory[part.offset : part.offset + len(part.data[:room])] = part.data[:room]
            self._link.grants.unmap(grant)
            status = len(part.data) if part.status is None else part.status
            RX_RESPONSE.pack_into(self._rx.memory, at, number, part.offset, part.flags, status)
        self._push(self._rx, self._rx_port)

    def _push(self, ring: BackRing, port: int) -> None:
        ring.push()
        self._link.events.send(port)

    # ---- what costs the card ----

    def _crimes(self) -> Mapping[str, Callable[[str], None]]:
        return {
            "rx response to another request": self._wrong_rx_id,
            "more rx responses than requests": self._rx_overrun,
            "tx response to no request": lambda _: self._answer_all(lambda number: (0x4000 + number, Status.OKAY)),
            "tx responses to one request": lambda _: self._answer_all(lambda number: (7, Status.OKAY)),
            "tx response to extra info": lambda _: self._answer_all(lambda number: (number, Status.NULL)),
            "more tx responses than requests": self._tx_overrun,
            "keep all": self._keep,
        }

    def _wrong_rx_id(self, _: str) -> None:
        number, _ref = RX_REQUEST.unpack_from(self._rx.memory, self._rx.take())
        RX_RESPONSE.pack_into(self._rx.memory, self._rx.put(), number + 1, 0, 0, 60)
        self._push(self._rx, self._rx_port)

    def _rx_overrun(self, _: str) -> None:
        self._rx.prod_pvt += self._rx.size + 1
        self._push(self._rx, self._rx_port)

    def _tx_overrun(self, _: str) -> None:
        self._tx.prod_pvt += 10 * self._tx.size
        self._push(self._tx, self._tx_port)

    def _answer_all(self, answer: Callable[[int], tuple[int, int]]) -> None:
        for _ in range(self._tx.unconsumed()):
            number = TX_REQUEST.unpack_from(self._tx.memory, self._tx.take())[3]
            TX_RESPONSE.pack_into(self._tx.memory, self._tx.put(), *answer(number))
        self._push(self._tx, self._tx_port)

    def _keep(self, _: str) -> None:
        """Map whatever has been granted, and never give it back, whatever happens."""
        self._greedy = True
        for _number in range(self._rx.unconsumed()):
            ref = RX_REQUEST.unpack_from(self._rx.memory, self._rx.take())[1]
            self._link.grants.map(ref, write=True)


if __name__ == "__main__":
    with patch.object(domain, "NetDevice", HostileCard):
        sys.exit(process.main())
