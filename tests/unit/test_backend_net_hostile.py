"""What a hostile guest may do to the network cards of a real backend process, and what must come of it."""

from __future__ import annotations

import random
from collections.abc import Iterator

import pytest

from harness.bus.features import Notification
from harness.ring.netif import Status
from tests.unit.backend_guest import Guest
from tests.unit.net_crimes import (
    BAD_PACKETS,
    BROKEN_RINGS,
    PACKET,
    change_under_its_eyes,
    claim_requests,
    put_garbage,
    put_one_frame_for_everything,
    storm,
    wait_for_end,
)
from tests.unit.net_packets import ethernet
from tests.unit.netfront import NetFront, connected
from tests.unit.netpeer import Peer, needs_tap

OKAY, ERROR, NULL = Status.OKAY, Status.ERROR, Status.NULL

pytestmark = needs_tap


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


@pytest.mark.parametrize("what", BROKEN_RINGS)
def test_a_frontend_that_must_be_broken_loses_its_card_only(guest: Guest, front: NetFront, what: str) -> None:
    with connected(guest) as victim:
        BROKEN_RINGS[what].commit(victim)
        victim.push()
        guest.wait_until_failed(victim.device, BROKEN_RINGS[what].host)


@pytest.mark.parametrize("ring", ["tx", "rx"])
@pytest.mark.parametrize("ahead", [257, 1 << 31, (1 << 32) - 1])
def test_an_impossible_index_costs_that_card_only(
    guest: Guest, front: NetFront, peer: Peer, ring: str, ahead: int
) -> None:
    with connected(guest) as victim:
        claim_requests(victim, ring, ahead)
        # The receive ring is looked at when there is something to receive.
        peer.send(b"\xff" * 6 + PACKET[6:])
        guest.wait_until_failed(victim.device, "request index is impossible")


def test_garbage_in_the_transmit_ring_ends_in_an_error_or_in_answers(guest: Guest, front: NetFront) -> None:
    for seed in range(20):
        dice = random.Random(seed)
        with connected(guest) as victim:
            put_garbage(victim, dice)
            victim.push()
    assert guest.backend.poll() is None


def test_what_changes_under_the_backends_eyes_is_read_once(guest: Guest, front: NetFront) -> None:
    for _ in range(20):
        with connected(guest) as victim:
            change_under_its_eyes(victim)


@pytest.mark.parametrize("notification", Notification)
def test_a_storm_of_events_leaves_other_cards_their_turn(
    guest: Guest, front: NetFront, peer: Peer, notification: Notification
) -> None:
    with connected(guest, notification=notification) as victim, storm(victim):
        for number in range(20):
            packet = ethernet(bytes([number]) * 100, kind=0x88B5)
            assert front.send(packet) == [OKAY]
            assert peer.receive()[1] == packet


def test_one_frame_for_everything_confuses_only_its_guest(guest: Guest, front: NetFront, peer: Peer) -> None:
    with connected(guest) as victim:
        put_one_frame_for_everything(victim)
        peer.send(b"\xff" * 6 + random.Random(1).randbytes(1400))
        wait_for_end(victim, 50)
    assert guest.backend.poll() is None
