"""Frames of a ring as one piece of memory."""

from __future__ import annotations

import gc
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.backend.ring_pages import contiguous
from harness.hypervisor.layout import FRAME_SIZE
from tests.unit.linkends import FRAMES, ends_of_a_link

LAST = FRAMES - 1
SPARE = 24
"""Frames at the end of the small link, which are surely free."""


def mappings_of_links() -> int:
    return Path("/proc/self/maps").read_text().count("harness-link")


@given(st.lists(st.integers(0, SPARE - 1), min_size=1, max_size=16, unique=True))
def test_any_frames_in_any_order(numbers: list[int]) -> None:
    with ends_of_a_link() as ends:
        frames = [LAST - number for number in numbers]
        refs = [ends.guest.table.grant(frame, 0) for frame in frames]
        memory = contiguous(ends.backend.memory, [ends.backend.grants.map(ref, write=True) for ref in refs])
        assert len(memory) == len(frames) * FRAME_SIZE
        for index, frame in enumerate(frames):
            # What one end writes the other sees, in both directions.
            ends.guest.frame(frame)[:8] = index.to_bytes(8, "little")
            assert bytes(memory[index * FRAME_SIZE :][:8]) == index.to_bytes(8, "little")
            memory[(index + 1) * FRAME_SIZE - 1] = index + 1
            assert ends.guest.frame(frame)[-1] == index + 1


@pytest.mark.parametrize(("frames", "more"), [([LAST - 2, LAST - 1, LAST], 0), ([LAST, LAST - 1, LAST - 2], 3)])
def test_only_scattered_frames_are_mapped_again_and_not_for_longer_than_needed(frames: list[int], more: int) -> None:
    with ends_of_a_link() as ends:
        refs = [ends.guest.table.grant(frame, 0) for frame in frames]
        grants = [ends.backend.grants.map(ref, write=True) for ref in refs]
        gc.collect()
        before = mappings_of_links()
        memory = contiguous(ends.backend.memory, grants)
        assert mappings_of_links() == before + more
        ends.guest.frame(frames[1])[:] = b"x" * FRAME_SIZE
        del memory
        gc.collect()
        assert mappings_of_links() == before
        assert ends.guest.frame(frames[1]) == b"x" * FRAME_SIZE
