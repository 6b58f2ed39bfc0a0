"""TAP devices: the ioctls of <linux/if_tun.h> and the header of <linux/virtio_net.h> that goes before each frame."""

from __future__ import annotations

import fcntl
import os
import struct

TUN_DEVICE = "/dev/net/tun"

TUNSETIFF = 0x400454CA
TUNSETOFFLOAD = 0x400454D0
TUNSETCARRIER = 0x400454E2

IFF_TAP = 0x0002
IFF_MULTI_QUEUE = 0x0100
IFF_NO_PI = 0x1000
IFF_VNET_HDR = 0x4000

TUN_F_CSUM = 0x01
TUN_F_TSO4 = 0x02
TUN_F_TSO6 = 0x04

IFREQ = struct.Struct("16sH22x")

VNET_HDR = struct.Struct("<BBHHHH")
"""struct virtio_net_hdr: flags, gso_type, hdr_len, gso_size, csum_start, csum_offset."""
VNET_F_NEEDS_CSUM = 1
VNET_F_DATA_VALID = 2
VNET_GSO_NONE = 0
VNET_GSO_TCPV4 = 1
VNET_GSO_TCPV6 = 4
VNET_GSO_ECN = 0x80


def open_tap(name: str, *, vnet_hdr: bool, queues: int = 1) -> list[int]:
    """Make a TAP device in this process's network namespace; it exists as long as one of its descriptors is open.

    :param vnet_hdr: every frame is preceded by a VNET_HDR.
    :param queues: between them the kernel spreads flows, by a hash.
    :return: a non-blocking descriptor for each queue.
    :raise OSError: no /dev/net/tun, no permission, or a device of that name exists.
    """
    flags = IFF_TAP | IFF_NO_PI | (IFF_VNET_HDR if vnet_hdr else 0) | (IFF_MULTI_QUEUE if queues > 1 else 0)
    descriptors: list[int] = []
    try:
        for _ in range(queues):
            descriptors.append(os.open(TUN_DEVICE, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC))
            fcntl.ioctl(descriptors[-1], TUNSETIFF, IFREQ.pack(name.encode(), flags))
    except BaseException:
        for descriptor in descriptors:
            os.close(descriptor)
        raise
    return descriptors


def set_offload(descriptor: int, *, csum: bool, tso4: bool, tso6: bool) -> None:
    """Say which unfinished frames the readers of this TAP take: without a checksum, or larger than the MTU."""
    flags = 0
    if csum:
        flags = TUN_F_CSUM | (TUN_F_TSO4 if tso4 else 0) | (TUN_F_TSO6 if tso6 else 0)
    fcntl.ioctl(descriptor, TUNSETOFFLOAD, flags)


def set_carrier(descriptor: int, *, up: bool) -> None:
    """Plug the cable of this TAP in, or out: then nothing is sent to it.

    :raise OSError: the device is gone.
    """
    fcntl.ioctl(descriptor, TUNSETCARRIER, struct.pack("i", up))
