"""What a hostile guest may put into a network card's transmit ring; the caller pushes it."""

from __future__ import annotations

from collections.abc import Callable

from harness.ring.netif import EXTRA_FLAG_MORE, EXTRA_GSO, GSO_TYPE_TCPV4, ExtraType, TxFlags
from tests.unit.net_packets import ethernet, tcp_packet
from tests.unit.netfront import NOT_GRANTED, NetFront

CSUM, MORE, EXTRA = int(TxFlags.CSUM_BLANK), int(TxFlags.MORE_DATA), int(TxFlags.EXTRA_INFO)
PACKET = ethernet(b"a good packet" * 20, kind=0x88B5)


def gso(size: int, kind: int) -> bytes:
    return EXTRA_GSO.pack(size, kind, 0)


def put_slots(front: NetFront, total: int, sizes: list[int], *, refs: list[int] | None = None) -> int:
    """A packet of slots that claim those sizes behind the first, which claims the total."""
    refs = front.tx_refs if refs is None else refs
    front.put(refs[0], 0, MORE if sizes else 0, total)
    for index, size in enumerate(sizes):
        front.put(refs[(index + 1) % len(refs)], 0, MORE if index + 1 < len(sizes) else 0, size)
    return 1 + len(sizes)


def put_crossing(front: NetFront, offset: int, size: int) -> None:
    front.put(front.tx_refs[0], offset, 0, size)


def put_extras(front: NetFront, *extras: tuple[int, int, bytes]) -> None:
    front.put(front.tx_refs[0], 0, EXTRA | CSUM, 100)
    for kind, flags, content in extras:
        front.put_extra(kind, flags, content)


GOOD_GSO = (int(ExtraType.GSO), EXTRA_FLAG_MORE, gso(1448, GSO_TYPE_TCPV4))


BAD_PACKETS: dict[str, Callable[[NetFront], int]] = {
    "shorter than a header": lambda front: put_slots(front, 13, []),
    "empty": lambda front: put_slots(front, 0, []),
    "slots larger than the whole": lambda front: put_slots(front, 100, [50, 51]),
    "19 slots": lambda front: put_slots(front, 1000, [10] * 18),
    "20 slots": lambda front: put_slots(front, 1000, [10] * 19),
    "a frame that is not granted": lambda front: put_slots(front, 100, [], refs=[NOT_GRANTED]),
    "a second frame that is not granted": lambda front: put_slots(
        front, 100, [50], refs=[front.tx_refs[0], NOT_GRANTED]
    ),
    "a reference out of range": lambda front: put_slots(front, 100, [], refs=[0xFFFFFFFF]),
    "a checksum of nothing known": lambda front: front.put_packet(PACKET, [], flags=CSUM),
    "a checksum of too little": lambda front: front.put_packet(tcp_packet(b"")[:50], [], flags=CSUM),
    "a large packet of nothing known": lambda front: front.put_packet(
        PACKET, [], flags=CSUM, gso=(1448, GSO_TYPE_TCPV4)
    ),
}
"""Packets that are answered with an error, and the number of slots they take."""

BROKEN_RINGS: dict[str, Callable[[NetFront], object]] = {
    "beyond the frame": lambda front: put_crossing(front, 4000, 97),
    "offset 65535": lambda front: put_crossing(front, 65535, 60),
    "a first slot larger than a frame": lambda front: put_slots(front, 5000, [100]),
    "no last slot": lambda front: front.put(front.tx_refs[0], 0, MORE, 100),
    "no extra info": lambda front: front.put(front.tx_refs[0], 0, EXTRA, 100),
    "no second extra info": lambda front: put_extras(front, GOOD_GSO),
    "21 slots": lambda front: put_slots(front, 1000, [10] * 20),
    "extra type 0": lambda front: put_extras(front, (0, 0, bytes(6))),
    "extra type 5": lambda front: put_extras(front, (5, 0, bytes(6))),
    "extra type 255": lambda front: put_extras(front, (255, 0, bytes(6))),
    "extras without end": lambda front: put_extras(front, *[GOOD_GSO] * 6),
    "GSO size 0": lambda front: put_extras(front, (1, 0, gso(0, GSO_TYPE_TCPV4))),
    "GSO type 0": lambda front: put_extras(front, (1, 0, gso(1448, 0))),
    "GSO type 3": lambda front: put_extras(front, (1, 0, gso(1448, 3))),
}
"""What ends in the loss of the card."""
