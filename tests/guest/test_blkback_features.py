"""What a disk of a driver domain offers and is like, its rings, and its coming and going, as for those of the host."""

from __future__ import annotations

from tests.unit.test_backend_block_features import (
    test_a_discard_gives_the_space_back,
    test_a_limit_on_segments,
    test_a_part_of_a_large_sector_is_refused,
    test_a_read_only_disk_forgets_nothing,
    test_large_sectors,
    test_nonsense_of_the_toolstack_is_reported,
    test_only_what_is_there_is_discarded,
    test_what_is_switched_off_is_neither_offered_nor_served,
    test_what_kind_of_disk_it_is,
)
from tests.unit.test_backend_block_life import (
    test_closing_with_requests_under_way,
    test_more_persistent_grants_than_are_kept,
)
from tests.unit.test_backend_block_rings import (
    test_a_32_bit_frontend,
    test_a_frame_is_in_a_ring_once,
    test_a_ring_that_breaks_takes_its_device_along_and_no_other,
    test_a_single_page_may_be_numbered,
    test_every_ring_carries_data_through_its_wrap,
    test_more_than_the_definition_allows_is_refused,
    test_nonsense_about_queues_and_rings,
    test_what_one_ring_writes_another_reads,
)

__all__ = [
    "test_a_32_bit_frontend",
    "test_a_discard_gives_the_space_back",
    "test_a_frame_is_in_a_ring_once",
    "test_a_limit_on_segments",
    "test_a_part_of_a_large_sector_is_refused",
    "test_a_read_only_disk_forgets_nothing",
    "test_a_ring_that_breaks_takes_its_device_along_and_no_other",
    "test_a_single_page_may_be_numbered",
    "test_closing_with_requests_under_way",
    "test_every_ring_carries_data_through_its_wrap",
    "test_large_sectors",
    "test_more_persistent_grants_than_are_kept",
    "test_more_than_the_definition_allows_is_refused",
    "test_nonsense_about_queues_and_rings",
    "test_nonsense_of_the_toolstack_is_reported",
    "test_only_what_is_there_is_discarded",
    "test_what_is_switched_off_is_neither_offered_nor_served",
    "test_what_kind_of_disk_it_is",
    "test_what_one_ring_writes_another_reads",
]
