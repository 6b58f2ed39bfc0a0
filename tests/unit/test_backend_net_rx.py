"""A receive ring in this process: whatever comes, and whatever the guest has posted, each byte must be in its place."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.backend import net_rx
from harness.backend.mappings import Mappings
from harness.backend.net_hash import Steering
from harness.backend.net_multicast import MulticastFilter
from harness.backend.net_ring import Attachment
from harness.backend.net_rules import Rules
from harness.backend.net_rx import Receiver
from harness.backend.net_source import Source
from harness.backend.net_timer import Timer
from harness.backend.tap import VNET_F_NEEDS_CSUM, VNET_GSO_TCPV4, VNET_HDR
from harness.hypervisor.events import fence
from harness.hypervisor.layout import DOMAIN_0, FRAME_SIZE
from harness.ring.netif import EXTRA, EXTRA_GSO, RX_ENTRY_SIZE, RX_REQUEST, RX_RESPONSE, RxFlags, Status
from harness.ring.ring import FrontRing
from tests.unit.backend_guest import wait_until
from tests.unit.linkends import Ends, ends_of_a_link

POOL = 24
NOT_GRANTED = 4000
GSO_HEADER = VNET_HDR.pack(VNET_F_NEEDS_CSUM, VNET_GSO_TCPV4, 54, 1448, 34, 16)
PLAIN_HEADER = bytes(VNET_HDR.size)


class Guest:
    """Posts frames and reads packets; the TAP device is a socket that keeps packets apart."""

    def __init__(self, ends: Ends, stack: ExitStack, *, persistent: bool) -> None:
        first = ends.guest.layout.first_free_frame
        self._frames = [ends.guest.frame(first + 1 + index) for index in range(POOL)]
        self._refs = [ends.guest.table.grant(first + 1 + index, DOMAIN_0) for index in range(POOL)]
        self._ring = FrontRing(ends.guest.frame(first), RX_ENTRY_SIZE, fence)
        self._posted: list[int] = []
        tap, self._wire = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
        for end in (tap, self._wire):
            end.setblocking(False)
            stack.callback(end.close)
        port = ends.backend.events.bind_interdomain(ends.guest.events.alloc_unbound())
        self.mappings = Mappings(ends.backend.grants, persistent=persistent)
        stack.callback(self.mappings.close)
        self.timer = Timer()
        stack.callback(self.timer.close)
        self.changes: list[bool] = []
        rules = Rules(Steering(1), MulticastFilter(), sg=True, ipv4_checksum=True, ipv6_checksum=True)
        attachment = Attachment("rx", ends.backend, ends.backend.frame(first), port, self.mappings)
        self._source = Source(tap.fileno())
        self.receiver = Receiver(
            attachment, self._source, rules, self.timer, lambda: self.changes.append(self.receiver.stalled)
        )
        stack.callback(self.receiver.close)

    @property
    def free(self) -> list[int]:
        return [index for index in range(POOL) if index not in self._posted]

    def send(self, packet: bytes, *, gso: bool = False) -> bool:
        """Have the TAP device give a packet, as the loop would announce it; False when it is full."""
        try:
            self._wire.send((GSO_HEADER if gso else PLAIN_HEADER) + packet)
        except BlockingIOError:
            return False
        self._source.announced()
        return True

    def post(self, *frames: int) -> None:
        """Offer frames by index; POOL is one that is not granted."""
        for index in frames:
            RX_REQUEST.pack_into(self._ring.memory, self._ring.put(), index, [*self._refs, NOT_GRANTED][index])
            self._posted.append(index)
        self._ring.push()

    def packets(self) -> list[tuple[bytes, bool, list[int]]]:
        """Those that have come: data, whether there was extra info, and statuses."""
        found = []
        while self._ring.unconsumed():
            data, gso, statuses, flags = b"", False, [], int(RxFlags.MORE_DATA)
            while flags & RxFlags.MORE_DATA:
                answered, offset, flags, status = RX_RESPONSE.unpack_from(self._ring.memory, self._ring.take())
                index = self._posted.pop(0)
                # In the slot of its request.
                assert answered == index
                statuses.append(status)
                if status >= 0:
                    data += bytes(self._frames[index][offset : offset + status])
                if flags & RxFlags.EXTRA_INFO:
                    content = EXTRA.unpack_from(self._ring.memory, self._ring.take())[2]
                    assert EXTRA_GSO.unpack(content) == (1448, 1, 0)
                    self._posted.pop(0)
                    gso = True
            found.append((data, gso, statuses))
        return found


@contextmanager
def receiving(*, persistent: bool = True) -> Iterator[Guest]:
    with ends_of_a_link() as ends, ExitStack() as stack:
        yield Guest(ends, stack, persistent=persistent)
        stack.close()
        assert not ends.backend.grants.mapped


def packet_of(size: int, seed: int) -> bytes:
    return bytes((seed + index * 31 + (index >> 8)) & 0xFF for index in range(size))


SIZES = st.one_of(
    st.integers(14, 1514), st.integers(4090, 4102), st.integers(4096 * 3 - 2, 4096 * 3 + 2), st.just(65535)
)
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("packet"), SIZES, st.booleans()),
        st.tuples(st.just("post"), st.integers(1, POOL), st.booleans()),
        st.tuples(st.just("work"), st.just(0), st.booleans()),
    ),
    max_size=60,
)


@settings(max_examples=60, deadline=None)
@given(STEPS, st.booleans())
def test_every_packet_comes_in_whole_and_in_order(steps: list[tuple[str, int, bool]], persistent: bool) -> None:
    with receiving(persistent=persistent) as guest:
        sent: list[tuple[bytes, bool]] = []
        found: list[tuple[bytes, bool]] = []

        def work() -> None:
            while guest.receiver.work():
                pass
            found.extend((data, gso) for data, gso, _ in guest.packets())

        for seed, (what, number, flag) in enumerate(steps):
            if what == "packet":
                packet = packet_of(number, seed)
                if guest.send(packet, gso=flag):
                    sent.append((packet, flag))
            elif what == "post":
                free = guest.free
                guest.post(*(free[:number] if flag else reversed(free[:number])))
            else:
                work()
        for _ in range(len(sent) + 1):
            guest.post(*guest.free)
            work()
        assert found == sent


@pytest.mark.parametrize("persistent", [True, False])
@pytest.mark.parametrize("gso", [True, False])
@pytest.mark.parametrize("bad", [[0], [1], [2], [3], [0, 1, 2, 3]])
def test_what_falls_into_a_frame_that_is_not_granted_is_lost_alone(bad: list[int], gso: bool, persistent: bool) -> None:
    with receiving(persistent=persistent) as guest:
        guest.post(*(POOL if index in bad else index for index in range(4)), *range(4, 20))
        packet = packet_of(10_000, 5)
        for _ in range(2):
            guest.send(packet, gso=gso)
        guest.receiver.work()
        (data, found_gso, statuses), second = guest.packets()
        places = [0, 2, 3] if gso else [0, 1, 2]
        sizes = [4096, 4096, 10_000 - 8192]
        assert statuses == [Status.ERROR if place in bad else size for place, size in zip(places, sizes, strict=True)]
        pieces = [packet[index * 4096 : (index + 1) * 4096] for index in range(3)]
        assert data == b"".join(piece for place, piece in zip(places, pieces, strict=True) if place not in bad)
        assert found_gso == gso
        # The next one is not concerned, but for what it takes of the four.
        assert second[0] == packet or not gso


def count(monkeypatch: pytest.MonkeyPatch, name: str) -> Callable[[], int]:
    """Count the calls of a function of ``os``."""
    calls = 0
    real = getattr(os, name)

    def counted(*arguments: object) -> object:
        nonlocal calls
        calls += 1
        return real(*arguments)

    monkeypatch.setattr(os, name, counted)
    return lambda: calls


@pytest.mark.parametrize("size", [60, 65_000])
def test_a_packet_costs_one_system_call(monkeypatch: pytest.MonkeyPatch, size: int) -> None:
    """And one more for the end of them all; frames that stay granted are mapped once."""
    with receiving() as guest:
        reads = count(monkeypatch, "readv")
        for round_ in range(20):
            guest.post(*guest.free)
            guest.send(packet_of(size, round_), gso=size > FRAME_SIZE)
            assert guest.receiver.work()
            assert [data for data, _, _ in guest.packets()] == [packet_of(size, round_)]
        assert reads() <= 2 * 20
        assert len(guest.mappings.kept) <= POOL


# ---- a guest that posts nothing ------------------------------------------------------------------------------------


def test_a_guest_that_posts_nothing_is_given_up_and_taken_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(net_rx, "PATIENCE", 0.01)
    with receiving() as guest:
        for seed in range(5):
            guest.send(packet_of(5000, seed))
        assert not guest.receiver.work()
        assert not guest.receiver.arm()
        guest.post(0)
        assert not guest.receiver.work()
        assert not guest.receiver.arm()

        def expires() -> bool:
            guest.receiver.expired()
            guest.receiver.work()
            return guest.receiver.stalled

        wait_until("the end of patience", expires)
        assert guest.changes == [True]
        # Enough for what waited; but that is gone, with all that came behind it.
        guest.post(1)
        assert not guest.receiver.work()
        assert guest.packets() == []
        guest.send(packet_of(5000, 9))
        guest.receiver.work()
        assert [data for data, _, _ in guest.packets()] == [packet_of(5000, 9)]
        assert guest.changes == [True, False]


def test_a_guest_that_is_only_slow_is_not_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(net_rx, "PATIENCE", 0.001)
    with receiving() as guest:
        for seed in range(10):
            guest.send(packet_of(100, seed))
            guest.receiver.work()
            guest.receiver.arm()
            guest.post(seed)
            assert guest.receiver.work()
            # That of the packet which has been delivered meanwhile.
            guest.receiver.expired()
        assert len(guest.packets()) == 10
        assert guest.changes == []
