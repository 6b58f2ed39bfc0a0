"""The backend of a virtual network card: what it offers to the frontend, and how it connects to one."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from contextlib import ExitStack

from harness.backend.frontend import Frontend
from harness.backend.loop import EDGE, Loop
from harness.backend.mappings import Mappings
from harness.backend.net_rx import Receiver
from harness.backend.net_tx import Transmitter
from harness.backend.network_client import NetworkClient
from harness.backend.tap import set_offload
from harness.bus.xenbus import BackendDevice
from harness.host.errors import GuestError
from harness.hypervisor.link import LinkEnd


class NetDevice:
    """A ``vif``, on a TAP port of the private network's bridge.

    :param name: of the TAP device.
    :param network: gives the connection to the private network, made when it is first needed.
    """

    def __init__(
        self, name: str, device: BackendDevice, link: LinkEnd, loop: Loop, network: Callable[[], NetworkClient]
    ) -> None:
        self._name = name
        self._device = device
        self._link = link
        self._loop = loop
        self._network = network
        self._connection = ExitStack()

    def features(self) -> Mapping[str, str]:
        """What to publish before the frontend connects.

        :raise HostError: there is no private network to be had.
        """
        self._network()
        return {
            "feature-rx-copy": "1",
            "feature-rx-flip": "0",
            "feature-sg": "1",
            "feature-gso-tcpv4": "1",
            "feature-gso-tcpv6": "1",
            "feature-ipv6-csum-offload": "1",
            "feature-split-event-channels": "1",
            # Not in netif.h. As in blkif.h; who does not know it loses nothing but the time to map each frame.
            "feature-persistent": "1",
            "multi-queue-max-queues": "1",
            "hotplug-status": "connected",
        }

    def connect(self, frontend: str) -> Mapping[str, str]:
        """Attach to the frontend's rings.

        :raise HarnessError: what the frontend has written makes no sense, or no TAP device can be made.
        """
        front = Frontend(self._device.store, frontend)
        if not front.flag("request-rx-copy"):
            raise GuestError(f"{frontend}/request-rx-copy is not 1: packets are only copied here")
        front.require_default("multi-queue-num-queues", 1)
        split = not front.has("event-channel")
        with ExitStack() as connection:
            tx_page = front.map(connection, self._link, "tx-ring-ref")
            rx_page = front.map(connection, self._link, "rx-ring-ref")
            tx_port = front.bind(connection, self._link, "event-channel-tx" if split else "event-channel")
            rx_port = front.bind(connection, self._link, "event-channel-rx") if split else tx_port
            tap = self._make_tap(connection, front)
            tx_mappings, rx_mappings = self._mappings(connection, front), self._mappings(connection, front)
            transmitter = Transmitter(self._link, tx_mappings, tx_page, tx_port, tap)
            receiver = Receiver(self._link, rx_mappings, rx_page, rx_port, tap, sg=front.flag("feature-sg"))
            self._loop.watch(tap, receiver.readable, EDGE)
            connection.callback(self._loop.forget, tap)
            for worker in (transmitter, receiver):
                self._loop.add(worker, self._device.fail)
                connection.callback(self._loop.remove, worker)
            self._connection = connection.pop_all()
        return {}

    def disconnect(self) -> None:
        """Let go of everything that is the frontend's, and of the TAP device; may be called again."""
        self._connection.close()

    def _mappings(self, connection: ExitStack, front: Frontend) -> Mappings:
        mappings = Mappings(self._link.grants, persistent=front.flag("feature-persistent"))
        connection.callback(mappings.close)
        return mappings

    def _make_tap(self, connection: ExitStack, front: Frontend) -> int:
        network = self._network()
        tap = network.tap(self._name, vnet_hdr=True)
        connection.callback(network.remove_tap, self._name)
        connection.callback(os.close, tap)
        sg = front.flag("feature-sg")
        # The TAP device makes no difference between IPv4 and IPv6 checksums: the frontend has to take both.
        csum = not front.flag("feature-no-csum-offload") and front.flag("feature-ipv6-csum-offload")
        set_offload(
            tap, csum=csum, tso4=sg and front.flag("feature-gso-tcpv4"), tso6=sg and front.flag("feature-gso-tcpv6")
        )
        return tap
