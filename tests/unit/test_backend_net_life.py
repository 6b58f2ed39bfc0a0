"""What may happen to a connected network card: its guest stalls, closes and comes back, or its backend process dies."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator

import pytest

from harness.backend.network_client import NetworkClient
from harness.bus.xenbus import XenbusState
from harness.ring.netif import Status
from tests.unit.backend_guest import DOMID, Guest, domain_below, wait_until
from tests.unit.net_packets import MAC, PEER_MAC, ethernet
from tests.unit.netfront import FRAMES, OFFLOADS, NetFront, card, connected
from tests.unit.netpeer import Peer, needs_tap

OKAY = Status.OKAY

pytestmark = needs_tap


@pytest.fixture(scope="module")
def guest(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Guest]:
    with domain_below(tmp_path_factory.mktemp("life"), module="tests.unit.impatient_backend") as guest:
        yield guest


def incoming(payload: bytes) -> bytes:
    return ethernet(payload, 0x88B5, PEER_MAC, MAC)


def has_carrier(network: NetworkClient, name: str) -> bool:
    argv, descriptors = network.inside(["ip", "-brief", "link", "show", name])
    line = subprocess.run(argv, pass_fds=descriptors, capture_output=True, text=True, check=True).stdout
    return "NO-CARRIER" not in line


def works(front: NetFront, peer: Peer, *, post: bool = True) -> None:
    """Exchange a packet each way."""
    packet = ethernet(os.urandom(100), kind=0x88B5)
    assert front.send(packet) == [OKAY]
    assert peer.receive()[1] == packet
    if post:
        front.post(range(FRAMES))
    packet = incoming(os.urandom(200))
    peer.send(packet)
    assert front.receive().data == packet


@pytest.mark.parametrize("queues", [1, 2])
def test_a_guest_that_takes_nothing_is_unplugged_until_it_does(
    guest: Guest, network: NetworkClient, peer: Peer, queues: int
) -> None:
    with connected(guest, queues=queues) as front:
        tap = f"vif{DOMID}.{front.device.devid}"
        assert guest.backend_node(front.device, "carrier") == "1"
        assert has_carrier(network, tap)
        for _ in range(20):
            peer.send(incoming(b"x" * 100))
        wait_until("the end of patience", lambda: guest.backend_node(front.device, "carrier") == "0")
        assert not has_carrier(network, tap)
        for queue in front.queues:
            queue.post(range(FRAMES))
        wait_until("the carrier", lambda: guest.backend_node(front.device, "carrier") == "1")
        assert has_carrier(network, tap)

        def comes_in() -> bool:
            peer.send(incoming(b"y" * 60))
            return any(queue.rx.unconsumed() for queue in front.queues)

        # The bridge hears of it a little later.
        wait_until("a packet", comes_in)
        _, received = front.receive_on_any()
        assert received.data == incoming(b"y" * 60)


def test_a_card_can_be_closed_and_opened_many_times(guest: Guest, peer: Peer) -> None:
    with card(guest) as device:
        for _ in range(10):
            front = NetFront(guest, device, split=True, offers=OFFLOADS).connect()
            works(front, peer)
            front.close()
            guest.switch(device, XenbusState.INITIALISING)


def test_a_frontend_that_plays_with_its_state_harms_only_itself(guest: Guest, peer: Peer) -> None:
    with connected(guest) as good:
        with card(guest) as device:
            guest.wait_for_backend(device, XenbusState.INIT_WAIT)
            front = NetFront(guest, device, split=True, offers=OFFLOADS)
            guest.write(device.frontend, front.nodes)
            for _ in range(40):
                for state in (XenbusState.CONNECTED, XenbusState.INITIALISING, XenbusState.CLOSED):
                    guest.switch(device, state)
            guest.wait_for_backend(device, XenbusState.CLOSED)
        works(good, peer)


@pytest.mark.parametrize("queues", [1, 3])
def test_the_successor_of_a_dead_backend_serves_the_card_on_the_same_port(
    guest: Guest, network: NetworkClient, peer: Peer, queues: int
) -> None:
    with connected(guest, queues=queues) as front:
        if queues == 1:
            works(front, peer)
        guest.replace_backend()
        # It does not touch the rings of its predecessor; it waits until the frontend makes new ones.
        guest.wait_for_backend(front.device, XenbusState.INIT_WAIT)
        for queue in front.queues:
            queue.take_back()
        guest.switch(front.device, XenbusState.INITIALISING)
        again = NetFront(guest, front.device, split=True, offers=OFFLOADS, queues=queues)
        again.connect(XenbusState.INITIALISED)
        guest.switch(front.device, XenbusState.CONNECTED)
        assert has_carrier(network, f"vif{DOMID}.{front.device.devid}")
        if queues == 1:
            works(again, peer)
        front.queues = again.queues
