"""The control ring of network cards: its layouts, receive-side hashing, and what a hostile guest may ask for there."""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.backend.net_hash import MAX_MAPPING, Steering, toeplitz
from harness.ring import netif
from harness.ring.netif import CtrlStatus, CtrlType, HashAlgorithm, HashType
from harness.ring.ring import REQ_PROD, ring_size
from tests.unit.abi import Structure, ask
from tests.unit.backend_guest import Guest, wait_until
from tests.unit.net_packets import MAC, PEER_MAC, ethernet, ipv4, tcp
from tests.unit.netctrl import Control, controlled
from tests.unit.netfront import FRAMES, NOT_GRANTED, NetFront, connected
from tests.unit.netpeer import Peer, needs_tap

SUCCESS, UNSUPPORTED, INVALID, OVERFLOW = CtrlStatus
KEY = bytes.fromhex("6d5a56da255b0ec24167253d43a38fb0d0ca2bcbae7b30b477cb2da38030f20c6a42b73bbeac01fa")
"""The key of the examples with which everybody checks a Toeplitz hash."""
ALL_TYPES = 0b1111


# ---- layouts -------------------------------------------------------------------------------------------------------


def test_layouts_and_numbers_are_those_of_xens_header(tmp_path: Path) -> None:
    numbers = {
        **{f"XEN_NETIF_CTRL_TYPE_{kind.name}": kind for kind in CtrlType},
        **{f"XEN_NETIF_CTRL_STATUS_{status.name}": status for status in CtrlStatus},
        **{f"XEN_NETIF_CTRL_HASH_ALGORITHM_{one.name}": one for one in HashAlgorithm},
        **{f"_XEN_NETIF_CTRL_HASH_TYPE_{one.name}": one for one in HashType},
        "sizeof(union xen_netif_ctrl_sring_entry)": netif.CTRL_ENTRY_SIZE,
        "sizeof(struct xen_netif_ctrl_request)": netif.CTRL_REQUEST.size,
        "__CONST_RING_SIZE(xen_netif_ctrl, 4096)": ring_size(4096, netif.CTRL_ENTRY_SIZE),
    }
    request = Structure("struct xen_netif_ctrl_request", {"id": 1, "type": 2, "data": "{3, 4, 5}"})
    response = Structure("union xen_netif_ctrl_sring_entry", {"rsp": "{.id = 1, .type = 2, .status = 3, .data = 4}"})
    hashed = Structure(
        "struct netif_extra_info", {"type": 4, "u.hash.type": 3, "u.hash.algorithm": 1, "u.hash.value": "{1, 2, 3, 4}"}
    )
    answers = ask(
        tmp_path,
        ["<xen/xen.h>", "<xen/io/netif.h>"],
        expressions=list(numbers),
        structures={"request": request, "response": response, "hashed": hashed},
    )
    assert {name: answers[name] for name in numbers} == numbers
    assert answers["request"] == netif.CTRL_REQUEST.pack(1, 2, 3, 4, 5).hex()
    assert answers["response"] == netif.CTRL_RESPONSE.pack(1, 2, 3, 4).hex()
    extra = netif.EXTRA.pack(4, 0, netif.EXTRA_HASH.pack(3, 1, 0x04030201))
    assert answers["hashed"] == extra.hex()


def test_the_hash_is_that_of_xens_header(tmp_path: Path) -> None:
    cases = [(KEY, bytes(range(size))) for size in (0, 1, 8, 12, 32, 36)]
    cases += [(KEY[:7], os.urandom(36)), (b"", os.urandom(12)), (os.urandom(40), os.urandom(36))]

    def literal(data: bytes) -> str:
        return f"(const uint8_t[40]){{{', '.join(map(str, data)) or 0}}}"

    calls = {f"xen_netif_toeplitz_hash({literal(key)}, {len(key)}, {literal(data)}, {len(data)})": (key, data)
             for key, data in cases}  # fmt: skip
    answers = ask(
        tmp_path,
        ["<xen/xen.h>", "<xen/io/netif.h>"],
        expressions=list(calls),
        options=["-DXEN_NETIF_DEFINE_TOEPLITZ"],
    )
    assert answers == {call: toeplitz(*arguments) for call, arguments in calls.items()}


# ---- the hash of a packet ------------------------------------------------------------------------------------------


def steering(types: int, queues: int = 4) -> Steering:
    made = Steering(queues)
    made.choose(HashAlgorithm.TOEPLITZ, types)
    made.set_key(KEY)
    return made


def from_to(source: str, target: str, source_port: int, target_port: int, protocol: int = 6) -> bytes:
    segment = struct.pack(">HH", source_port, target_port) + tcp(b"data")[4:]
    return ethernet(ipv4(segment, protocol, source, target), source=PEER_MAC, target=MAC)


EXAMPLE = from_to("66.9.149.187", "161.142.100.80", 2794, 1766)
IPV6_HEADER = struct.pack(">IHBB", 6 << 28, 24, 6, 64) + bytes.fromhex(
    "3ffe2501020000030000000000000001" "3ffe2501020019120000000000000007"
)  # fmt: skip
IPV6_EXAMPLE = ethernet(IPV6_HEADER + struct.pack(">HH", 2794, 1766) + tcp(b"data")[4:], 0x86DD)


def test_the_examples_of_everybody() -> None:
    assert steering(ALL_TYPES).hash(EXAMPLE) == (HashType.IPV4_TCP, 0x51CCC178)
    assert steering(1 << HashType.IPV4).hash(EXAMPLE) == (HashType.IPV4, 0x323E8FC2)


@pytest.mark.parametrize(
    ("packet", "types", "kind"),
    [
        (EXAMPLE, 1 << HashType.IPV6, None),
        (EXAMPLE, 1 << HashType.IPV4_TCP, HashType.IPV4_TCP),
        (from_to("1.2.3.4", "5.6.7.8", 1, 2, protocol=17), ALL_TYPES, HashType.IPV4),
        (from_to("1.2.3.4", "5.6.7.8", 1, 2, protocol=17), 1 << HashType.IPV4_TCP, None),
        (EXAMPLE[:20] + b"\x20\x00" + EXAMPLE[22:], ALL_TYPES, HashType.IPV4),
        (EXAMPLE[:35], ALL_TYPES, HashType.IPV4),
        (EXAMPLE[:33], ALL_TYPES, None),
        (EXAMPLE[:12] + b"\x81\x00\x00\x05" + EXAMPLE[12:], ALL_TYPES, HashType.IPV4_TCP),
        (IPV6_EXAMPLE, ALL_TYPES, HashType.IPV6_TCP),
        (IPV6_EXAMPLE, 1 << HashType.IPV6, HashType.IPV6),
        (IPV6_EXAMPLE[:53], ALL_TYPES, None),
        (ethernet(b"x" * 60, 0x0806), ALL_TYPES, None),
    ],
)
def test_the_most_specific_type_that_is_allowed_counts(packet: bytes, types: int, kind: HashType | None) -> None:
    hashed = steering(types).hash(packet)
    assert (hashed and hashed.kind) == kind


@given(st.binary(max_size=200), st.sampled_from([b"\x08\x00\x45", b"\x86\xdd\x60", b"\x81\x00\x00", b""]))
def test_whatever_comes_goes_to_a_queue_that_exists(tail: bytes, begin: bytes) -> None:
    made = steering(ALL_TYPES, queues=3)
    assert made.queue(made.hash(bytes(12) + begin + tail)) in range(3)


# ---- the ring ------------------------------------------------------------------------------------------------------


@pytest.fixture
def pair(guest: Guest, peer: Peer) -> Iterator[tuple[NetFront, Control]]:
    with controlled(guest, queues=4) as pair:
        yield pair


@pytest.fixture
def control(pair: tuple[NetFront, Control]) -> Control:
    return pair[1]


@needs_tap
def test_a_mapping_steers_flows_to_queues(pair: tuple[NetFront, Control], peer: Peer) -> None:
    front, control = pair
    assert control.ask(CtrlType.SET_HASH_ALGORITHM, HashAlgorithm.TOEPLITZ) == (SUCCESS, 0)
    assert control.ask(CtrlType.GET_HASH_FLAGS) == (SUCCESS, ALL_TYPES)
    assert control.ask(CtrlType.SET_HASH_FLAGS, ALL_TYPES) == (SUCCESS, 0)
    assert control.give_key(KEY) == SUCCESS
    assert control.ask(CtrlType.SET_HASH_MAPPING_SIZE, MAX_MAPPING) == (SUCCESS, 0)
    assert control.give_mapping([2] * 64) == SUCCESS
    assert control.give_mapping([0, 1, 2, 3] * 16, offset=64) == SUCCESS
    for queue in front.queues:
        queue.post(range(FRAMES))
    expected = [2] * 64 + [0, 1, 2, 3] * 16
    for port in range(100):
        packet = from_to("66.9.149.187", "161.142.100.80", port, 80)
        value = toeplitz(KEY, packet[26:38])
        peer.send(packet)
        queue = front.queues[expected[value % MAX_MAPPING]]
        received = queue.receive()
        assert received.data == packet
        assert received.hash == (HashType.IPV4_TCP, HashAlgorithm.TOEPLITZ, value)
        queue.post(received.frames)
    # Without types the backend is free to choose again, and says nothing of a hash.
    assert control.ask(CtrlType.SET_HASH_FLAGS, 0) == (SUCCESS, 0)


@needs_tap
def test_a_flood_of_flows_for_a_queue_without_frames_is_bounded(pair: tuple[NetFront, Control], peer: Peer) -> None:
    front, control = pair
    control.ask(CtrlType.SET_HASH_ALGORITHM, HashAlgorithm.TOEPLITZ)
    control.ask(CtrlType.SET_HASH_FLAGS, ALL_TYPES)
    assert control.ask(CtrlType.SET_HASH_MAPPING_SIZE, 2) == (SUCCESS, 0)
    assert control.give_mapping([3, 3]) == SUCCESS
    for port in range(2000):
        peer.send(from_to("1.2.3.4", "5.6.7.8", port, 80))
    # The other queues go on.
    assert control.give_mapping([1, 1]) == SUCCESS
    queue = front.queues[1]
    queue.post(range(FRAMES))
    packet = from_to("1.2.3.4", "5.6.7.8", 1, 81)

    def comes_in() -> bool:
        # More than once: behind the flood the TAP device may be full.
        peer.send(packet)
        found = []
        while queue.rx.unconsumed():
            found.append(queue.receive())
            queue.post(found[-1].frames)
        return packet in (received.data for received in found)

    wait_until("a packet on another queue", comes_in)


@needs_tap
@pytest.mark.parametrize(
    ("kind", "numbers", "expected"),
    [
        (CtrlType.GET_HASH_FLAGS, (), (UNSUPPORTED, 0)),
        (CtrlType.SET_HASH_FLAGS, (1,), (INVALID, 0)),
        (CtrlType.SET_HASH_ALGORITHM, (2,), (INVALID, 0)),
        (CtrlType.SET_HASH_ALGORITHM, (0xFFFFFFFF,), (INVALID, 0)),
        (CtrlType.GET_HASH_MAPPING_SIZE, (), (SUCCESS, 128)),
        (CtrlType.SET_HASH_MAPPING_SIZE, (129,), (INVALID, 0)),
        (CtrlType.SET_HASH_MAPPING_SIZE, (0xFFFFFFFF,), (INVALID, 0)),
        (CtrlType.SET_HASH_KEY, (NOT_GRANTED, 40), (INVALID, 0)),
        (CtrlType.SET_HASH_KEY, (0xFFFFFFFF, 1), (INVALID, 0)),
        (CtrlType.SET_HASH_KEY, (NOT_GRANTED, 0), (SUCCESS, 0)),
        (CtrlType.SET_HASH_KEY, (NOT_GRANTED, 41), (OVERFLOW, 0)),
        (CtrlType.SET_HASH_KEY, (NOT_GRANTED, 0xFFFFFFFF), (OVERFLOW, 0)),
        (CtrlType.SET_HASH_MAPPING, (NOT_GRANTED, 1, 0), (INVALID, 0)),
        (CtrlType.SET_HASH_MAPPING, (NOT_GRANTED, 129, 0), (OVERFLOW, 0)),
        (CtrlType.SET_HASH_MAPPING, (NOT_GRANTED, 1, 128), (OVERFLOW, 0)),
        (CtrlType.SET_HASH_MAPPING, (NOT_GRANTED, 0xFFFFFFFF, 1), (OVERFLOW, 0)),
        (CtrlType.SET_HASH_MAPPING, (NOT_GRANTED, 1, 0xFFFFFFFF), (OVERFLOW, 0)),
        (CtrlType.GET_GREF_MAPPING_SIZE, (0,), (UNSUPPORTED, 0)),
        (CtrlType.ADD_GREF_MAPPING, (0, NOT_GRANTED, 512), (UNSUPPORTED, 0)),
        (CtrlType.DEL_GREF_MAPPING, (0, NOT_GRANTED, 512), (UNSUPPORTED, 0)),
        (CtrlType.INVALID, (), (UNSUPPORTED, 0)),
        (11, (), (UNSUPPORTED, 0)),
        (0xFFFF, (1, 2, 3), (UNSUPPORTED, 0)),
    ],
)
def test_each_request_is_checked(
    control: Control, kind: int, numbers: tuple[int, ...], expected: tuple[CtrlStatus, int]
) -> None:
    assert control.ask(kind, *numbers) == expected


@needs_tap
def test_a_mapping_names_only_queues_that_exist_and_stays_within_its_size(control: Control) -> None:
    assert control.give_mapping([0]) == INVALID
    assert control.ask(CtrlType.SET_HASH_MAPPING_SIZE, 8) == (SUCCESS, 0)
    assert control.give_mapping([0, 1, 2, 3] * 2) == SUCCESS
    assert control.give_mapping([0, 1, 4, 3]) == INVALID
    assert control.give_mapping([0xFFFFFFFF]) == INVALID
    assert control.give_mapping([1, 1], offset=7) == INVALID
    assert control.give_mapping([0] * 9) == INVALID
    assert control.give_mapping([3], offset=7) == SUCCESS
    assert control.give_mapping([], offset=8) == SUCCESS
    assert control.ask(CtrlType.SET_HASH_ALGORITHM, HashAlgorithm.TOEPLITZ) == (SUCCESS, 0)
    assert control.ask(CtrlType.SET_HASH_FLAGS, 1 << 4) == (INVALID, 0)


@needs_tap
def test_a_full_ring_is_answered_whole(control: Control) -> None:
    for _ in range(3):
        numbers = [control.put(CtrlType.GET_HASH_MAPPING_SIZE) for _ in range(control.ring.size)]
        control.push()
        assert [control.answer()[0] for _ in numbers] == numbers


@needs_tap
@pytest.mark.parametrize("ahead", [129, 1 << 31, (1 << 32) - 1])
def test_an_impossible_index_costs_that_card_only(guest: Guest, peer: Peer, ahead: int) -> None:
    packet = ethernet(b"a good packet" * 20, kind=0x88B5)
    with connected(guest) as good, controlled(guest) as (victim, control):
        control.ring.memory.cast("I")[REQ_PROD] = (control.ring.prod_pvt + ahead) & 0xFFFFFFFF
        guest.end.events.send(control.port)
        guest.wait_until_failed(victim.device, "request index is impossible")
        assert good.send(packet) == [netif.Status.OKAY]
