"""Features of network cards that are negotiated: each can be switched off; queues, notification, MTU, multicast."""

from __future__ import annotations

import os
import struct

import pytest

from harness.backend.network_client import NetworkClient
from harness.backend.tap import VNET_F_NEEDS_CSUM, VNET_GSO_TCPV4, VNET_GSO_TCPV6, VNET_HDR
from harness.bus.features import NetFeatures, Notification
from harness.bus.xenbus import XenbusState
from harness.ring.netif import RxFlags, Status
from tests.unit.backend_guest import Guest
from tests.unit.net_packets import (
    MAC,
    PEER_MAC,
    checksum,
    ethernet,
    ipv6_tcp_packet,
    pseudo_header,
    pseudo_header_v6,
    tcp_packet,
)
from tests.unit.netfront import FRAMES, OFFLOADS, card, connected
from tests.unit.netpeer import Peer, needs_tap, plugged_in

OKAY, ERROR, NULL = Status.OKAY, Status.ERROR, Status.NULL
BLANK = RxFlags.CSUM_BLANK | RxFlags.DATA_VALIDATED
MSS = 1448
BULK = bytes(index * 7 % 251 for index in range(20_000))
BROADCAST = b"\xff" * 6

pytestmark = needs_tap


def incoming(payload: bytes, target: bytes = MAC) -> bytes:
    return ethernet(payload, 0x88B5, PEER_MAC, target)


# ---- switches ------------------------------------------------------------------------------------------------------


ALL_ON = {
    "feature-rx-copy": "1",
    "feature-rx-flip": "0",
    "feature-sg": "1",
    "feature-gso-tcpv4": "1",
    "feature-gso-tcpv6": "1",
    "feature-ipv6-csum-offload": "1",
    "feature-split-event-channels": "1",
    "feature-multicast-control": "1",
    "feature-dynamic-multicast-control": "1",
    "feature-ctrl-ring": "1",
    "feature-persistent": "1",
    "multi-queue-max-queues": "8",
    "mtu": "1500",
}


@pytest.mark.parametrize(
    ("features", "missing", "other"),
    [
        (NetFeatures(), [], {}),
        (NetFeatures(sg=False), ["feature-sg"], {}),
        (NetFeatures(gso_tcpv4=False), ["feature-gso-tcpv4"], {}),
        (NetFeatures(gso_tcpv6=False), ["feature-gso-tcpv6"], {}),
        (NetFeatures(csum_offload=False), [], {"feature-no-csum-offload": "1"}),
        (NetFeatures(ipv6_csum_offload=False), ["feature-ipv6-csum-offload"], {}),
        (NetFeatures(split_event_channels=False), ["feature-split-event-channels"], {}),
        (NetFeatures(ctrl_ring=False), ["feature-ctrl-ring"], {}),
        (NetFeatures(persistent=False), ["feature-persistent"], {}),
        (NetFeatures(queues=2), [], {"multi-queue-max-queues": "2"}),
        (
            NetFeatures(multicast_control=False),
            ["feature-multicast-control", "feature-dynamic-multicast-control"],
            {},
        ),
    ],
)
def test_what_is_switched_off_is_not_published(
    guest: Guest, network: NetworkClient, features: NetFeatures, missing: list[str], other: dict[str, str]
) -> None:
    with card(guest, features=features) as device:
        guest.wait_for_backend(device, XenbusState.INIT_WAIT)
        names = [*guest.store.directory(device.backend)]
        published = {
            name: guest.backend_node(device, name)
            for name in names
            if name.startswith(("feature-", "multi-queue-")) or name == "mtu"
        }
    assert published == {name: value for name, value in ALL_ON.items() if name not in missing} | other


@pytest.mark.parametrize("notification", Notification)
@pytest.mark.parametrize("persistent", [True, False])
def test_packets_pass_both_ways_however_the_backend_is_notified(
    guest: Guest, peer: Peer, notification: Notification, persistent: bool
) -> None:
    offers = OFFLOADS | {"feature-persistent": int(persistent)}
    with connected(guest, offers=offers, notification=notification) as front:
        front.post(range(FRAMES))
        for index in range(100):
            packet = incoming(struct.pack(">H", index) * (40 + index))
            peer.send(packet)
            received = front.receive()
            assert received.data == packet
            front.post(received.frames)
            answer = ethernet(packet[14:], 0x88B5)
            assert front.send(answer) == [OKAY]
            assert peer.receive()[1] == answer


def test_what_is_switched_off_is_not_used_whatever_the_frontend_says(guest: Guest, peer: Peer) -> None:
    off = NetFeatures(sg=False, csum_offload=False, ipv6_csum_offload=False)
    with connected(guest, features=off) as front:
        front.post(range(FRAMES))
        packet = tcp_packet(BULK, source=PEER_MAC, target=MAC)
        peer.send(packet, VNET_HDR.pack(VNET_F_NEEDS_CSUM, VNET_GSO_TCPV4, 54, MSS, 34, 16))
        data = b""
        while len(data) < len(BULK):
            received = front.receive()
            assert (received.flags, received.gso) == (0, None)
            assert checksum(pseudo_header(received.data[34:], 6) + received.data[34:]) == 0
            data += received.data[54:]
        assert data == BULK


@pytest.mark.parametrize(
    ("offers", "ipv4_blank", "ipv6_blank"),
    [
        (OFFLOADS, True, True),
        (OFFLOADS | {"feature-ipv6-csum-offload": 0}, True, False),
        (OFFLOADS | {"feature-no-csum-offload": 1}, False, True),
        ({"feature-no-csum-offload": 1}, False, False),
    ],
)
@pytest.mark.parametrize("size", [100, 101])
def test_a_checksum_is_finished_for_a_frontend_that_does_not_take_it_blank(
    guest: Guest, peer: Peer, offers: dict[str, int], ipv4_blank: bool, ipv6_blank: bool, size: int
) -> None:
    with connected(guest, offers=offers) as front:
        front.post(range(FRAMES))
        packet = tcp_packet(BULK[:size], source=PEER_MAC, target=MAC)
        peer.send(packet, VNET_HDR.pack(VNET_F_NEEDS_CSUM, 0, 0, 0, 34, 16))
        received = front.receive()
        assert received.flags == (BLANK if ipv4_blank else 0)
        whole = checksum(pseudo_header(received.data[34:], 6) + received.data[34:]) == 0
        assert received.data == packet if ipv4_blank else whole
        packet = ipv6_tcp_packet(BULK[:size], source=PEER_MAC, target=MAC)
        peer.send(packet, VNET_HDR.pack(VNET_F_NEEDS_CSUM, 0, 0, 0, 54, 16))
        received = front.receive()
        assert received.flags == (BLANK if ipv6_blank else 0)
        whole = checksum(pseudo_header_v6(received.data[54:], 6) + received.data[54:]) == 0
        assert received.data == packet if ipv6_blank else whole


@pytest.mark.parametrize("whole", [True, False])
def test_large_ipv6_segments_come_in_whole_only_for_who_takes_them(guest: Guest, peer: Peer, whole: bool) -> None:
    with connected(guest, features=NetFeatures(gso_tcpv6=whole)) as front:
        front.post(range(FRAMES))
        packet = ipv6_tcp_packet(BULK, source=PEER_MAC, target=MAC)
        peer.send(packet, VNET_HDR.pack(VNET_F_NEEDS_CSUM, VNET_GSO_TCPV6, 74, 1428, 54, 16))
        received = front.receive()
        if whole:
            assert (received.data, received.gso) == (packet, (1428, 2))
        else:
            assert (len(received.data), received.gso) == (74 + 1428, None)


# ---- queues --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("split", [True, False])
@pytest.mark.parametrize("queues", [2, 8])
def test_packets_of_all_queues_go_out(guest: Guest, peer: Peer, queues: int, split: bool) -> None:
    with connected(guest, queues=queues, split=split) as front:
        for round_ in range(10):
            for number, queue in enumerate(front.queues):
                packet = ethernet(struct.pack(">HH", round_, number) * 100, kind=0x88B5)
                assert queue.send(packet) == [OKAY]
                assert peer.receive()[1] == packet


def test_every_packet_comes_in_on_one_of_the_queues(guest: Guest, peer: Peer) -> None:
    """Which one is the backend's choice; flows are spread by the TAP device."""
    with connected(guest, queues=4) as front:
        for queue in front.queues:
            queue.post(range(FRAMES))
        used = set()
        for port in range(64):
            data = struct.pack(">H", port) * 20
            packet = tcp_packet(data, source=PEER_MAC, target=MAC)
            packet = packet[:34] + struct.pack(">H", 3000 + port) + packet[36:]
            peer.send(packet)
            number, received = front.receive_on_any()
            assert received.data == packet
            front.queues[number].post(received.frames)
            used.add(number)
        assert len(used) > 1


# ---- MTU -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("mtu", "size"), [(9000, 9014), (65521, 65535)])
def test_jumbo_packets_pass_both_ways(guest: Guest, network: NetworkClient, mtu: int, size: int) -> None:
    with plugged_in(network, offload=False, name="jumbo", mtu=mtu) as jumbo, connected(guest, mtu=mtu) as front:
        assert guest.backend_node(front.device, "mtu") == str(mtu)
        # To everybody, since the bridge may remember another port for the peer's address.
        packet = ethernet(os.urandom(size - 14), kind=0x88B5, target=BROADCAST)
        slots = -(-size // 4096)
        assert front.send(packet, *[4096] * (slots - 1)) == [OKAY] * slots
        assert jumbo.receive()[1] == packet
        front.post(range(FRAMES))
        # The first one is read in the expectation of a large segment, the second one not.
        for _ in range(2):
            packet = incoming(os.urandom(size - 14))
            jumbo.send(packet)
            received = front.receive()
            assert received.data == packet
            assert len(received.statuses) == slots
            front.post(received.frames)


@pytest.mark.parametrize(
    ("features", "offers"), [(NetFeatures(sg=False), OFFLOADS), (NetFeatures(), OFFLOADS | {"feature-sg": 0})]
)
def test_without_scatter_gather_packets_are_no_larger_than_usual(
    guest: Guest, network: NetworkClient, features: NetFeatures, offers: dict[str, int]
) -> None:
    with (
        plugged_in(network, offload=False, name="jumbo", mtu=9000) as jumbo,
        connected(guest, mtu=9000, features=features, offers=offers) as front,
    ):
        assert guest.backend_node(front.device, "mtu") == ("9000" if features.sg else "1500")
        front.post(range(FRAMES))
        # The bridge leaves room for a VLAN's tag.
        jumbo.send(incoming(bytes(1505)))
        packet = incoming(bytes(1500))
        jumbo.send(packet)
        assert front.receive().data == packet


def test_an_mtu_that_cannot_be_is_refused(guest: Guest, network: NetworkClient) -> None:
    with card(guest, mtu=70_000) as device:
        guest.wait_until_failed(device, "mtu is b'70000'")
