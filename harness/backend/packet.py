"""What a network card has to know about a packet to finish it: where its transport header is."""

from __future__ import annotations

from typing import NamedTuple

MIN_PACKET = 14
"""An Ethernet header."""

HEADER_BYTES = 192
"""The begin of a packet in which all headers are looked for: as much as any that a guest sends has, and some."""

VLAN_TYPES = (0x8100, 0x88A8)
IPV4, IPV6 = 0x0800, 0x86DD
TCP, UDP = 6, 17
IPV6_EXTENSIONS = (0, 43, 60)
"""Hop-by-hop options, routing, destination options: next header and length in units of 8 bytes come first."""
IPV4_FRAGMENT = 0x3FFF
"""More fragments, or an offset: there is no whole transport header."""


class Transport(NamedTuple):
    """Offsets within a packet."""

    start: int
    """Of the TCP or UDP header."""
    checksum: int
    """Of its checksum, from ``start``."""
    end: int
    """Of what follows the header."""


class Flow(NamedTuple):
    """Who a packet is from and for, as hashes want it: source and destination in a row."""

    ipv6: bool
    addresses: bytes
    tcp_ports: bytes
    """Empty unless it is TCP, and no fragment."""


def find_flow(header: bytes) -> Flow | None:
    """Find addresses and ports.

    :param header: a private copy of the begin of the packet.
    :return: None when it is not IP, or incomplete.
    """
    try:
        kind, start = _network(header)
        if kind not in (IPV4, IPV6) or header[start] >> 4 != (4 if kind == IPV4 else 6):
            return None
    except IndexError:
        return None
    ipv6 = kind == IPV6
    first, length = (start + 8, 32) if ipv6 else (start + 12, 8)
    addresses = header[first : first + length]
    if len(addresses) < length:
        return None
    try:
        protocol, start = _ipv6(header, start) if ipv6 else _ipv4(header, start)
    except IndexError:
        protocol = 0
    ports = header[start : start + 4] if protocol == TCP else b""
    return Flow(ipv6, addresses, ports if len(ports) == 4 else b"")


def find_transport(header: bytes) -> Transport | None:
    """Find the TCP or UDP header.

    :param header: a private copy of the begin of the packet.
    :return: None when there is none, or when it is incomplete or split.
    """
    try:
        kind, start = _network(header)
        protocol, start = _ipv4(header, start) if kind == IPV4 else _ipv6(header, start) if kind == IPV6 else (0, 0)
        if protocol == TCP:
            transport = Transport(start, 16, start + (header[start + 12] >> 4) * 4)
            shortest = 20
        elif protocol == UDP:
            transport = Transport(start, 6, start + 8)
            shortest = 8
        else:
            return None
    except IndexError:
        return None
    if not start + shortest <= transport.end <= len(header):
        return None
    return transport


def is_ipv6(header: bytes) -> bool:
    """Whether this is the begin of an IPv6 packet."""
    try:
        return _network(header)[0] == IPV6
    except IndexError:
        return False


def finish_checksum(packet: memoryview, start: int, offset: int) -> None:
    """Complete a checksum whose field holds the sum of the pseudo header: what a card does that takes blank ones.

    :param start: of the transport header, whose bytes to the packet's end the sum is about.
    :param offset: of the field, from there. Nothing is done if it lies outside.
    """
    field = start + offset
    if field + 2 > len(packet):
        return
    # The ones' complement sum of big-endian 16-bit words is the number that they make, modulo 0xFFFF; an odd byte at
    # the end is the high one of its word.
    covered = int.from_bytes(packet[start:], "big") << (8 if (len(packet) - start) % 2 else 0)
    # This is never 0, which would mean in UDP that there is no checksum.
    packet[field : field + 2] = (0xFFFF - covered % 0xFFFF).to_bytes(2, "big")


def _network(header: bytes) -> tuple[int, int]:
    """The Ethernet type, and where the network header is."""
    at = 12
    while (kind := header[at] << 8 | header[at + 1]) in VLAN_TYPES:
        at += 4
    return kind, at + 2


def _ipv4(header: bytes, start: int) -> tuple[int, int]:
    """The transport protocol (0: none to be found), and where its header is."""
    length = (header[start] & 15) * 4
    fragment = header[start + 6] << 8 | header[start + 7]
    if header[start] >> 4 != 4 or length < 20 or fragment & IPV4_FRAGMENT:
        return 0, 0
    return header[start + 9], start + length


def _ipv6(header: bytes, start: int) -> tuple[int, int]:
    if header[start] >> 4 != 6:
        return 0, 0
    protocol, start = header[start + 6], start + 40
    while protocol in IPV6_EXTENSIONS:
        protocol, start = header[start], start + (header[start + 1] + 1) * 8
    return protocol, start
