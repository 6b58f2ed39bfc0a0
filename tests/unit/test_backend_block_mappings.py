"""Which grants stay mapped, and for how long."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.backend.mappings import Mappings
from harness.hypervisor.grants import GrantError
from tests.unit.linkends import FRAMES, Ends, ends_of_a_link

FRAME = FRAMES - 1


@pytest.fixture
def ends() -> Iterator[Ends]:
    with ends_of_a_link() as ends:
        yield ends
        assert not ends.backend.grants.mapped


def many_refs(ends: Ends, count: int) -> list[int]:
    """References to the same frame."""
    return [ends.guest.table.grant(FRAME, 0) for _ in range(count)]


def test_what_stays_is_bounded(ends: Ends) -> None:
    mappings = Mappings(ends.backend.grants, persistent=True, limit=20)
    for ref in many_refs(ends, 200):
        mappings.map(ref, write=True)
        assert len(ends.backend.grants.mapped) == mappings.in_use <= 20
    mappings.close()


def test_what_is_used_again_and_again_stays(ends: Ends) -> None:
    mappings = Mappings(ends.backend.grants, persistent=True, limit=20)
    favourites, others = many_refs(ends, 4), many_refs(ends, 200)
    for ref in favourites:
        mappings.map(ref, write=True)
    for number, ref in enumerate(others):
        mappings.map(ref, write=True)
        mappings.map(favourites[number % 4], write=True)
        assert set(favourites) <= ends.backend.grants.mapped
    mappings.close()


def test_a_grant_that_was_dropped_can_be_taken_back(ends: Ends) -> None:
    mappings = Mappings(ends.backend.grants, persistent=True, limit=20)
    first, *others = many_refs(ends, 41)
    mappings.map(first, write=True)
    for ref in others:
        mappings.map(ref, write=True)
    assert ends.guest.table.end_access(first)
    mappings.close()


@settings(max_examples=50, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 29), st.booleans()), max_size=200), st.booleans())
def test_whatever_is_mapped_is_given_back(steps: list[tuple[int, bool]], persistent: bool) -> None:
    """Readable and writable grants, asked for in any order and for both; nothing leaks, nothing is unmapped twice."""
    with ends_of_a_link() as ends:
        mappings = Mappings(ends.backend.grants, persistent=persistent, limit=8)
        refs = [ends.guest.table.grant(FRAME, 0, readonly=number % 3 == 0) for number in range(30)]
        held = []
        for number, write in steps:
            if write and number % 3 == 0:
                with pytest.raises(GrantError):
                    mappings.map(refs[number], write=True)
            else:
                grant = mappings.map(refs[number], write=write)
                assert grant.ref == refs[number]
                assert grant.write >= write
                if number % 5 == 0:
                    held.append(mappings.detach({refs[number]}))
            mappings.release()
            assert mappings.in_use <= 8
        for grants in held:
            mappings.give_back(grants)
        mappings.close()
        assert not ends.backend.grants.mapped


@pytest.mark.parametrize("persistent", [True, False])
def test_a_detached_grant_stays_mapped_whatever_happens_to_others(ends: Ends, persistent: bool) -> None:
    mappings = Mappings(ends.backend.grants, persistent=persistent, limit=20)
    slow, *others = many_refs(ends, 60)
    mappings.map(slow, write=True)
    held = mappings.detach({slow})
    mappings.release()
    for ref in others:
        mappings.map(ref, write=True)
        mappings.release()
    assert slow in ends.backend.grants.mapped
    mappings.give_back(held)
    assert slow not in ends.backend.grants.mapped
    mappings.close()


def test_detaching_what_was_taken_back_meanwhile_leaks_nothing(ends: Ends) -> None:
    mappings = Mappings(ends.backend.grants, persistent=True)
    good, revoked = many_refs(ends, 2)
    for ref in (good, revoked):
        mappings.map(ref, write=True)
    assert not ends.guest.table.end_access(revoked)
    with pytest.raises(GrantError):
        mappings.detach([good, revoked])
    mappings.close()
