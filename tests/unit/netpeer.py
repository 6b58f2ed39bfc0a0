"""Somebody else on the private network's bridge, for tests of the network backend."""

from __future__ import annotations

import os
import select
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from harness.backend.network_client import NetworkClient
from harness.backend.tap import TUN_DEVICE, VNET_HDR, set_offload
from harness.host.deadline import Deadline
from harness.host.errors import HostError
from tests.unit.backend_guest import SECONDS
from tests.unit.net_packets import MAC

needs_tap = pytest.mark.skipif(
    not os.access(TUN_DEVICE, os.R_OK | os.W_OK), reason=f"{TUN_DEVICE} is missing or not writable for this user"
)


class Peer:
    """Somebody else on the bridge: a TAP device whose descriptor the test holds."""

    def __init__(self, network: NetworkClient, name: str, *, offload: bool, mtu: int = 1500) -> None:
        (self._tap,) = network.tap_queues(name, vnet_hdr=True, mtu=mtu, queues=1)
        set_offload(self._tap, csum=offload, tso4=offload, tso6=offload)

    def close(self) -> None:
        os.close(self._tap)

    def send(self, packet: bytes, header: bytes = bytes(VNET_HDR.size)) -> None:
        os.write(self._tap, header + packet)

    def receive(self) -> tuple[tuple[int, int, int, int, int, int], bytes]:
        """The next packet from the guest: its virtio_net_hdr, and its bytes."""
        deadline = Deadline(SECONDS, "a packet on the bridge")
        while True:
            select.select([self._tap], [], [], deadline.check())
            data = os.read(self._tap, 1 << 17)
            if data[VNET_HDR.size :][6:12] == MAC:
                return VNET_HDR.unpack_from(data), data[VNET_HDR.size :]


@contextmanager
def private_network() -> Iterator[NetworkClient]:
    """A connection to the private network; skips the test where there can be none."""
    try:
        network = NetworkClient.connect()
    except HostError as error:
        pytest.skip(str(error))
    with network:
        yield network


@contextmanager
def plugged_in(network: NetworkClient, *, offload: bool = True, name: str = "peer", mtu: int = 1500) -> Iterator[Peer]:
    """A peer, by default one that finishes checksums and large packets itself."""
    peer = Peer(network, name, offload=offload, mtu=mtu)
    yield peer
    peer.close()
    network.remove_tap(name)
