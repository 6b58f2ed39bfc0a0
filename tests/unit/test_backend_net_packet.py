"""Finding the transport header of a packet that a guest has made."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.backend.packet import HEADER_BYTES, Transport, find_transport
from tests.unit.net_packets import ethernet, ipv4

TCP = bytes(12) + bytes([5 << 4]) + bytes(7)
TCP_WITH_OPTIONS = bytes(12) + bytes([15 << 4]) + bytes(47)
UDP = bytes(8)


def ipv6(payload: bytes, following: int) -> bytes:
    return struct.pack(">IHBB", 6 << 28, len(payload), following, 64) + bytes(32) + payload


def with_options(packet: bytes, words: int) -> bytes:
    return bytes([0x45 + words]) + packet[1:20] + bytes(4 * words) + packet[20:]


def vlan(frame: bytes, kind: int = 0x8100) -> bytes:
    return frame[:12] + struct.pack(">HH", kind, 5) + frame[12:]


@pytest.mark.parametrize(
    ("frame", "expected"),
    [
        (ethernet(ipv4(TCP, 6)), Transport(34, 16, 54)),
        (ethernet(ipv4(TCP + b"data", 6)), Transport(34, 16, 54)),
        (ethernet(ipv4(TCP_WITH_OPTIONS, 6)), Transport(34, 16, 94)),
        (ethernet(with_options(ipv4(TCP, 6), 10)), Transport(74, 16, 94)),
        (ethernet(ipv4(UDP, 17)), Transport(34, 6, 42)),
        (vlan(ethernet(ipv4(TCP, 6))), Transport(38, 16, 58)),
        (vlan(vlan(ethernet(ipv4(TCP, 6))), 0x88A8), Transport(42, 16, 62)),
        (ethernet(ipv6(TCP, 6), 0x86DD), Transport(54, 16, 74)),
        (ethernet(ipv6(UDP, 17), 0x86DD), Transport(54, 6, 62)),
        (ethernet(ipv6(bytes([6, 1]) + bytes(14) + TCP, 0), 0x86DD), Transport(70, 16, 90)),
        (
            ethernet(ipv6(bytes([43, 0]) + bytes(6) + bytes([17, 0]) + bytes(6) + UDP, 60), 0x86DD),
            Transport(70, 6, 78),
        ),
    ],
)
def test_it_is_found(frame: bytes, expected: Transport) -> None:
    assert find_transport(frame) == expected
    # Not without its last byte.
    assert find_transport(frame[: expected.end - 1]) is None


@pytest.mark.parametrize(
    "frame",
    [
        b"",
        ethernet(ipv4(TCP, 6))[:13],
        ethernet(b"x" * 100, 0x0806),
        ethernet(ipv4(bytes(20), 1)),
        ethernet(bytes([0x55]) + ipv4(TCP, 6)[1:]),
        ethernet(bytes([0x44]) + ipv4(TCP, 6)[1:]),
        ethernet(ipv4(TCP, 6)[:6] + b"\x20\x00" + ipv4(TCP, 6)[8:]),
        ethernet(ipv4(TCP, 6)[:6] + b"\x00\x01" + ipv4(TCP, 6)[8:]),
        ethernet(ipv4(bytes(12) + bytes([4 << 4]) + bytes(7), 6)),
        ethernet(bytes([0x45]) + ipv6(TCP, 6)[1:], 0x86DD),
        ethernet(ipv6(bytes([0, 0] + [0] * 6) * 40, 0), 0x86DD)[:HEADER_BYTES],
        vlan(ethernet(b""))[:12] + b"\x81\x00\x00\x01" * 50,
    ],
    ids=[
        "nothing", "half a header", "ARP", "ICMP", "version 5", "IPv4 length 16", "first fragment", "later fragment",
        "TCP length 16", "IPv6 version 4", "extensions without end", "tags without end",
    ],
)  # fmt: skip
def test_there_is_none(frame: bytes) -> None:
    assert find_transport(frame) is None


@given(st.binary(max_size=HEADER_BYTES), st.sampled_from([b"\x08\x00\x45", b"\x86\xdd\x60", b"\x81\x00\x00", b""]))
def test_what_is_found_lies_within_the_packet(tail: bytes, begin: bytes) -> None:
    header = (bytes(12) + begin + tail)[:HEADER_BYTES]
    found = find_transport(header)
    if found is not None:
        assert 0 < found.start < found.start + found.checksum + 2 <= found.end <= len(header)
