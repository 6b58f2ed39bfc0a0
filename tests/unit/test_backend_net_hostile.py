"""What a hostile guest may do to the network cards of a real backend process, and what must come of it."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial

import pytest

from harness.bus.features import Notification
from harness.bus.xenbus import XenbusState
from harness.ring.netif import (
    RX_REQUEST,
    TX_ENTRY_SIZE,
    TX_REQUEST,
    Status,
)
from harness.ring.ring import HEADER_SIZE, REQ_PROD
from tests.unit.backend_guest import Guest, domain_below, wait_until
from tests.unit.net_crimes import BAD_PACKETS, BROKEN_RINGS, PACKET
from tests.unit.net_packets import ethernet
from tests.unit.netfront import NetFront, connected
from tests.unit.netpeer import Peer, needs_tap, plugged_in, private_network

OKAY, ERROR, NULL = Status.OKAY, Status.ERROR, Status.NULL
CONNECTED = XenbusState.CONNECTED

pytestmark = needs_tap


@pytest.fixture(scope="module")
def guest(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Guest]:
    with domain_below(tmp_path_factory.mktemp("hostile")) as guest:
        yield guest


@pytest.fixture(scope="module")
def peer(guest: Guest) -> Iterator[Peer]:
    with private_network() as network, plugged_in(network) as peer:
        yield peer


@pytest.fixture
def front(guest: Guest, peer: Peer) -> Iterator[NetFront]:
    """A card that must have sent nothing bad, and must still work, when the test ends."""
    with connected(guest) as front:
        yield front
        assert front.send(PACKET) == [OKAY]
        assert peer.receive()[1] == PACKET


@pytest.mark.parametrize("what", BAD_PACKETS)
def test_a_bad_packet_is_an_error_of_its_own(front: NetFront, what: str) -> None:
    slots = BAD_PACKETS[what](front)
    front.push()
    statuses = front.statuses(slots)
    assert set(statuses) <= {ERROR, NULL}
    assert statuses.count(NULL) == (1 if what.startswith("a large") else 0)


COMPLAINTS = {
    "beyond the frame": "crosses its frame",
    "offset 65535": "crosses its frame",
    "a first slot larger than a frame": "crosses its frame",
    "no last slot": "last slot",
    "no extra info": "last slot",
    "no second extra info": "last slot",
    "21 slots": "more than 20 slots",
    "extra type 0": "extra info of type 0",
    "extra type 5": "extra info of type 5",
    "extra type 255": "extra info of type 255",
    "extras without end": "more than 5 extra",
    "GSO size 0": "GSO type 1 and size 0",
    "GSO type 0": "GSO type 0",
    "GSO type 3": "GSO type 3",
}


@pytest.mark.parametrize("what", BROKEN_RINGS)
def test_a_frontend_that_must_be_broken_loses_its_card_only(guest: Guest, front: NetFront, what: str) -> None:
    with connected(guest) as victim:
        BROKEN_RINGS[what](victim)
        victim.push()
        guest.wait_until_failed(victim.device, COMPLAINTS[what])


@pytest.mark.parametrize("ring", ["tx", "rx"])
@pytest.mark.parametrize("ahead", [257, 1 << 31, (1 << 32) - 1])
def test_an_impossible_index_costs_that_card_only(
    guest: Guest, front: NetFront, peer: Peer, ring: str, ahead: int
) -> None:
    with connected(guest) as victim:
        victim_ring = victim.tx if ring == "tx" else victim.rx
        victim_ring.memory.cast("I")[REQ_PROD] = (victim_ring.prod_pvt + ahead) & 0xFFFFFFFF
        guest.end.events.send(victim.tx_port)
        # The receive ring is looked at when there is something to receive.
        peer.send(b"\xff" * 6 + PACKET[6:])
        guest.wait_until_failed(victim.device, "request index is impossible")


def test_garbage_in_the_transmit_ring_ends_in_an_error_or_in_answers(guest: Guest, front: NetFront) -> None:
    for seed in range(20):
        dice = random.Random(seed)
        with connected(guest) as victim:
            for _ in range(dice.randint(1, 200)):
                offset = victim.tx.put()
                victim.tx.memory[offset : offset + TX_ENTRY_SIZE] = dice.randbytes(TX_ENTRY_SIZE)
            victim.push()
    assert guest.backend.poll() is None


@contextmanager
def repeating(*actions: Callable[[], object]) -> Iterator[None]:
    """Do that over and over, in a thread."""
    stop = threading.Event()

    def repeat() -> None:
        while not stop.is_set():
            for action in actions:
                action()

    thread = threading.Thread(target=repeat)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


def test_what_changes_under_the_backends_eyes_is_read_once(guest: Guest, front: NetFront) -> None:
    """A thread of the guest's turns a good request into a bad one and back while the backend looks at it."""
    for _ in range(20):
        with connected(guest) as victim:
            write = partial(TX_REQUEST.pack_into, victim.tx.memory, HEADER_SIZE, victim.tx_refs[0])
            with repeating(partial(write, 0xFFFF, 0, 1, 60), partial(write, 0, 0, 1, 60)):
                victim.tx.put()
                victim.push()
                wait_until("an end", partial(has_ended, guest, victim, 1))
            if guest.state(victim.device) != CONNECTED:
                guest.wait_until_failed(victim.device, "crosses its frame")


def has_ended(guest: Guest, victim: NetFront, answers: int) -> bool:
    """Whether a frontend has got its answers, or has been given up."""
    return victim.tx.unconsumed() >= answers or guest.state(victim.device) != CONNECTED


@pytest.mark.parametrize("notification", Notification)
def test_a_storm_of_events_leaves_other_cards_their_turn(
    guest: Guest, front: NetFront, peer: Peer, notification: Notification
) -> None:
    with connected(guest, notification=notification) as victim:
        send = guest.end.events.send
        with repeating(lambda: send(victim.tx_port), lambda: send(victim.rx_port)):
            for number in range(20):
                packet = ethernet(bytes([number]) * 100, kind=0x88B5)
                assert front.send(packet) == [OKAY]
                assert peer.receive()[1] == packet


def test_one_frame_for_everything_confuses_only_its_guest(guest: Guest, front: NetFront, peer: Peer) -> None:
    """The ring's own page is offered to receive in, and sent from."""
    with connected(guest) as victim:
        ring_ref = int(str(victim.nodes["rx-ring-ref"]))
        for _ in range(50):
            victim.put(ring_ref, 0, 0, 4096)
        victim.push()
        RX_REQUEST.pack_into(victim.rx.memory, victim.rx.put(), 0, ring_ref)
        victim.rx.push()
        guest.end.events.send(victim.rx_port)
        peer.send(b"\xff" * 6 + random.Random(1).randbytes(1400))
        wait_until("an end", partial(has_ended, guest, victim, 50))
    assert guest.backend.poll() is None
