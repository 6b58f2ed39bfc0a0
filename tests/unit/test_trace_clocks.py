"""Bringing the guest's clock to the host's, by nothing but the order of requests."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.trace.clocks import Clocks, aligned, host_time
from harness.trace.events import GUEST
from tests.unit.trace_events import ANSWERED, COMPLETED, SUBMITTED, TAKEN, requests

START = 10**12


@given(offset=st.integers(-(10**12) + 1, 10**15))
def test_the_offset_is_found_within_what_is_said_of_it(offset: int) -> None:
    events = requests(20, lambda time: time + offset, START)
    found = aligned(events)
    error = abs(found.host(START + offset) - START)
    assert error <= found.uncertainty + 1
    # Half of the ways there and back: no more is known.
    assert found.uncertainty == pytest.approx((TAKEN - SUBMITTED + COMPLETED - ANSWERED) / 2, abs=1)


@given(drift=st.floats(-2e-4, 2e-4), offset=st.integers(0, 10**12))
def test_clocks_of_different_speed_stay_together(drift: float, offset: int) -> None:
    def guest(time: int) -> int:
        return offset + START + round((time - START) * (1 + drift))

    # Three seconds, in which they may drift apart by more than any request takes.
    events = requests(60, guest, START, apart=50_000_000)
    found = aligned(events)
    for event in events:
        if event.clock == GUEST:
            true = START + (event.time - offset - START) / (1 + drift)
            assert abs(host_time(event, found) - true) <= found.uncertainty + 2_000


def test_before_the_first_request_the_arrival_of_an_event_tells_something() -> None:
    clocks = Clocks()
    assert clocks.offset() is None
    clocks.arrived(guest=1_000, host=51_000)
    offset = clocks.offset()
    assert offset is not None
    assert offset.host(1_000) == 51_000
    assert offset.uncertainty == float("inf")


def test_requests_of_which_one_end_was_not_seen_say_nothing() -> None:
    clocks = Clocks()
    for event in requests(5_000):
        if event.clock == GUEST:
            clocks.add(event)
    assert clocks.offset() is None
