"""What a hostile frontend may do to the block backend of a driver domain, and what must come of it.

The crimes are those that the backend on the host is put through. The guest runs with what finds memory that is used
wrongly, and ends at the first warning of its kernel.
"""

from __future__ import annotations

from tests.unit.test_backend_block_hostile import (
    front,
    test_a_frame_that_may_only_be_read_is_not_written_to,
    test_a_read_only_disk_is_not_written_to,
    test_an_error_undoes_what_was_mapped,
    test_an_impossible_index_costs_that_disk_only,
    test_an_indirect_page_that_is_not_granted,
    test_bad_segments,
    test_bad_segments_in_an_indirect_page,
    test_garbage_is_answered_entry_by_entry,
    test_more_indirect_segments_than_offered,
    test_more_segments_than_fit_into_a_request,
    test_only_reads_and_writes_can_be_indirect,
    test_sectors_beyond_the_end,
    test_the_padding_of_a_response_holds_nothing,
    test_unknown_operations,
)

__all__ = [
    "front",
    "test_a_frame_that_may_only_be_read_is_not_written_to",
    "test_a_read_only_disk_is_not_written_to",
    "test_an_error_undoes_what_was_mapped",
    "test_an_impossible_index_costs_that_disk_only",
    "test_an_indirect_page_that_is_not_granted",
    "test_bad_segments",
    "test_bad_segments_in_an_indirect_page",
    "test_garbage_is_answered_entry_by_entry",
    "test_more_indirect_segments_than_offered",
    "test_more_segments_than_fit_into_a_request",
    "test_only_reads_and_writes_can_be_indirect",
    "test_sectors_beyond_the_end",
    "test_the_padding_of_a_response_holds_nothing",
    "test_unknown_operations",
]
