"""What a hostile guest may do to the network backend of a driver domain, and what must come of it."""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping

import pytest

from harness.bus.xenbus import XenbusState
from harness.pytest_plugin.plugin import StartDomain
from harness.ring.netif import Status
from tests.guest.cards import run
from tests.guest.frontends import (
    BROADCAST,
    FrontendDomain,
    bridged_domain,
    card,
    connect,
    connected,
    next_packet,
    works,
)
from tests.unit.backend_guest import repeating, wait_until
from tests.unit.net_crimes import (
    BAD_PACKETS,
    BROKEN_RINGS,
    change_under_its_eyes,
    claim_requests,
    put_garbage,
    put_one_frame_for_everything,
    put_slots,
    storm,
    wait_for_end,
)
from tests.unit.net_packets import MAC, ethernet, tcp_packet
from tests.unit.netfront import FRAMES, NOT_GRANTED, OFFLOADS, NetFront

OKAY, ERROR, NULL = Status.OKAY, Status.ERROR, Status.NULL
CONNECTED = XenbusState.CONNECTED
STALL_SECONDS = "/sys/module/pvnetback/parameters/rx_stall_seconds"


@pytest.fixture(scope="module")
def guest(request: pytest.FixtureRequest, start_domain_for_module: StartDomain) -> Iterator[FrontendDomain]:
    with bridged_domain(start_domain_for_module, request) as guest:
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
        BROKEN_RINGS[what].commit(victim)
        victim.push()
        guest.wait_until_failed(victim.device, BROKEN_RINGS[what].kernel)


@pytest.mark.parametrize("ring", ["tx", "rx"])
@pytest.mark.parametrize("ahead", [257, 1 << 31, (1 << 32) - 1])
def test_an_impossible_index_costs_that_card_only(
    guest: FrontendDomain, sender: NetFront, ring: str, ahead: int
) -> None:
    with connected(guest, bridge="br0") as victim:
        claim_requests(victim, ring, ahead)
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
            put_garbage(victim, dice)
            victim.push()


def test_what_changes_under_the_backends_eyes_is_read_once(guest: FrontendDomain) -> None:
    for _ in range(10):
        with connected(guest, bridge="br0") as victim:
            change_under_its_eyes(victim)


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


def test_a_storm_of_events_leaves_other_cards_their_turn(
    guest: FrontendDomain, bystanders: tuple[NetFront, NetFront]
) -> None:
    with connected(guest, bridge="br0") as victim, storm(victim):
        for _ in range(20):
            works(*bystanders)


def test_one_frame_for_everything_confuses_only_its_guest(guest: FrontendDomain, sender: NetFront) -> None:
    with connected(guest, bridge="br0") as victim:
        put_one_frame_for_everything(victim)
        sender.send(ethernet(random.Random(1).randbytes(1400), 0x88B5, MAC, BROADCAST))
        wait_for_end(victim, 50)


def test_who_offers_no_frames_is_unplugged_until_it_does(guest: FrontendDomain, sender: NetFront) -> None:
    run(guest.driver, f"echo 1 > {STALL_SECONDS}")
    with connected(guest, bridge="br0") as front:
        assert guest.has_carrier(front.device)

        def is_unplugged() -> bool:
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
            front = connect(guest, device)
            for _ in range(10):
                put_slots(front, 100, [])
            front.push()
            sender.send(ethernet(bytes(60), 0x88B5, MAC, BROADCAST))
        front.take_back()
