"""A network frontend in Python, for tests that play the guest, and the packets they send."""

from __future__ import annotations

import itertools
import os
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from harness.bus import toolstack
from harness.bus.devices import Device
from harness.bus.features import NetFeatures, Notification, Notifications
from harness.bus.xenbus import XenbusState
from harness.host.deadline import Deadline
from harness.hypervisor.events import fence
from harness.ring.netif import (
    EXTRA,
    EXTRA_GSO,
    EXTRA_HASH,
    RX_ENTRY_SIZE,
    RX_REQUEST,
    RX_RESPONSE,
    TX_ENTRY_SIZE,
    TX_REQUEST,
    TX_RESPONSE,
    ExtraType,
    RxFlags,
    TxFlags,
)
from harness.ring.ring import FrontRing
from tests.unit.backend_guest import DOMID, SECONDS, Guest, GuestSide

FRAMES = 24
NOT_GRANTED = 4095

OFFLOADS = {"feature-sg": 1, "feature-gso-tcpv4": 1, "feature-gso-tcpv6": 1, "feature-ipv6-csum-offload": 1}

DEFAULTS = NetFeatures()

_numbers = itertools.count()


@dataclass(frozen=True)
class Received:
    """A packet as the receive ring describes it."""

    data: bytes
    flags: int
    gso: tuple[int, int] | None
    hash: tuple[int, int, int] | None
    """Its type, algorithm and value."""
    statuses: list[int]
    frames: list[int]
    """What it took, by index: to be offered again."""


class Queue:
    """Two rings, and frames for each, which stay granted."""

    def __init__(self, guest: GuestSide, device: Device, *, split: bool) -> None:
        self.guest = guest
        self.device = device
        self._granted: list[tuple[int, int]] = []
        self.tx, tx_ref = self._ring(TX_ENTRY_SIZE)
        self.rx, rx_ref = self._ring(RX_ENTRY_SIZE)
        self.tx_frames, self.tx_refs = self._pool(readonly=True)
        self.rx_frames, self.rx_refs = self._pool(readonly=False)
        self.tx_port = guest.end.events.alloc_unbound()
        self.rx_port = guest.end.events.alloc_unbound() if split else self.tx_port
        ports = {"event-channel-tx": self.tx_port, "event-channel-rx": self.rx_port}
        self.nodes: dict[str, object] = {
            "tx-ring-ref": tx_ref,
            "rx-ring-ref": rx_ref,
            **(ports if split else {"event-channel": self.tx_port}),
        }
        self._next_id = 0
        self._posted: deque[int] = deque()

    def _grant(self, *, readonly: bool) -> tuple[int, int]:
        frame = self.guest.frame()
        self._granted.append((frame, self.guest.grant(frame, readonly=readonly)))
        return self._granted[-1]

    def _ring(self, entry_size: int) -> tuple[FrontRing, int]:
        frame, ref = self._grant(readonly=False)
        return FrontRing(self.guest.memory(frame), entry_size, fence), ref

    def _pool(self, *, readonly: bool) -> tuple[list[memoryview], list[int]]:
        pool = [self._grant(readonly=readonly) for _ in range(FRAMES)]
        return [self.guest.memory(frame) for frame, _ in pool], [ref for _, ref in pool]

    def take_back(self) -> None:
        """Take back what was given to the backend, which must have let go of it."""
        for frame, ref in self._granted:
            self.guest.take_back(frame, ref)
        for port in {self.tx_port, self.rx_port}:
            self.guest.end.events.close(port)

    # ---- transmit ----

    def put(self, ref: int, offset: int, flags: int, size: int) -> int:
        """Put a transmit request into the ring; returns its id."""
        self._next_id = (self._next_id + 1) & 0xFFFF
        TX_REQUEST.pack_into(self.tx.memory, self.tx.put(), ref, offset, flags, self._next_id, size)
        return self._next_id

    def put_extra(self, kind: int, flags: int, content: bytes) -> None:
        EXTRA.pack_into(self.tx.memory, self.tx.put(), kind, flags, content)

    def put_packet(
        self, packet: bytes, sizes: Sequence[int], *, flags: int = 0, gso: tuple[int, int] | None = None
    ) -> int:
        """Put a packet, cut into slots of those sizes (the rest goes into one more); returns the number of slots."""
        sizes = [*sizes, len(packet) - sum(sizes)]
        begin = 0
        for index, size in enumerate(sizes):
            self.tx_frames[index][:size] = packet[begin : begin + size]
            begin += size
            more = TxFlags.MORE_DATA if index + 1 < len(sizes) else 0
            if index:
                self.put(self.tx_refs[index], 0, more, size)
            else:
                extra = TxFlags.EXTRA_INFO if gso else 0
                self.put(self.tx_refs[index], 0, flags | more | extra, len(packet))
                if gso:
                    self.put_extra(ExtraType.GSO, 0, EXTRA_GSO.pack(*gso, 0))
        return len(sizes) + (1 if gso else 0)

    def push(self) -> None:
        if self.tx.push():
            self.guest.end.events.send(self.tx_port)

    def statuses(self, count: int) -> list[int]:
        """Wait for so many transmit responses."""
        found: list[int] = []
        deadline = Deadline(SECONDS, f"{count} transmit responses of {self.device.backend}")
        while len(found) < count:
            if self.tx.unconsumed() or self.tx.final_check():
                found.append(TX_RESPONSE.unpack_from(self.tx.memory, self.tx.take())[1])
            else:
                deadline.check()
                self.guest.wait_for_event(self.tx_port)
        return found

    def send(self, packet: bytes, *sizes: int, flags: int = 0, gso: tuple[int, int] | None = None) -> list[int]:
        slots = self.put_packet(packet, sizes, flags=flags, gso=gso)
        self.push()
        return self.statuses(slots)

    # ---- receive ----

    def post(self, frames: Iterable[int]) -> None:
        """Offer frames of ours, by index; FRAMES is one that is not granted."""
        for index in frames:
            ref = [*self.rx_refs, NOT_GRANTED][index]
            RX_REQUEST.pack_into(self.rx.memory, self.rx.put(), index, ref)
            self._posted.append(index)
        if self.rx.push():
            self.guest.end.events.send(self.rx_port)

    def _response(self) -> tuple[int, int]:
        """The next entry of the receive ring, and the frame that was offered in it."""
        deadline = Deadline(SECONDS, f"a receive response of {self.device.backend}")
        while not self.rx.unconsumed() and not self.rx.final_check():
            deadline.check()
            self.guest.wait_for_event(self.rx_port)
        return self.rx.take(), self._posted.popleft()

    def receive(self) -> Received:
        """Wait for the next packet."""
        data, gso, hashed, first_flags = b"", None, None, -1
        statuses: list[int] = []
        frames: list[int] = []
        flags = int(RxFlags.MORE_DATA)
        while flags & RxFlags.MORE_DATA:
            entry, index = self._response()
            frames.append(index)
            answered, offset, flags, status = RX_RESPONSE.unpack_from(self.rx.memory, entry)
            assert answered == index
            statuses.append(status)
            if status > 0:
                data += bytes(self.rx_frames[index][offset : offset + status])
            if first_flags == -1:
                first_flags = flags
            more = flags & RxFlags.EXTRA_INFO
            while more:
                entry, index = self._response()
                frames.append(index)
                kind, more, content = EXTRA.unpack_from(self.rx.memory, entry)
                if kind == ExtraType.GSO:
                    size, gso_type, _ = EXTRA_GSO.unpack(content)
                    gso = size, gso_type
                else:
                    assert kind == ExtraType.HASH
                    hashed = EXTRA_HASH.unpack(content)
        return Received(data, first_flags, gso, hashed, statuses, frames)


class NetFront(Queue):
    """A network card: its first queue, and what concerns it as a whole.

    :ivar queues: all of them, this one first.
    :param offers: nodes about features, such as ``OFFLOADS``.
    """

    def __init__(
        self, guest: GuestSide, device: Device, *, split: bool, offers: dict[str, int], queues: int = 1
    ) -> None:
        super().__init__(guest, device, split=split)
        self.queues: list[Queue] = [self, *(Queue(guest, device, split=split) for _ in range(queues - 1))]
        if queues > 1:
            self.nodes = {
                f"queue-{number}/{name}": value
                for number, queue in enumerate(self.queues)
                for name, value in queue.nodes.items()
            }
            self.nodes["multi-queue-num-queues"] = queues
        self.nodes |= {"request-rx-copy": 1, **offers}

    def connect(self, state: XenbusState = XenbusState.CONNECTED) -> NetFront:
        """Offer the rings to the backend.

        :param state: Linux's netfront goes straight to Connected, unless it had been connected to another backend.
        """
        self.guest.wait_for_backend(self.device, XenbusState.INIT_WAIT)
        self.guest.write(self.device.frontend, self.nodes)
        self.guest.switch(self.device, state)
        self.guest.wait_for_backend(self.device, XenbusState.CONNECTED)
        return self

    def receive_on_any(self) -> tuple[int, Received]:
        """Wait for the next packet on any queue; the number of that, and the packet."""
        deadline = Deadline(SECONDS, f"a packet on one of the queues of {self.device.backend}")
        while True:
            for number, queue in enumerate(self.queues):
                if queue.rx.unconsumed():
                    return number, queue.receive()
            deadline.check()
            os.sched_yield()

    def close(self) -> None:
        """Close the device; the backend must let go of everything we gave it."""
        self.guest.switch(self.device, XenbusState.CLOSED)
        self.guest.wait_for_backend(self.device, XenbusState.CLOSED)
        for queue in self.queues:
            queue.take_back()


@contextmanager
def card(
    guest: Guest,
    *,
    mtu: int = 1500,
    features: NetFeatures = DEFAULTS,
    notification: Notification = Notification.ADAPTIVE,
) -> Iterator[Device]:
    """A network card that the toolstack has made."""
    device = toolstack.add_vif(
        guest.store,
        DOMID,
        next(_numbers),
        "00:16:3e:00:00:01",
        "br0",
        mtu=mtu,
        features=features,
        notifications=Notifications(backend=notification),
    )
    yield device
    guest.store.rm(device.backend)
    guest.store.rm(device.frontend)


@contextmanager
def connected(
    guest: Guest,
    *,
    split: bool = True,
    offers: dict[str, int] | None = None,
    queues: int = 1,
    mtu: int = 1500,
    features: NetFeatures = DEFAULTS,
    notification: Notification = Notification.ADAPTIVE,
) -> Iterator[NetFront]:
    """A card and a frontend that uses it; in the end the backend must let go of all the frontend gave it."""
    with card(guest, mtu=mtu, features=features, notification=notification) as device:
        offers = OFFLOADS if offers is None else offers
        front = NetFront(guest, device, split=split, offers=offers, queues=queues).connect()
        yield front
        front.close()
