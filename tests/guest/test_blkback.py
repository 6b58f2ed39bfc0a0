"""The block backend in a driver domain's kernel does for a frontend what the one on the host does.

What is asked of that one, with a frontend in Python, is asked of this one by the same tests.
"""

from __future__ import annotations

from tests.unit.test_backend_block import (
    device,
    either,
    front,
    test_a_barrier_with_and_without_data,
    test_a_frontend_may_come_again,
    test_a_frontend_that_writes_nonsense_is_told_so,
    test_flushing,
    test_indirect_requests,
    test_many_in_flight_through_the_wrap_of_the_ring,
    test_reading,
    test_the_backend_follows_a_frontend_that_closes,
    test_the_sectors_are_there_before_the_state_says_connected,
    test_toggling_the_state_faster_than_anybody_can_follow,
    test_writing,
)

__all__ = [
    "device",
    "either",
    "front",
    "test_a_barrier_with_and_without_data",
    "test_a_frontend_may_come_again",
    "test_a_frontend_that_writes_nonsense_is_told_so",
    "test_flushing",
    "test_indirect_requests",
    "test_many_in_flight_through_the_wrap_of_the_ring",
    "test_reading",
    "test_the_backend_follows_a_frontend_that_closes",
    "test_the_sectors_are_there_before_the_state_says_connected",
    "test_toggling_the_state_faster_than_anybody_can_follow",
    "test_writing",
]
