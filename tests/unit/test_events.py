"""Event channels: masks, coalescing, binding, and events that cross on the way."""

from __future__ import annotations

import os
import select
from collections.abc import Iterator
from contextlib import suppress

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, multiple, rule

from harness.hypervisor import events as events_module
from harness.hypervisor.events import EventChannels, EventError, PortState
from harness.hypervisor.layout import LINK_PORTS, PORT
from harness.hypervisor.link import LinkEnd
from tests.unit.interleave import Interleaver
from tests.unit.linkends import Ends, duplicated, ends_of_a_link


@pytest.fixture
def ends() -> Iterator[Ends]:
    with ends_of_a_link() as made:
        yield made


def rung(end: LinkEnd) -> bool:
    return bool(select.select([end.wait_fd], [], [], 0)[0])


def connect(ends: Ends) -> tuple[int, int]:
    """A quiet channel between guest and backend: the port of each."""
    port = ends.guest.events.alloc_unbound()
    bound = ends.backend.events.bind_interdomain(port)
    ends.backend.events.acknowledge()
    assert ends.backend.events.pending() == [bound]
    return port, bound


def overwrite(end: LinkEnd, side: int, port: int, entry: tuple[int, int, int]) -> None:
    """Put state, vector and remote port into the entry of a port of either side."""
    PORT.pack_into(end.frame(end.layout.ports_frame[side] + port // 512), port % 512 * 8, *entry)


def test_store_and_console_ports_are_there_from_the_start(ends: Ends) -> None:
    ends.guest.events.send(1)
    ends.guest.events.send(2)
    assert (ends.store.events.pending(), ends.backend.events.pending()) == ([1], [64])
    ends.store.events.send(1)
    ends.backend.events.send(64)
    assert ends.guest.events.pending() == [1, 2]


def test_a_bound_port_is_pending_at_once(ends: Ends) -> None:
    port = ends.guest.events.alloc_unbound()
    assert ends.guest.events.status(port) == (PortState.UNBOUND, None)
    bound = ends.backend.events.bind_interdomain(port)
    assert rung(ends.backend)
    assert ends.backend.events.pending() == [bound]
    assert ends.guest.events.status(port) == (PortState.INTERDOMAIN, bound)
    assert ends.backend.events.status(bound) == (PortState.INTERDOMAIN, port)


def test_events_coalesce_but_every_one_rings(ends: Ends) -> None:
    port, bound = connect(ends)
    ends.guest.events.send(port)
    ends.backend.events.acknowledge()
    ends.guest.events.send(port)
    assert rung(ends.backend), "the first doorbell may have been lost"
    assert ends.backend.events.pending() == [bound]
    assert ends.backend.events.pending() == []


def test_a_masked_port_stays_pending_and_silent(ends: Ends) -> None:
    port, bound = connect(ends)
    ends.backend.events.mask(bound)
    ends.guest.events.send(port)
    assert not rung(ends.backend)
    assert ends.backend.events.pending() == []
    ends.backend.events.unmask(bound)
    assert rung(ends.backend)
    assert ends.backend.events.pending() == [bound]


def test_unmasking_a_quiet_port_wakes_nobody(ends: Ends) -> None:
    _, bound = connect(ends)
    ends.backend.events.mask(bound)
    ends.backend.events.unmask(bound)
    assert not rung(ends.backend)


def test_closing_leaves_the_other_end_waiting_for_a_new_binding(ends: Ends) -> None:
    port, bound = connect(ends)
    ends.backend.events.close(bound)
    assert ends.guest.events.status(port) == (PortState.UNBOUND, None)
    ends.guest.events.send(port)
    again = ends.backend.events.bind_interdomain(port)
    assert ends.guest.events.status(port) == (PortState.INTERDOMAIN, again)


def test_closing_leaves_a_port_alone_that_talks_to_another(ends: Ends) -> None:
    port, bound = connect(ends)
    other, other_bound = connect(ends)
    overwrite(ends.guest, 1, bound, (PortState.INTERDOMAIN, 1, other))
    ends.backend.events.close(bound)
    assert ends.guest.events.status(other) == (PortState.INTERDOMAIN, other_bound)
    assert ends.guest.events.status(port) == (PortState.INTERDOMAIN, bound)


def test_a_port_is_not_reused_with_old_events(ends: Ends) -> None:
    port, bound = connect(ends)
    ends.guest.events.send(port)
    ends.backend.events.mask(bound)
    ends.backend.events.close(bound)
    fresh = ends.backend.events.alloc_unbound()
    assert fresh == bound
    assert ends.backend.events.pending() == []
    peer = ends.guest.events.bind_interdomain(fresh)
    ends.guest.events.send(peer)
    assert ends.backend.events.pending() == [fresh], "nor with its mask"


def test_each_process_hands_out_its_own_ports_only(ends: Ends) -> None:
    handed_out = [ends.store.events.alloc_unbound() for _ in range(62)]
    assert handed_out == list(range(2, 64))
    with pytest.raises(EventError, match="no free port"):
        ends.store.events.alloc_unbound()
    assert ends.backend.events.alloc_unbound() == 65


def test_a_process_that_comes_later_takes_over_the_ports_of_its_range(ends: Ends) -> None:
    port, bound = connect(ends)
    with LinkEnd.from_fds(duplicated(ends.link.backend_fds()), vector=1, ports=range(64, LINK_PORTS)) as later:
        assert later.events.open_ports == {64, bound}
        ends.guest.events.send(port)
        assert later.events.pending() == [bound]


def test_a_successor_closes_what_its_predecessor_left_and_keeps_the_toolstacks_port(ends: Ends) -> None:
    port, bound = connect(ends)
    waiting = ends.backend.events.alloc_unbound()
    ends.backend.events.mask(64)
    ends.guest.events.send(2)
    store_ports = ends.store.events.open_ports
    with LinkEnd.from_fds(duplicated(ends.link.backend_fds()), vector=1, ports=range(64, LINK_PORTS)) as later:
        later.events.reset()
        assert later.events.open_ports == {64}
        assert ends.guest.events.status(port) == (PortState.UNBOUND, None)
        assert later.events.status(bound) == later.events.status(waiting) == (PortState.CLOSED, None)
        assert rung(later)
        assert later.events.pending() == [64], "the predecessor may have died over its last event"
        ends.guest.events.send(2)
        assert rung(later)
        later.events.send(64)
        assert ends.guest.events.pending() == [2]
        again = later.events.bind_interdomain(port)
        assert ends.guest.events.status(port) == (PortState.INTERDOMAIN, again)
    assert ends.store.events.open_ports == store_ports
    assert ends.guest.events.status(1) == (PortState.INTERDOMAIN, 1)


def test_each_port_counts_its_events(ends: Ends) -> None:
    port, bound = connect(ends)
    for _ in range(3):
        ends.guest.events.send(port)
    assert ends.backend.events.pending() == [bound]
    assert ends.guest.events.sent == {1: 0, 2: 0, port: 3}
    # Binding made it pending once, and the three have become one.
    assert ends.backend.events.received == {64: 0, bound: 2}
    ends.backend.events.close(bound)
    assert ends.backend.events.received == {64: 0}


@pytest.mark.parametrize("port", [0, -1, LINK_PORTS, 1 << 40])
def test_ports_that_do_not_exist(ends: Ends, port: int) -> None:
    with pytest.raises(EventError):
        ends.backend.events.bind_interdomain(port)
    with pytest.raises(EventError):
        ends.backend.events.send(port)
    with pytest.raises(EventError):
        ends.backend.events.close(port)


def test_only_an_unbound_port_can_be_bound_to(ends: Ends) -> None:
    port, _ = connect(ends)
    for wrong in (port, 1, 99):
        with pytest.raises(EventError, match="not unbound"):
            ends.backend.events.bind_interdomain(wrong)


@given(st.integers(0, 0xFFFF), st.integers(0, 0xFFFF), st.integers(0, 0xFFFFFFFF))
def test_whatever_the_guest_writes_into_the_tables_harms_only_itself(state: int, vector: int, remote: int) -> None:
    with ends_of_a_link() as ends:
        port, bound = connect(ends)
        store_before = bytes(ends.store.frame(ends.store.layout.pending_frame[1]))
        overwrite(ends.guest, 1, bound, (state, vector, remote))
        overwrite(ends.guest, 0, port, (state, vector, remote))
        for act in (ends.backend.events.send, ends.backend.events.status, ends.backend.events.close):
            try:
                act(bound)
            except EventError:
                continue
        with suppress(EventError):
            ends.backend.events.bind_interdomain(port)
            assert state == PortState.UNBOUND
        after = bytes(ends.store.frame(ends.store.layout.pending_frame[1]))
        assert after[:64] == store_before[:64]


def test_a_doorbell_at_its_limit_is_rung_enough(ends: Ends) -> None:
    port, bound = connect(ends)
    os.eventfd_write(ends.backend.wait_fd, (1 << 64) - 2)
    ends.guest.events.send(port)
    assert ends.backend.events.pending() == [bound]


class Traffic(RuleBasedStateMachine):
    """Two ends doing anything that is allowed, against a model of three sets."""

    channels = Bundle("channels")

    def __init__(self) -> None:
        super().__init__()
        self.context = ends_of_a_link()
        self.ends = self.context.__enter__()
        self.pending: set[int] = set()
        self.masked: set[int] = set()
        self.bound: set[int] = set()

    @property
    def receiver(self) -> EventChannels:
        return self.ends.backend.events

    def teardown(self) -> None:
        self.context.__exit__(None, None, None)

    @rule(target=channels)
    def bind(self) -> tuple[int, int]:
        port = self.ends.guest.events.alloc_unbound()
        bound = self.receiver.bind_interdomain(port)
        assert bound not in self.bound
        self.bound.add(bound)
        self.pending.add(bound)
        return port, bound

    @rule(channel=channels)
    def send(self, channel: tuple[int, int]) -> None:
        self.ends.guest.events.send(channel[0])
        self.pending.add(channel[1])

    @rule(channel=channels)
    def mask(self, channel: tuple[int, int]) -> None:
        self.receiver.mask(channel[1])
        self.masked.add(channel[1])

    @rule(channel=channels)
    def unmask(self, channel: tuple[int, int]) -> None:
        self.receiver.unmask(channel[1])
        self.masked.discard(channel[1])

    @rule()
    def receive(self) -> None:
        self.receiver.acknowledge()
        assert self.receiver.pending() == sorted(self.pending - self.masked)
        self.pending &= self.masked

    @rule(target=channels, channel=consumes(channels))
    def close(self, channel: tuple[int, int]) -> object:
        self.receiver.close(channel[1])
        self.ends.guest.events.close(channel[0])
        for known in (self.bound, self.pending, self.masked):
            known.discard(channel[1])
        return multiple()

    @invariant()
    def what_waits_has_rung(self) -> None:
        if self.pending - self.masked:
            assert rung(self.ends.backend)


TestTraffic = Traffic.TestCase
TestTraffic.settings = settings(max_examples=60, stateful_step_count=30)


@settings(max_examples=150, suppress_health_check=[HealthCheck.too_slow])
@given(st.data())
def test_no_event_is_lost_however_sending_and_unmasking_cross(data: st.DataObject) -> None:
    interleaver = Interleaver(lambda count: data.draw(st.integers(0, count - 1)))
    with pytest.MonkeyPatch.context() as patch, ends_of_a_link() as ends:
        patch.setattr(events_module, "fence", interleaver.fence)
        port, bound = connect(ends)
        handled = 0

        def sender() -> None:
            for _ in range(2):
                ends.guest.events.send(port)

        def receiver() -> None:
            nonlocal handled
            for _ in range(2):
                ends.backend.events.mask(bound)
                interleaver.fence()
                ends.backend.events.unmask(bound)
                if rung(ends.backend):
                    ends.backend.events.acknowledge()
                    handled += len(ends.backend.events.pending())

        interleaver.run([sender, receiver])
        if rung(ends.backend):
            handled += len(ends.backend.events.pending())
        assert handled
        assert ends.backend.events.pending() == [], "pending, unmasked, and nobody was told"
