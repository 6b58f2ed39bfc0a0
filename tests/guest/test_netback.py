"""The network backend of a driver domain: packets both ways, offloads, several queues, and coming and going."""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator
from dataclasses import replace

import pytest

from harness.bus.hotplug import close_device
from harness.bus.xenbus import XenbusState
from harness.pytest_plugin.plugin import StartDomain
from harness.ring.netif import GSO_TYPE_TCPV4, GSO_TYPE_TCPV6, ExtraType, RxFlags, Status, TxFlags
from tests.guest.cards import run
from tests.guest.frontends import (
    BROADCAST,
    FrontendDomain,
    bridged_domain,
    card,
    connect,
    connected,
    next_packet,
    plug_in,
    works,
)
from tests.unit.backend_guest import wait_until
from tests.unit.net_packets import MAC, checksum, ethernet, ipv4, ipv6_tcp_packet, pseudo_header, tcp_packet
from tests.unit.netfront import DEFAULTS, FRAMES, OFFLOADS, NetFront

OKAY, NULL = Status.OKAY, Status.NULL
BLANK = int(TxFlags.CSUM_BLANK | TxFlags.DATA_VALIDATED)
OURS, THEIRS = "10.77.0.200", "10.77.0.201"
VIF_MAC = bytes.fromhex("feffffffffff")


@pytest.fixture(scope="module")
def guest(request: pytest.FixtureRequest, start_domain_for_module: StartDomain) -> Iterator[FrontendDomain]:
    with bridged_domain(start_domain_for_module, request) as guest:
        yield guest


def arp(operation: int, source: bytes, target: bytes, whose: str, whom: str) -> bytes:
    def pack(address: str) -> bytes:
        return bytes(map(int, address.split(".")))

    content = struct.pack(">HHBBH", 1, 0x0800, 6, 4, operation) + source + pack(whose) + target + pack(whom)
    return ethernet(content, 0x0806, source, BROADCAST if operation == 1 else target)


def echo(kind: int, payload: bytes, source: str, target: str) -> bytes:
    message = struct.pack(">BBHHH", kind, 0, 0, 7, 1) + payload
    return ipv4(message[:2] + struct.pack(">H", checksum(message)) + message[4:], 1, source, target)


def finished(packet: bytes) -> bytes:
    """A TCP packet over IPv4 with its checksum."""
    segment = packet[34:50] + bytes(2) + packet[52:]
    return packet[:50] + struct.pack(">H", checksum(pseudo_header(segment, 6) + segment)) + packet[52:]


# ---- the vif's own address ----


@pytest.mark.parametrize("split", [True, False])
def test_a_driver_domain_answers_its_guest(guest: FrontendDomain, split: bool) -> None:
    with connected(guest, split=split) as front:
        name = guest.name(front.device)
        run(guest.driver, 'ip addr add "$2/24" dev "$1"', name, THEIRS)
        front.post(range(FRAMES))
        assert front.send(arp(1, MAC, bytes(6), OURS, THEIRS)) == [OKAY]
        assert next_packet(front, 0x0806).data[:42] == arp(2, VIF_MAC, MAC, THEIRS, OURS)
        for size in (56, 1400):
            payload = os.urandom(size)
            packet = ethernet(echo(8, payload, OURS, THEIRS), source=MAC, target=VIF_MAC)
            assert front.send(packet, 20, 1, 0, 30) == [OKAY] * 5
            assert next_packet(front, 0x0800).data[34:] == echo(0, payload, THEIRS, OURS)[20:]


def test_a_blank_checksum_is_taken_for_right_and_a_wrong_one_is_not(guest: FrontendDomain) -> None:
    with connected(guest) as front:
        run(guest.driver, 'ip addr add "$2/24" dev "$1"', guest.name(front.device), THEIRS)
        front.post(range(FRAMES))
        # Nobody listens there: what arrives is answered by a reset.
        front.send(arp(2, MAC, VIF_MAC, OURS, THEIRS))
        for flags, gso, good in ((0, None, False), (BLANK, None, True), (BLANK, (1448, GSO_TYPE_TCPV4), True)):
            packet = tcp_packet(bytes(8000 if gso else 100), target=VIF_MAC)
            statuses = front.send(packet, *[4096] * (len(packet) // 4096), flags=flags, gso=gso)
            assert set(statuses) <= {OKAY, NULL}
            if good:
                assert next_packet_or_request(front)[47] & 0x04, "a reset"


def next_packet_or_request(front: NetFront) -> bytes:
    """The next IPv4 packet; whoever asks for our address meanwhile is told it."""
    while True:
        received = front.receive()
        front.post(received.frames)
        kind = received.data[12:14]
        if kind == b"\x08\x00":
            return received.data
        if kind == b"\x08\x06" and received.data[20:22] == b"\0\1":
            front.send(arp(2, MAC, VIF_MAC, OURS, THEIRS))


# ---- from one guest to another, over a bridge ----


@pytest.mark.parametrize("size", [14, 60, 1514])
def test_packets_cross_the_bridge_unchanged(guest: FrontendDomain, size: int) -> None:
    with connected(guest, bridge="br0") as one, connected(guest, bridge="br0") as other:
        other.post(range(FRAMES))
        for _ in range(FRAMES):
            packet = ethernet(os.urandom(size - 14), 0x88B5, MAC, BROADCAST)
            assert one.send(packet) == [OKAY]
            received = next_packet(other, 0x88B5)
            assert received.data == packet
            assert not received.flags
            other.post(received.frames)


def test_a_large_mtu_holds_on_the_bridge_too(guest: FrontendDomain) -> None:
    with connected(guest, bridge="br0", mtu=9000) as one, connected(guest, bridge="br0", mtu=9000) as other:
        for front in (one, other):
            assert guest.backend_node(front.device, "mtu") == "9000"
            assert run(guest.driver, 'cat "/sys/class/net/$1/mtu"', guest.name(front.device)).strip() == "9000"
        other.post(range(FRAMES))
        packet = ethernet(os.urandom(9000), 0x88B5, MAC, BROADCAST)
        assert one.send(packet, 4096, 4096) == [OKAY] * 3
        assert next_packet(other, 0x88B5).data == packet


@pytest.mark.parametrize(
    ("make", "kind"), [(tcp_packet, GSO_TYPE_TCPV4), (ipv6_tcp_packet, GSO_TYPE_TCPV6)], ids=["ipv4", "ipv6"]
)
def test_a_large_segment_crosses_the_bridge_as_it_is(guest: FrontendDomain, make: object, kind: int) -> None:
    with connected(guest, bridge="br0") as one, connected(guest, bridge="br0") as other:
        other.post(range(FRAMES))
        assert callable(make)
        packet: bytes = make(os.urandom(60000), target=BROADCAST)
        assert one.send(packet, *[4096] * 14, flags=BLANK, gso=(1448, kind)) == [OKAY, NULL, *[OKAY] * 14]
        received = next_packet(other, int.from_bytes(packet[12:14], "big"))
        assert received.data == packet
        assert received.gso == (1448, kind)
        assert received.flags & RxFlags.CSUM_BLANK


def test_who_takes_no_large_segments_gets_small_ones_with_checksums(guest: FrontendDomain) -> None:
    plain = {"feature-no-csum-offload": 1}
    with connected(guest, bridge="br0") as one, connected(guest, bridge="br0", offers=plain) as other:
        other.post(range(FRAMES))
        data = os.urandom(4344)
        packet = tcp_packet(data, target=BROADCAST)
        assert one.send(packet, 4000, flags=BLANK, gso=(1448, GSO_TYPE_TCPV4)) == [OKAY, NULL, OKAY]
        found = b""
        for _ in range(3):
            received = next_packet(other, 0x0800)
            assert received.gso is None
            assert not received.flags & RxFlags.CSUM_BLANK
            assert finished(received.data) == received.data
            found += received.data[54:]
        assert found == data


def test_what_the_toolstack_switches_off_is_off(guest: FrontendDomain) -> None:
    features = replace(
        DEFAULTS, sg=False, gso_tcpv4=False, csum_offload=False, split_event_channels=False, multicast_control=False
    )
    with connected(guest, features=features, split=False, mtu=9000) as front:
        for name, value in {
            "feature-rx-copy": "1",
            "feature-rx-flip": "0",
            "feature-sg": "0",
            "feature-gso-tcpv4": "0",
            "feature-gso-tcpv6": "1",
            "feature-no-csum-offload": "1",
            "feature-split-event-channels": "0",
            "feature-multicast-control": "0",
            "multi-queue-max-queues": "2",
            "mtu": "1500",
        }.items():
            assert guest.backend_node(front.device, name) == value


def test_several_queues(guest: FrontendDomain) -> None:
    with connected(guest, bridge="br0", queues=2) as one, connected(guest, bridge="br0", queues=2) as other:
        for queue in other.queues:
            queue.post(range(FRAMES))
        for sender in one.queues:
            for number in range(4):
                packet = ethernet(os.urandom(100 + number), 0x88B5, MAC, BROADCAST)
                assert sender.send(packet) == [OKAY]
                _, received = other.receive_on_any()
                assert received.data == packet


def test_multicast_packets_go_to_who_asked_for_them(guest: FrontendDomain) -> None:
    group, stranger = bytes.fromhex("01005e000105"), bytes.fromhex("01005e000106")
    offers = {**OFFLOADS, "request-multicast-control": 1}
    with connected(guest, bridge="br0") as one, connected(guest, bridge="br0", offers=offers) as other:
        other.post(range(FRAMES))
        other.put(other.tx_refs[0], 0, TxFlags.EXTRA_INFO, 0)
        other.put_extra(ExtraType.MCAST_ADD, 0, group)
        other.push()
        assert other.statuses(2) == [OKAY, NULL]
        for target in (stranger, group):
            assert one.send(ethernet(os.urandom(100), 0x88B5, MAC, target)) == [OKAY]
        assert next_packet(other, 0x88B5).data[:6] == group
        guest.write(other.device.frontend, {"request-multicast-control": 0})

        def comes_through() -> bool:
            one.send(ethernet(os.urandom(100), 0x88B5, MAC, stranger))
            return bool(other.rx.unconsumed())

        wait_until("the end of filtering", comes_through)


# ---- coming and going ----


def test_it_waits_for_the_toolstack_to_plug_it_in(guest: FrontendDomain) -> None:
    with card(guest, bridge="br0") as device:
        guest.store.rm(f"{device.backend}/hotplug-status")
        guest.wait_for_backend(device, XenbusState.INIT_WAIT)
        front = NetFront(guest, device, split=True, offers=OFFLOADS)
        guest.write(device.frontend, front.nodes)
        guest.switch(device, XenbusState.CONNECTED)
        wait_until("the ports to be bound", lambda: not guest.let_go(front.tx_port))
        assert guest.state(device) == XenbusState.INIT_WAIT
        plug_in(guest, device, "br0")
        guest.wait_for_backend(device, XenbusState.CONNECTED)
        front.close()


def test_a_card_can_be_closed_and_opened_many_times(guest: FrontendDomain) -> None:
    with connected(guest, bridge="br0") as peer, card(guest, bridge="br0") as device:
        for _ in range(5):
            front = connect(guest, device)
            works(front, peer)
            front.close()
            guest.switch(device, XenbusState.INITIALISING)


def test_the_toolstack_closes_a_card(guest: FrontendDomain) -> None:
    with card(guest, bridge="br0") as device:
        front = connect(guest, device)
        close_device(guest.store, device)
        guest.wait_for_backend(device, XenbusState.CLOSING)
        guest.switch(device, XenbusState.CLOSING)
        front.close()


def test_a_frontend_of_a_dead_backend_is_left_alone_until_it_comes_anew(guest: FrontendDomain) -> None:
    with connected(guest, bridge="br0") as peer, card(guest, bridge="br0") as device:
        old = connect(guest, device)
        # As if it had died: the device is made again, while the frontend is connected.
        own = f"backend-vif-{guest.domid}-{device.devid}"
        run(guest.driver, 'echo "$1" > /sys/bus/pvbus/drivers/pvnetback/unbind', own)
        guest.wait_for_backend(device, XenbusState.CLOSED)
        for queue in old.queues:
            queue.take_back()
        run(guest.driver, 'echo "$1" > /sys/bus/pvbus/drivers/pvnetback/bind', own)
        plug_in(guest, device, "br0")
        guest.switch(device, XenbusState.CONNECTED)
        guest.wait_for_backend(device, XenbusState.INIT_WAIT)
        guest.switch(device, XenbusState.INITIALISING)
        again = connect(guest, device, state=XenbusState.INITIALISED)
        guest.switch(device, XenbusState.CONNECTED)
        works(again, peer)
        again.close()
