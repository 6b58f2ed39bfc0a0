"""What a hostile guest may do to the network backend of a driver domain, and what must come of it."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial

import pytest

from harness.bus.xenbus import XenbusState
from harness.domain.domain import Domain
from harness.pytest_plugin.plugin import StartDomain
from harness.ring.netif import RX_REQUEST, TX_ENTRY_SIZE, TX_REQUEST, Status
from harness.ring.ring import HEADER_SIZE, REQ_PROD
from tests.guest.cards import run
from tests.guest.frontends import (
    BROADCAST,
    FrontendDomain,
    card,
    connected,
    frontend_domain,
    must_be_sound,
    next_packet,
    start_driver,
    works,
)
from tests.unit.backend_guest import wait_until
from tests.unit.net_crimes import BAD_PACKETS, BROKEN_RINGS, put_slots
from tests.unit.net_packets import MAC, ethernet, tcp_packet
from tests.unit.netfront import FRAMES, NOT_GRANTED, OFFLOADS, NetFront

OKAY, ERROR, NULL = Status.OKAY, Status.ERROR, Status.NULL
CONNECTED = XenbusState.CONNECTED
COMPLAINTS = {
    "beyond the frame": "crosses its frame",
    "offset 65535": "crosses its frame",
    "a first slot larger than a frame": "crosses its frame",
    "no last slot": "without its last slot",
    "no extra info": "without its extra info",
    "no second extra info": "without its extra info",
    "21 slots": "far too many slots",
    "extra type 0": "extra info of an unknown type",
    "extra type 5": "extra info of an unknown type",
    "extra type 255": "extra info of an unknown type",
    "extras without end": "too much extra info",
    "GSO size 0": "a GSO size of 0",
    "GSO type 0": "an unknown GSO type",
    "GSO type 3": "an unknown GSO type",
}
STALL_SECONDS = "/sys/module/pvnetback/parameters/rx_stall_seconds"


@pytest.fixture(scope="module")
def driver(request: pytest.FixtureRequest, start_domain_for_module: StartDomain) -> Iterator[Domain]:
    domain = start_driver(start_domain_for_module, request)
    yield domain
    must_be_sound(domain)


@pytest.fixture(scope="module")
def guest(driver: Domain) -> Iterator[FrontendDomain]:
    with frontend_domain(driver) as guest:
        yield guest


@pytest.fixture(scope="module")
def bystanders(guest: FrontendDomain) -> Iterator[tuple[NetFront, NetFront]]:
    with connected(guest, bridge="br1") as one, connected(guest, bridge="br1") as other:
        yield one, other


@pytest.fixture
def sender(guest: FrontendDomain) -> Iterator[NetFront]:
    """A card from which packets come that others get."""
    with connected(guest, bridge="br0") as front:
        yield front


@pytest.fixture(autouse=True)
def _others_go_on(bystanders: tuple[NetFront, NetFront]) -> Iterator[None]:
    """Whatever a test does to its card, others work after it."""
    yield
    works(*bystanders)


@pytest.mark.parametrize("what", BAD_PACKETS)
def test_a_bad_packet_is_an_error_of_its_own(guest: FrontendDomain, what: str) -> None:
    with connected(guest, bridge="br0") as front:
        slots = BAD_PACKETS[what](front)
        front.push()
        statuses = front.statuses(slots)
        assert set(statuses) <= {ERROR, NULL}
        assert front.send(ethernet(bytes(60), 0x88B5, MAC, BROADCAST)) == [OKAY]


def test_headers_in_many_pieces_are_put_together(guest: FrontendDomain) -> None:
    packet = tcp_packet(bytes(range(200)), target=BROADCAST)
    with connected(guest, bridge="br0") as receiver, connected(guest, bridge="br0") as front:
        receiver.post(range(1))
        assert front.send(packet, *[1] * 10, 0, 0, *[5] * 4, 0) == [OKAY] * 18
        assert next_packet(receiver, 0x0800).data == packet


def test_headers_that_end_early_are_an_error(guest: FrontendDomain) -> None:
    whole = tcp_packet(b"", target=BROADCAST)
    with connected(guest, bridge="br0") as front:
        for length in range(14, len(whole)):
            assert front.send(whole[:length], 1, flags=1) == [ERROR] * 2
            assert front.send(whole[:length], 1, flags=1, gso=(1448, 1)) == [ERROR, NULL, ERROR]


@pytest.mark.parametrize("size", [1, 0xFFFE, 0xFFFF])
def test_segments_of_odd_sizes_harm_nobody(guest: FrontendDomain, size: int) -> None:
    packet = tcp_packet(bytes(3000), target=BROADCAST)
    with connected(guest, bridge="br0", offers={}) as small, connected(guest, bridge="br0") as front:
        small.post(range(FRAMES))
        for kind in (1, 2):
            statuses = front.send(packet, flags=1, gso=(size, kind))
            assert statuses == ([OKAY, NULL] if kind == 1 else [ERROR, NULL])


@pytest.mark.parametrize("what", BROKEN_RINGS)
def test_a_frontend_that_must_be_broken_loses_its_card_only(guest: FrontendDomain, what: str) -> None:
    with connected(guest, bridge="br0") as victim:
        BROKEN_RINGS[what](victim)
        victim.push()
        guest.wait_until_failed(victim.device, COMPLAINTS[what])


@pytest.mark.parametrize("ring", ["tx", "rx"])
@pytest.mark.parametrize("ahead", [257, 1 << 31, (1 << 32) - 1])
def test_an_impossible_index_costs_that_card_only(
    guest: FrontendDomain, sender: NetFront, ring: str, ahead: int
) -> None:
    with connected(guest, bridge="br0") as victim:
        victim_ring = victim.tx if ring == "tx" else victim.rx
        victim_ring.memory.cast("I")[REQ_PROD] = (victim_ring.prod_pvt + ahead) & 0xFFFFFFFF
        guest.end.events.send(victim.tx_port)
        # The receive ring is looked at when there is something to receive.
        sender.send(ethernet(bytes(60), 0x88B5, MAC, BROADCAST))
        guest.wait_until_failed(victim.device, "requests than the ring has entries")


def test_a_frame_that_is_not_granted_costs_a_packet(guest: FrontendDomain, sender: NetFront) -> None:
    with connected(guest, bridge="br0") as front:
        front.post([FRAMES, 0])
        for _ in range(2):
            sender.send(ethernet(bytes(60), 0x88B5, MAC, BROADCAST))
        assert front.receive().statuses == [ERROR]
        assert front.receive().statuses == [74]


def test_garbage_in_the_transmit_ring_ends_in_an_error_or_in_answers(guest: FrontendDomain) -> None:
    for seed in range(20):
        dice = random.Random(seed)
        with connected(guest, bridge="br0") as victim:
            for _ in range(dice.randint(1, 200)):
                offset = victim.tx.put()
                victim.tx.memory[offset : offset + TX_ENTRY_SIZE] = dice.randbytes(TX_ENTRY_SIZE)
            victim.push()


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


def test_what_changes_under_the_backends_eyes_is_read_once(guest: FrontendDomain) -> None:
    """A thread of the guest's turns a good request into a bad one and back while the backend looks at it."""
    for _ in range(10):
        with connected(guest, bridge="br0") as victim:
            write = partial(TX_REQUEST.pack_into, victim.tx.memory, HEADER_SIZE, victim.tx_refs[0])
            with repeating(partial(write, 0xFFFF, 0, 1, 60), partial(write, 0, 0, 1, 60)):
                victim.tx.put()
                victim.push()
                wait_until("an end", partial(has_ended, guest, victim, 1))
            if guest.state(victim.device) != CONNECTED:
                guest.wait_until_failed(victim.device, "crosses its frame")


def test_what_changes_in_its_frames_is_copied_before_it_is_looked_at(guest: FrontendDomain) -> None:
    """A thread of the guest's scribbles over the headers of large segments while they are sent."""
    packet = tcp_packet(bytes(8000), target=BROADCAST)
    with connected(guest, bridge="br0", offers={}), connected(guest, bridge="br0") as victim:
        header, dice = victim.tx_frames[0], random.Random(1)

        def scribble() -> None:
            header[12:70] = dice.randbytes(58)
            header[12:70] = packet[12:70]

        with repeating(scribble):
            for _ in range(100):
                statuses = victim.send(packet, 4096, flags=1, gso=(1448, 1))
                assert statuses in ([OKAY, NULL, OKAY], [ERROR, NULL, ERROR])


def has_ended(guest: FrontendDomain, victim: NetFront, answers: int) -> bool:
    """Whether a frontend has got its answers, or has been given up."""
    return victim.tx.unconsumed() >= answers or guest.state(victim.device) != CONNECTED


def test_a_storm_of_events_leaves_other_cards_their_turn(
    guest: FrontendDomain, bystanders: tuple[NetFront, NetFront]
) -> None:
    with connected(guest, bridge="br0") as victim:
        send = guest.end.events.send
        with repeating(lambda: send(victim.tx_port), lambda: send(victim.rx_port)):
            for _ in range(20):
                works(*bystanders)


def test_one_frame_for_everything_confuses_only_its_guest(guest: FrontendDomain, sender: NetFront) -> None:
    """The ring's own page is offered to receive in, and sent from."""
    with connected(guest, bridge="br0") as victim:
        ring_ref = int(str(victim.nodes["rx-ring-ref"]))
        for _ in range(50):
            victim.put(ring_ref, 0, 0, 4096)
        victim.push()
        RX_REQUEST.pack_into(victim.rx.memory, victim.rx.put(), 0, ring_ref)
        victim.rx.push()
        guest.end.events.send(victim.rx_port)
        sender.send(ethernet(random.Random(1).randbytes(1400), 0x88B5, MAC, BROADCAST))
        wait_until("an end", partial(has_ended, guest, victim, 50))


def test_who_offers_no_frames_is_unplugged_until_it_does(guest: FrontendDomain, sender: NetFront) -> None:
    run(guest.driver, f"echo 1 > {STALL_SECONDS}")
    with connected(guest, bridge="br0") as front:
        assert guest.has_carrier(front.device)

        def is_unplugged() -> bool:
            # The first may come before the bridge has heard of the carrier.
            for _ in range(20):
                sender.send(ethernet(bytes(60), 0x88B5, MAC, BROADCAST))
            return not guest.has_carrier(front.device)

        wait_until("the end of patience", is_unplugged)
        front.post(range(FRAMES))
        wait_until("the carrier", lambda: guest.has_carrier(front.device))

        def comes_in() -> bool:
            sender.send(ethernet(bytes(60), 0x88B5, MAC, BROADCAST))
            return bool(front.rx.unconsumed())

        # The bridge hears of it a little later.
        wait_until("a packet", comes_in)
        assert len(front.receive().data) == 74
    run(guest.driver, f"echo 60 > {STALL_SECONDS}")


NODES: Mapping[str, Mapping[str, object]] = {
    "no queues": {"multi-queue-num-queues": 0},
    "too many queues": {"multi-queue-num-queues": 3},
    "a number of queues that is none": {"multi-queue-num-queues": "many"},
    "two queues that are not there": {"multi-queue-num-queues": 2},
    "no copying": {"request-rx-copy": 0},
    "a ring that is not granted": {"tx-ring-ref": NOT_GRANTED},
    "a ring out of range": {"rx-ring-ref": 0xFFFFFFFF},
    "a ring that is no number": {"rx-ring-ref": "-1"},
    "a port that is not open": {"event-channel-tx": 77},
    "a port out of range": {"event-channel-rx": 0xFFFFFFFF},
    "a feature that is neither": {"feature-sg": "perhaps"},
}


@pytest.mark.parametrize("what", NODES)
def test_nodes_that_make_no_sense_cost_the_card(guest: FrontendDomain, what: str) -> None:
    with card(guest, bridge="br0") as device:
        front = NetFront(guest, device, split=True, offers=OFFLOADS)
        guest.write(device.frontend, {**front.nodes, **NODES[what]})
        guest.switch(device, CONNECTED)
        guest.wait_until_failed(device, "")
        assert guest.error(device)
        front.close()


def test_a_frontend_that_plays_with_its_state_harms_only_itself(guest: FrontendDomain) -> None:
    with card(guest, bridge="br0") as device:
        front = NetFront(guest, device, split=True, offers=OFFLOADS)
        guest.write(device.frontend, front.nodes)
        for _ in range(40):
            for state in (CONNECTED, XenbusState.INITIALISING, XenbusState.CLOSED):
                guest.switch(device, state)
        guest.wait_for_backend(device, XenbusState.CLOSED)
        front.close()


def test_a_card_that_is_taken_away_while_it_sends(guest: FrontendDomain, sender: NetFront) -> None:
    for _ in range(5):
        with card(guest, bridge="br0") as device:
            front = NetFront(guest, device, split=True, offers=OFFLOADS).connect()
            for _ in range(10):
                put_slots(front, 100, [])
            front.push()
            sender.send(ethernet(bytes(60), 0x88B5, MAC, BROADCAST))
        front.take_back()
