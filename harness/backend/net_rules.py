"""What all receive rings of a network interface have in common: which packets the guest gets, and in what form."""

from __future__ import annotations

from dataclasses import dataclass

from harness.backend.net_hash import Steering
from harness.backend.net_multicast import MulticastFilter
from harness.backend.net_source import MAX_PACKET, Offload, Source
from harness.backend.packet import HEADER_BYTES, finish_checksum, is_ipv6
from harness.backend.tap import VNET_F_NEEDS_CSUM, VNET_HDR
from harness.hypervisor.layout import FRAME_SIZE
from harness.ring.netif import EXTRA, EXTRA_FLAG_MORE, EXTRA_HASH, ExtraType, RxFlags


@dataclass(frozen=True)
class Rules:
    """What has been negotiated.

    :param steering: which queue a packet is for.
    :param multicast: which multicast packets the guest gets.
    :param sg: it takes packets of several slots.
    :param ipv4_checksum: it takes IPv4 packets with a blank checksum.
    :param ipv6_checksum: likewise of IPv6.
    """

    steering: Steering
    multicast: MulticastFilter
    sg: bool
    ipv4_checksum: bool
    ipv6_checksum: bool

    @property
    def longest(self) -> int:
        """Bytes of the longest packet that the guest takes."""
        return MAX_PACKET if self.sg else FRAME_SIZE

    @property
    def finishes(self) -> bool:
        """Some checksums are completed here: the TAP device makes no difference between IPv4's and IPv6's."""
        return self.ipv4_checksum != self.ipv6_checksum

    def inspect(self, source: Source) -> tuple[Offload, int | None]:
        """Finish the packet just read, if the guest wants that, and choose its queue.

        :return: what is to be said of it then, and the queue; None: the one that it was read from.
        """
        flags, extras = source.offload()
        header = bytes(source.rest[: min(HEADER_BYTES, source.length)])
        takes_blank = self.ipv6_checksum if is_ipv6(header) else self.ipv4_checksum
        if source.header[0] & VNET_F_NEEDS_CSUM and not takes_blank:
            _, _, _, _, start, offset = VNET_HDR.unpack(source.header)
            finish_checksum(source.rest[: source.length], start, offset)
            flags = 0
        if not self.steering.active:
            return (flags, extras), None
        hashed = self.steering.hash(header)
        if hashed is not None:
            content = EXTRA_HASH.pack(hashed.kind, self.steering.algorithm, hashed.value)
            extra = int.from_bytes(EXTRA.pack(ExtraType.HASH, 0, content), "little")
            flags |= RxFlags.EXTRA_INFO
            extras = (*(one | EXTRA_FLAG_MORE << 8 for one in extras), extra)
        return (flags, extras), self.steering.queue(hashed)
