"""The backend of a virtual network card: what it offers to the frontend, and how it connects to one."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from contextlib import ExitStack

from harness.backend.frontend import Frontend
from harness.backend.loop import EDGE, Loop
from harness.backend.mappings import Mappings
from harness.backend.namespace import MAX_MTU, MIN_MTU, MTU
from harness.backend.net_control import ControlRing
from harness.backend.net_hash import Steering
from harness.backend.net_multicast import MulticastFilter
from harness.backend.net_ring import Attachment
from harness.backend.net_rules import Rules
from harness.backend.net_rx import Receiver
from harness.backend.net_source import Source
from harness.backend.net_timer import Timer
from harness.backend.net_tx import Transmitter
from harness.backend.network_client import NetworkClient
from harness.backend.tap import set_carrier, set_offload
from harness.bus.backend import BackendDevice
from harness.bus.features import NetFeatures, Notification, read_net_features, read_notification
from harness.bus.nodes import read_number
from harness.host.errors import GuestError, HostError
from harness.hypervisor.link import LinkEnd


class NetDevice:
    """A ``vif``, on a TAP port of the private network's bridge.

    :param name: of the TAP device.
    :param network: gives the connection to the private network, made when it is first needed.
    """

    adjusted = ("request-multicast-control",)

    def __init__(
        self, name: str, device: BackendDevice, link: LinkEnd, loop: Loop, network: Callable[[], NetworkClient]
    ) -> None:
        self._name = name
        self._label = f"vif/{device.path.rpartition('/')[2]}"
        self._device = device
        self._link = link
        self._loop = loop
        self._network = network
        self._offered = NetFeatures()
        self._notification = Notification.ADAPTIVE
        self._multicast = MulticastFilter()
        self._receivers: list[Receiver] = []
        self._taps: list[int] = []
        self._carrier = True
        self._connection = ExitStack()

    def features(self) -> Mapping[str, str]:
        """What to publish before the frontend connects.

        :raise HarnessError: there is no private network to be had, or the toolstack's nodes make no sense.
        """
        self._network()
        self._offered = offered = read_net_features(self._device.store, self._device.path)
        self._notification = read_notification(self._device.store, self._device.path)
        published = {
            "feature-rx-copy": True,
            "feature-sg": offered.sg,
            "feature-gso-tcpv4": offered.gso_tcpv4,
            "feature-gso-tcpv6": offered.gso_tcpv6,
            "feature-no-csum-offload": not offered.csum_offload,
            "feature-ipv6-csum-offload": offered.ipv6_csum_offload,
            "feature-split-event-channels": offered.split_event_channels,
            "feature-multicast-control": offered.multicast_control,
            "feature-dynamic-multicast-control": offered.multicast_control,
            "feature-ctrl-ring": offered.ctrl_ring,
            # Not in netif.h. As in blkif.h; who does not know it loses nothing but the time to map each frame.
            "feature-persistent": offered.persistent,
        }
        return {
            **{name: "1" for name, value in published.items() if value},
            "feature-rx-flip": "0",
            "multi-queue-max-queues": str(offered.queues),
            "mtu": str(self._mtu()),
            "hotplug-status": "connected",
        }

    def connect(self, frontend: str) -> Mapping[str, str]:
        """Attach to the frontend's rings.

        :raise HarnessError: what the frontend has written makes no sense, or no TAP device can be made.
        """
        front = Frontend(self._device.store, frontend)
        if not front.flag("request-rx-copy"):
            raise GuestError(f"{frontend}/request-rx-copy is not 1: packets are only copied here")
        queues = front.number("multi-queue-num-queues", range(1, self._offered.queues + 1), 1)
        self._multicast = MulticastFilter()
        self.refresh(frontend)
        with ExitStack() as connection:
            rules = self._rules(front, queues)
            self._taps = self._make_taps(connection, front, rules, queues)
            self._receivers = [
                self._add_queue(connection, front, front.queue(number) if queues > 1 else front, number, rules)
                for number in range(queues)
            ]
            for receiver in self._receivers:
                receiver.peers = self._receivers
            if self._offered.ctrl_ring and front.has("ctrl-ring-ref"):
                self._add_control(connection, front, rules.steering)
            self._carrier = True
            self._connection = connection.pop_all()
        return {"carrier": "1"}

    def disconnect(self) -> None:
        """Let go of everything that is the frontend's, and of the TAP device; may be called again."""
        self._connection.close()

    def refresh(self, frontend: str) -> None:
        """Look at what the frontend may change while it is connected.

        :raise GuestError: it has written nonsense.
        """
        wanted = Frontend(self._device.store, frontend).flag("request-multicast-control")
        self._multicast.active = wanted and self._offered.multicast_control

    # ---- what is agreed on ----

    def _mtu(self) -> int:
        """The MTU that the toolstack has given the guest; without scatter-gather, a packet is one frame."""
        allowed = range(MIN_MTU, MAX_MTU + 1)
        mtu = read_number(self._device.store, f"{self._device.frontend}/mtu", allowed, default=MTU)
        return mtu if self._offered.sg else min(mtu, MTU)

    def _rules(self, front: Frontend, queues: int) -> Rules:
        offered = self._offered
        return Rules(
            Steering(queues),
            self._multicast,
            sg=offered.sg and front.flag("feature-sg"),
            ipv4_checksum=offered.csum_offload and not front.flag("feature-no-csum-offload"),
            ipv6_checksum=offered.ipv6_csum_offload and front.flag("feature-ipv6-csum-offload"),
        )

    def _make_taps(self, connection: ExitStack, front: Frontend, rules: Rules, queues: int) -> list[int]:
        network, store, offered = self._network(), self._device.store, self._offered
        mac = (store.read(f"{self._device.path}/mac")).decode("ascii", "replace")
        mtu = self._mtu() if rules.sg else min(self._mtu(), MTU)
        taps = network.tap_queues(self._name, vnet_hdr=True, mtu=mtu, queues=queues, mac=mac)
        connection.callback(network.remove_tap, self._name)
        for tap in taps:
            connection.callback(os.close, tap)
        set_offload(
            taps[0],
            csum=rules.ipv4_checksum or rules.ipv6_checksum,
            tso4=rules.sg and rules.ipv4_checksum and offered.gso_tcpv4 and front.flag("feature-gso-tcpv4"),
            tso6=rules.sg and rules.ipv6_checksum and offered.gso_tcpv6 and front.flag("feature-gso-tcpv6"),
        )
        return taps

    # ---- rings ----

    def _add_queue(
        self, connection: ExitStack, front: Frontend, queue: Frontend, number: int, rules: Rules
    ) -> Receiver:
        """Connect a pair of rings.

        :param front: where the frontend keeps what concerns all queues.
        :param queue: where it keeps what concerns this one.
        """
        link, tap = self._link, self._taps[number]
        split = self._offered.split_event_channels and not queue.has("event-channel")
        tx_page = queue.map(connection, link, "tx-ring-ref")
        rx_page = queue.map(connection, link, "rx-ring-ref")
        tx_port = queue.bind(connection, link, "event-channel-tx" if split else "event-channel")
        rx_port = queue.bind(connection, link, "event-channel-rx") if split else tx_port
        source, timer = Source(tap), Timer()
        connection.callback(timer.close)
        rx = self._attach(connection, front, f"rx-{number}", rx_page, rx_port)
        receiver = Receiver(rx, source, rules, timer, self._update_carrier)
        connection.callback(receiver.close)
        tx = self._attach(connection, front, f"tx-{number}", tx_page, tx_port)
        multicast = self._multicast if self._offered.multicast_control else None
        transmitter = Transmitter(tx, tap, multicast, source.expect)
        self._watch(connection, tap, source.announced)
        self._watch(connection, timer.descriptor, receiver.expired)
        for worker in (transmitter, receiver):
            self._serve(connection, worker)
        return receiver

    def _add_control(self, connection: ExitStack, front: Frontend, steering: Steering) -> None:
        page = front.map(connection, self._link, "ctrl-ring-ref")
        port = front.bind(connection, self._link, "event-channel-ctrl")
        self._serve(connection, ControlRing(self._attach(connection, front, "ctrl", page, port), steering))

    def _attach(self, connection: ExitStack, front: Frontend, name: str, page: memoryview, port: int) -> Attachment:
        persistent = self._offered.persistent and front.flag("feature-persistent")
        mappings = Mappings(self._link.grants, persistent=persistent)
        connection.callback(mappings.close)
        return Attachment(f"{self._label}/{name}", self._link, page, port, mappings, self._notification)

    def _watch(self, connection: ExitStack, descriptor: int, callback: Callable[[], None]) -> None:
        self._loop.watch(descriptor, callback, EDGE)
        connection.callback(self._loop.forget, descriptor)

    def _serve(self, connection: ExitStack, worker: Transmitter | Receiver | ControlRing) -> None:
        self._loop.add(worker, self._device.fail)
        connection.callback(self._loop.remove, worker)

    def _update_carrier(self) -> None:
        """Pull the cable while the guest takes nothing on one of its queues: nothing is sent to it in vain then.

        :raise HarnessError: the TAP device or the store is gone.
        """
        up = not any(receiver.stalled for receiver in self._receivers)
        if up == self._carrier:
            return
        self._carrier = up
        try:
            set_carrier(self._taps[0], up=up)
        except OSError as error:
            raise HostError(f"setting the carrier of the TAP device failed: {error.strerror}") from error
        self._device.store.write(f"{self._device.path}/carrier", str(int(up)))
