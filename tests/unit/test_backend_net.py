"""A real backend process serving network cards to a frontend in Python, on the real bridge."""

from __future__ import annotations

import os
import socket
import struct
from collections.abc import Iterator

import pytest

from harness.backend.network_client import NetworkClient
from harness.backend.tap import (
    VNET_F_NEEDS_CSUM,
    VNET_GSO_TCPV4,
    VNET_HDR,
)
from harness.bus import toolstack
from harness.bus.xenbus import XenbusState
from harness.ring.netif import GSO_TYPE_TCPV4, RxFlags, Status, TxFlags
from tests.unit.backend_guest import DOMID, Guest
from tests.unit.net_packets import MAC, PEER_MAC, checksum, ethernet, ipv4, pseudo_header, tcp_packet
from tests.unit.netfront import FRAMES, OFFLOADS, NetFront, connected
from tests.unit.netpeer import Peer, needs_tap, plugged_in

OKAY, ERROR, NULL = Status.OKAY, Status.ERROR, Status.NULL
CSUM = TxFlags.CSUM_BLANK | TxFlags.DATA_VALIDATED
MSS = 1448
BULK = bytes(index * 7 % 251 for index in range(30_000))

pytestmark = needs_tap


@pytest.fixture(params=[True, False], ids=["offload", "plain"])
def peer(request: pytest.FixtureRequest, network: NetworkClient) -> Iterator[Peer]:
    """Another card on the bridge, one that finishes checksums and large packets itself, and one that does not."""
    with plugged_in(network, offload=request.param) as peer:
        yield peer


@pytest.fixture(params=[True, False], ids=["split", "one-port"])
def front(request: pytest.FixtureRequest, guest: Guest, network: NetworkClient) -> Iterator[NetFront]:
    with connected(guest, split=request.param) as front:
        yield front


def test_what_the_backend_publishes(guest: Guest, front: NetFront) -> None:
    for feature in (*OFFLOADS, "feature-rx-copy", "feature-split-event-channels"):
        assert guest.backend_node(front.device, feature) == "1"
    assert guest.backend_node(front.device, "hotplug-status") == "connected"
    assert guest.backend_node(front.device, "multi-queue-max-queues") == "8"


@pytest.mark.parametrize(
    ("nodes", "complaint"),
    [
        ({"request-rx-copy": 0}, "request-rx-copy"),
        ({"tx-ring-ref": 4095}, "4095 grants nothing"),
        ({"rx-ring-ref": "x"}, "rx-ring-ref"),
        ({"event-channel-rx": 9999}, "event-channel-rx"),
        ({"multi-queue-num-queues": 0}, "multi-queue-num-queues"),
        ({"multi-queue-num-queues": 9}, "multi-queue-num-queues"),
        ({"multi-queue-num-queues": "two"}, "multi-queue-num-queues"),
        ({"multi-queue-num-queues": 2}, "queue-0/tx-ring-ref is missing"),
        ({"feature-sg": "yes"}, "feature-sg"),
    ],
)
def test_a_frontend_that_writes_nonsense_is_told_so(
    guest: Guest, network: NetworkClient, nodes: dict[str, object], complaint: str
) -> None:
    device = toolstack.add_vif(guest.store, DOMID, 900, "00:16:3e:00:00:01", "br0")
    front = NetFront(guest, device, split=True, offers=OFFLOADS)
    guest.wait_for_backend(device, XenbusState.INIT_WAIT)
    guest.write(device.frontend, {**front.nodes, **nodes})
    guest.switch(device, XenbusState.CONNECTED)
    guest.wait_until_failed(device, complaint)
    front.close()
    guest.store.rm(device.frontend)
    guest.store.rm(device.backend)
    # The TAP device of the failed attempt is gone: its name is free.
    os.close(network.tap(f"vif{DOMID}.900", vnet_hdr=True))
    network.remove_tap(f"vif{DOMID}.900")


# ---- out of the guest ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("sizes", [[], [14], [100, 0, 200], [1] * 13 + [1], [0, 500], [60] * 17])
def test_a_packet_goes_out_however_it_is_cut(front: NetFront, peer: Peer, sizes: list[int]) -> None:
    packet = ethernet(os.urandom(1400), kind=0x88B5)
    assert set(front.send(packet, *sizes)) == {OKAY}
    _, received = peer.receive()
    assert received == packet


def test_packets_keep_their_order(front: NetFront, peer: Peer) -> None:
    packets = [ethernet(struct.pack(">H", index) * 300, kind=0x88B5) for index in range(400)]
    for packet in packets:
        assert front.send(packet) == [OKAY]
        assert peer.receive()[1] == packet


@pytest.mark.parametrize("sizes", [[], [20, 20], [1] * 16])
def test_a_checksum_is_finished_on_the_way(front: NetFront, peer: Peer, sizes: list[int]) -> None:
    packet = tcp_packet(b"some data")
    assert set(front.send(packet, *sizes, flags=CSUM)) == {OKAY}
    header, received = peer.receive()
    if header[0] & VNET_F_NEEDS_CSUM:
        assert header[4:] == (34, 16)
        assert received == packet
    else:
        segment = received[34:]
        assert checksum(pseudo_header(segment, 6) + segment) == 0


def test_a_large_packet_is_cut_on_the_way_if_need_be(front: NetFront, peer: Peer) -> None:
    packet = tcp_packet(BULK)
    sizes = [4096] * 7
    assert sorted(front.send(packet, *sizes, flags=CSUM, gso=(MSS, GSO_TYPE_TCPV4))) == [OKAY] * 8 + [NULL]
    data, packets = b"", 0
    while len(data) < len(BULK):
        header, received = peer.receive()
        packets += 1
        data += received[54:]
        if header[1] == VNET_GSO_TCPV4:
            assert header[:4] == (VNET_F_NEEDS_CSUM, VNET_GSO_TCPV4, 54, MSS)
        elif not header[0] & VNET_F_NEEDS_CSUM:
            assert len(received) <= 1514
            assert checksum(pseudo_header(received[34:], 6) + received[34:]) == 0
    assert data == BULK
    assert packets in (1, -(-len(BULK) // MSS))


# ---- into the guest ------------------------------------------------------------------------------------------------


def test_packets_come_in_in_order(front: NetFront, peer: Peer) -> None:
    front.post(range(FRAMES))
    for index in range(600):
        packet = ethernet(struct.pack(">H", index) * (30 + index), 0x88B5, PEER_MAC, MAC)
        peer.send(packet)
        received = front.receive()
        assert (received.data, received.flags, received.gso) == (packet, 0, None)
        front.post(received.frames)


def test_a_large_packet_comes_in_whole(front: NetFront, peer: Peer) -> None:
    front.post(range(FRAMES))
    packet = tcp_packet(BULK, source=PEER_MAC, target=MAC)
    peer.send(packet, VNET_HDR.pack(VNET_F_NEEDS_CSUM, VNET_GSO_TCPV4, 54, MSS, 34, 16))
    received = front.receive()
    assert received.data == packet
    assert received.flags == (RxFlags.CSUM_BLANK | RxFlags.DATA_VALIDATED | RxFlags.EXTRA_INFO | RxFlags.MORE_DATA)
    assert received.gso == (MSS, GSO_TYPE_TCPV4)
    assert received.statuses == [4096] * 7 + [len(packet) - 7 * 4096]
    assert len(received.frames) == 9


def test_a_large_packet_is_cut_for_a_frontend_that_takes_none(guest: Guest, peer: Peer) -> None:
    with connected(guest, offers={"feature-no-csum-offload": 1}) as front:
        front.post(range(FRAMES))
        packet = tcp_packet(BULK[:20_000], source=PEER_MAC, target=MAC)
        peer.send(packet, VNET_HDR.pack(VNET_F_NEEDS_CSUM, VNET_GSO_TCPV4, 54, MSS, 34, 16))
        data = b""
        while len(data) < 20_000:
            received = front.receive()
            assert (received.flags, received.gso) == (0, None)
            assert checksum(pseudo_header(received.data[34:], 6) + received.data[34:]) == 0
            data += received.data[54:]
        assert data == BULK[:20_000]


def test_a_large_packet_waits_until_there_is_room_for_all_of_it(front: NetFront, peer: Peer) -> None:
    packet = tcp_packet(BULK, source=PEER_MAC, target=MAC)
    peer.send(packet, VNET_HDR.pack(VNET_F_NEEDS_CSUM, VNET_GSO_TCPV4, 54, MSS, 34, 16))
    for index in range(8):
        front.post([index])
        assert not front.rx.unconsumed()
    front.post([8])
    assert front.receive().data == packet


def test_a_guest_that_offers_no_frames_loses_packets_and_nothing_else(front: NetFront, peer: Peer) -> None:
    packets = [ethernet(struct.pack(">H", index) * 100, 0x88B5, PEER_MAC, MAC) for index in range(3000)]
    for packet in packets:
        peer.send(packet)
    assert front.send(ethernet(b"still here" * 10, kind=0x88B5)) == [OKAY]
    peer.receive()
    front.post(range(FRAMES))
    for packet in packets[:FRAMES]:
        assert front.receive().data == packet


def test_a_frame_that_is_not_granted_is_an_error_in_its_place(front: NetFront, peer: Peer) -> None:
    front.post([0, FRAMES, 1])
    packets = [ethernet(bytes([index]) * 100, 0x88B5, PEER_MAC, MAC) for index in range(3)]
    for packet in packets:
        peer.send(packet)
    found = [front.receive() for _ in packets]
    assert [packet.statuses for packet in found] == [[114], [ERROR], [114]]
    assert [packet.data for packet in found] == [packets[0], b"", packets[2]]


# ---- both ways -----------------------------------------------------------------------------------------------------


def test_the_host_pings_the_guest(front: NetFront, network: NetworkClient) -> None:
    """The guest answers ARP and ICMP; the host's side is a socket in the private network."""
    lease = network.lease()
    front.post(range(FRAMES))
    with network.socket(socket.AF_INET, socket.SOCK_RAW) as ping:
        ping.settimeout(20)
        for size in (64, 1000, 1472):
            data = os.urandom(size)
            echo = struct.pack(">BBHHH", 8, 0, 0, 77, size) + data
            echo = echo[:2] + struct.pack(">H", checksum(echo)) + echo[4:]
            ping.sendto(echo, (lease.address, 0))
            while not answer(front, lease.address):
                pass
            received, (sender, _) = ping.recvfrom(65536)
            assert sender == lease.address
            assert received[28:] == data
            assert received[20] == 0
    network.release(lease)


def answer(front: NetFront, address: str) -> bool:
    """Do what a guest's stack does with one packet; True when it was a ping."""
    received = front.receive()
    front.post(received.frames)
    packet, sender = received.data, received.data[6:12]
    own = bytes(map(int, address.split(".")))
    if packet[12:14] == b"\x08\x06" and packet[38:42] == own:
        reply = packet[14:20] + b"\x00\x02" + MAC + own + packet[22:32]
        front.send(ethernet(reply, 0x0806, MAC, sender))
    elif packet[12:14] == b"\x08\x00" and packet[23] == socket.IPPROTO_ICMP:
        echo = b"\0\0\0\0" + packet[38:]
        echo = echo[:2] + struct.pack(">H", checksum(echo)) + echo[4:]
        front.send(ethernet(ipv4(echo, socket.IPPROTO_ICMP, address, "10.77.0.1"), 0x0800, MAC, sender))
        return True
    return False
