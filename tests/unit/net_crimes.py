"""What a hostile guest may do to a network card, whoever serves it."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial

from harness.bus.xenbus import XenbusState
from harness.ring.netif import (
    EXTRA_FLAG_MORE,
    EXTRA_GSO,
    GSO_TYPE_TCPV4,
    RX_REQUEST,
    TX_ENTRY_SIZE,
    TX_REQUEST,
    ExtraType,
    TxFlags,
)
from harness.ring.ring import HEADER_SIZE, REQ_PROD
from tests.unit.backend_guest import repeating, wait_until
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


@dataclass(frozen=True)
class Crime:
    """What costs a frontend its card.

    :param commit: does it; the caller pushes the ring.
    :param host: what a backend process on the host complains of.
    :param kernel: what a driver domain's backend does.
    """

    commit: Callable[[NetFront], object]
    host: str
    kernel: str


BROKEN_RINGS: dict[str, Crime] = {
    "beyond the frame": Crime(lambda front: put_crossing(front, 4000, 97), "crosses its frame", "crosses its frame"),
    "offset 65535": Crime(lambda front: put_crossing(front, 65535, 60), "crosses its frame", "crosses its frame"),
    "a first slot larger than a frame": Crime(
        lambda front: put_slots(front, 5000, [100]), "crosses its frame", "crosses its frame"
    ),
    "no last slot": Crime(
        lambda front: front.put(front.tx_refs[0], 0, MORE, 100), "last slot", "without its last slot"
    ),
    "no extra info": Crime(
        lambda front: front.put(front.tx_refs[0], 0, EXTRA, 100), "last slot", "without its extra info"
    ),
    "no second extra info": Crime(lambda front: put_extras(front, GOOD_GSO), "last slot", "without its extra info"),
    "21 slots": Crime(lambda front: put_slots(front, 1000, [10] * 20), "more than 20 slots", "far too many slots"),
    "extra type 0": Crime(
        lambda front: put_extras(front, (0, 0, bytes(6))), "extra info of type 0", "extra info of an unknown type"
    ),
    "extra type 5": Crime(
        lambda front: put_extras(front, (5, 0, bytes(6))), "extra info of type 5", "extra info of an unknown type"
    ),
    "extra type 255": Crime(
        lambda front: put_extras(front, (255, 0, bytes(6))), "extra info of type 255", "extra info of an unknown type"
    ),
    "extras without end": Crime(
        lambda front: put_extras(front, *[GOOD_GSO] * 6), "more than 5 extra", "too much extra info"
    ),
    "GSO size 0": Crime(
        lambda front: put_extras(front, (1, 0, gso(0, GSO_TYPE_TCPV4))), "GSO type 1 and size 0", "a GSO size of 0"
    ),
    "GSO type 0": Crime(lambda front: put_extras(front, (1, 0, gso(1448, 0))), "GSO type 0", "an unknown GSO type"),
    "GSO type 3": Crime(lambda front: put_extras(front, (1, 0, gso(1448, 3))), "GSO type 3", "an unknown GSO type"),
}


def put_garbage(front: NetFront, dice: random.Random) -> None:
    for _ in range(dice.randint(1, 200)):
        offset = front.tx.put()
        front.tx.memory[offset : offset + TX_ENTRY_SIZE] = dice.randbytes(TX_ENTRY_SIZE)


def claim_requests(front: NetFront, ring: str, ahead: int) -> None:
    """Say in a ring, ``tx`` or ``rx``, that there are so many requests more than there are."""
    victim = front.tx if ring == "tx" else front.rx
    victim.memory.cast("I")[REQ_PROD] = (victim.prod_pvt + ahead) & 0xFFFFFFFF
    front.guest.end.events.send(front.tx_port)


def put_one_frame_for_everything(front: NetFront) -> None:
    """Offer the receive ring's own page to receive in, and send from it; returns with both rings pushed."""
    ref = int(str(front.nodes["rx-ring-ref"]))
    for _ in range(50):
        front.put(ref, 0, 0, 4096)
    front.push()
    RX_REQUEST.pack_into(front.rx.memory, front.rx.put(), 0, ref)
    front.rx.push()
    front.guest.end.events.send(front.rx_port)


@contextmanager
def storm(front: NetFront) -> Iterator[None]:
    """Events without end."""
    send = front.guest.end.events.send
    with repeating(lambda: send(front.tx_port), lambda: send(front.rx_port)):
        yield


def change_under_its_eyes(front: NetFront) -> None:
    """Put a request that a thread turns into a bad one and back while the backend looks at it, and see how it ends."""
    write = partial(TX_REQUEST.pack_into, front.tx.memory, HEADER_SIZE, front.tx_refs[0])
    with repeating(partial(write, 0xFFFF, 0, 1, 60), partial(write, 0, 0, 1, 60)):
        front.tx.put()
        front.push()
        wait_for_end(front, 1)
    if front.guest.state(front.device) != XenbusState.CONNECTED:
        front.guest.wait_until_failed(front.device, "crosses its frame")


def wait_for_end(front: NetFront, answers: int) -> None:
    """Wait until a frontend has got its answers, or has been given up."""
    wait_until(
        "an end",
        lambda: front.tx.unconsumed() >= answers or front.guest.state(front.device) != XenbusState.CONNECTED,
    )
