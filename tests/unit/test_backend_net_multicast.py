"""Multicast control of network cards: which multicast packets a guest gets."""

from __future__ import annotations

import struct

from harness.backend.net_multicast import MAX_ADDRESSES
from harness.bus.features import NetFeatures
from harness.ring.netif import EXTRA_FLAG_MORE, ExtraType, Status, TxFlags
from tests.unit.backend_guest import Guest
from tests.unit.net_packets import MAC, PEER_MAC, ethernet
from tests.unit.netfront import FRAMES, OFFLOADS, NetFront, connected
from tests.unit.netpeer import Peer, needs_tap

OKAY, ERROR, NULL = Status.OKAY, Status.ERROR, Status.NULL
BROADCAST = b"\xff" * 6
GROUP = bytes.fromhex("01005e000001")

pytestmark = needs_tap


def incoming(payload: bytes, target: bytes = MAC) -> bytes:
    return ethernet(payload, 0x88B5, PEER_MAC, target)


def change_filter(front: NetFront, *changes: tuple[int, bytes]) -> list[int]:
    """Send a dummy packet that changes the multicast filter; returns its statuses."""
    front.put(front.tx_refs[0], 0, TxFlags.EXTRA_INFO, 0)
    for index, (kind, address) in enumerate(changes, 1):
        front.put_extra(kind, EXTRA_FLAG_MORE if index < len(changes) else 0, address)
    front.push()
    return front.statuses(1 + len(changes))


def group(number: int) -> bytes:
    return GROUP[:4] + struct.pack(">H", number)


def received_of(front: NetFront, peer: Peer, targets: list[bytes]) -> list[bytes]:
    """To which of the addresses a packet comes in; the guest's own address must be one, and the last."""
    for target in targets:
        peer.send(incoming(b"x" * 50, target))
    found: list[bytes] = []
    while targets[-1] not in found:
        received = front.receive()
        front.post(received.frames)
        found.append(received.data[:6])
    return found


def test_only_multicast_packets_that_were_asked_for_come_in(guest: Guest, peer: Peer) -> None:
    with connected(guest, offers=OFFLOADS | {"request-multicast-control": 1}) as front:
        front.post(range(FRAMES))
        everything = [group(1), group(2), BROADCAST, MAC]
        assert received_of(front, peer, everything) == [BROADCAST, MAC]
        assert change_filter(front, (ExtraType.MCAST_ADD, group(1))) == [OKAY, NULL]
        assert received_of(front, peer, everything) == [group(1), BROADCAST, MAC]
        both = ((ExtraType.MCAST_DEL, group(1)), (ExtraType.MCAST_ADD, group(2)))
        assert change_filter(front, *both) == [OKAY, NULL, NULL]
        assert received_of(front, peer, everything) == [group(2), BROADCAST, MAC]


def test_a_frontend_may_change_its_mind_about_the_filter(guest: Guest, peer: Peer) -> None:
    with connected(guest) as front:
        front.post(range(FRAMES))
        wanted = {0: [group(1), MAC], 1: [MAC]}
        for value in (0, 1, 0):
            guest.write(front.device.frontend, {"request-multicast-control": value})
            while received_of(front, peer, [group(1), MAC]) != wanted[value]:
                pass
        guest.write(front.device.frontend, {"request-multicast-control": "perhaps"})
        guest.wait_until_failed(front.device, "request-multicast-control is b'perhaps'")


def test_the_list_of_addresses_is_bounded(guest: Guest, peer: Peer) -> None:
    with connected(guest, offers=OFFLOADS | {"request-multicast-control": 1}) as front:
        front.post(range(FRAMES))
        for number in range(MAX_ADDRESSES):
            assert change_filter(front, (ExtraType.MCAST_ADD, group(number))) == [OKAY, NULL]
        for number in range(MAX_ADDRESSES, MAX_ADDRESSES + 500):
            assert change_filter(front, (ExtraType.MCAST_ADD, group(number))) == [ERROR, NULL]
        # What is on it already is not one more, and what was refused is not on it.
        assert change_filter(front, (ExtraType.MCAST_ADD, group(0))) == [OKAY, NULL]
        assert received_of(front, peer, [group(0), group(MAX_ADDRESSES), MAC]) == [group(0), MAC]
        assert change_filter(front, (ExtraType.MCAST_DEL, group(0))) == [OKAY, NULL]
        assert change_filter(front, (ExtraType.MCAST_ADD, group(MAX_ADDRESSES))) == [OKAY, NULL]
        assert received_of(front, peer, [group(0), group(MAX_ADDRESSES), MAC]) == [group(MAX_ADDRESSES), MAC]


def test_only_multicast_addresses_can_be_added(guest: Guest, peer: Peer) -> None:
    with connected(guest) as front:
        assert change_filter(front, (ExtraType.MCAST_ADD, PEER_MAC)) == [ERROR, NULL]
        assert change_filter(front, (ExtraType.MCAST_DEL, PEER_MAC)) == [OKAY, NULL]


def test_multicast_control_that_is_switched_off_is_refused(guest: Guest, peer: Peer) -> None:
    offers = OFFLOADS | {"request-multicast-control": 1}
    with connected(guest, features=NetFeatures(multicast_control=False), offers=offers) as front:
        assert change_filter(front, (ExtraType.MCAST_ADD, GROUP)) == [ERROR, NULL]
        front.post(range(FRAMES))
        packet = incoming(b"to a group" * 10, GROUP)
        peer.send(packet)
        assert front.receive().data == packet
