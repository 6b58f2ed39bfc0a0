"""Packets for tests of the network backend."""

from __future__ import annotations

import struct

MAC = bytes.fromhex("00163e000001")
PEER_MAC = bytes.fromhex("00163e0000ff")


def checksum(data: bytes) -> int:
    """The Internet checksum."""
    total: int = sum(struct.unpack(f">{(len(data) + 1) // 2}H", data + bytes(len(data) % 2)))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def ethernet(payload: bytes, kind: int = 0x0800, source: bytes = MAC, target: bytes = PEER_MAC) -> bytes:
    return target + source + struct.pack(">H", kind) + payload


def ipv4(payload: bytes, protocol: int, source: str = "10.77.0.200", target: str = "10.77.0.201") -> bytes:
    addresses = b"".join(bytes(map(int, address.split("."))) for address in (source, target))
    header = struct.pack(">BBHHHBBH", 0x45, 0, 20 + len(payload), 1, 0, 64, protocol, 0) + addresses
    return header[:10] + struct.pack(">H", checksum(header)) + header[12:] + payload


def pseudo_header(payload: bytes, protocol: int, source: str = "10.77.0.200", target: str = "10.77.0.201") -> bytes:
    addresses = b"".join(bytes(map(int, address.split("."))) for address in (source, target))
    return addresses + struct.pack(">BBH", 0, protocol, len(payload))


def tcp(data: bytes) -> bytes:
    """A segment whose checksum covers the pseudo header only, as a stack leaves it to the card."""
    segment = struct.pack(">HHIIBBHHH", 1000, 2000, 1, 1, 5 << 4, 0x18, 65535, 0, 0) + data
    partial = ~checksum(pseudo_header(segment, 6)) & 0xFFFF
    return segment[:16] + struct.pack(">H", partial) + segment[18:]


def tcp_packet(data: bytes, *, source: bytes = MAC, target: bytes = PEER_MAC) -> bytes:
    return ethernet(ipv4(tcp(data), 6), source=source, target=target)


IPV6_SOURCE, IPV6_TARGET = bytes.fromhex("fd00" + "00" * 13 + "c8"), bytes.fromhex("fd00" + "00" * 13 + "c9")


def pseudo_header_v6(payload: bytes, protocol: int) -> bytes:
    return IPV6_SOURCE + IPV6_TARGET + struct.pack(">II", len(payload), protocol)


def ipv6_tcp_packet(data: bytes, *, source: bytes = MAC, target: bytes = PEER_MAC) -> bytes:
    """As ``tcp_packet``, over IPv6."""
    segment = tcp(data)
    partial = ~checksum(pseudo_header_v6(segment, 6)) & 0xFFFF
    segment = segment[:16] + struct.pack(">H", partial) + segment[18:]
    header = struct.pack(">IHBB", 6 << 28, len(segment), 6, 64) + IPV6_SOURCE + IPV6_TARGET
    return ethernet(header + segment, 0x86DD, source, target)
