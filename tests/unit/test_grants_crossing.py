"""Grants while both ends use them: against a model that counts, and when mapping and taking back cross."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from harness.hypervisor import grant_table as grant_table_module
from harness.hypervisor import grants as grants_module
from harness.hypervisor.grants import Grant, GrantError, GrantMap
from harness.hypervisor.layout import LinkLayout
from tests.unit.interleave import Interleaver
from tests.unit.linkends import FRAMES, ends_of_a_link, status_of

FRAME = LinkLayout.first_free_frame


class Users(RuleBasedStateMachine):
    """A granter and a grantee, against a model that counts."""

    def __init__(self) -> None:
        super().__init__()
        self.context = ends_of_a_link()
        self.ends = self.context.__enter__()
        self.granted: dict[int, bool] = {}
        self.ending: set[int] = set()
        self.mappings: list[Grant] = []

    def teardown(self) -> None:
        self.context.__exit__(None, None, None)

    @rule(readonly=st.booleans(), frame=st.integers(FRAME, FRAMES - 1))
    def grant(self, readonly: bool, frame: int) -> None:
        ref = self.ends.guest.table.grant(frame, 0, readonly=readonly)
        assert ref not in self.granted
        self.granted[ref] = readonly

    @precondition(lambda self: self.granted)
    @rule(data=st.data(), write=st.booleans())
    def map(self, data: st.DataObject, write: bool) -> None:
        ref = data.draw(st.sampled_from(sorted(self.granted)))
        if ref in self.ending or (write and self.granted[ref]):
            with pytest.raises(GrantError):
                self.ends.backend.grants.map(ref, write=write)
        else:
            self.mappings.append(self.ends.backend.grants.map(ref, write=write))

    @precondition(lambda self: self.mappings)
    @rule(data=st.data())
    def unmap(self, data: st.DataObject) -> None:
        index = data.draw(st.integers(0, len(self.mappings) - 1))
        self.ends.backend.grants.unmap(self.mappings.pop(index))

    @precondition(lambda self: self.granted)
    @rule(data=st.data())
    def end(self, data: st.DataObject) -> None:
        ref = data.draw(st.sampled_from(sorted(self.granted)))
        in_use = any(mapping.ref == ref for mapping in self.mappings)
        assert self.ends.guest.table.end_access(ref) is not in_use
        if in_use:
            self.ending.add(ref)
        else:
            del self.granted[ref]
            self.ending.discard(ref)

    @invariant()
    def what_is_mapped_is_known(self) -> None:
        assert self.ends.backend.grants.mapped == {mapping.ref for mapping in self.mappings}


TestUsers = Users.TestCase
TestUsers.settings = settings(max_examples=60, stateful_step_count=30)


@settings(max_examples=100)
@given(st.data(), st.sampled_from(["end_access", "make_readonly"]))
def test_mapping_and_taking_back_that_cross_never_both_succeed(data: st.DataObject, take_back: str) -> None:
    interleaver = Interleaver(lambda count: data.draw(st.integers(0, count - 1)))
    check = GrantMap._check

    def slow_check(self: GrantMap, ref: int, entry: int, write: bool) -> int:
        # Between reading the entry and marking it as used, anything may happen.
        frame = check(self, ref, entry, write)
        interleaver.fence()
        return frame

    with pytest.MonkeyPatch.context() as patch, ends_of_a_link() as ends:
        patch.setattr(grants_module, "fence", interleaver.fence)
        patch.setattr(grant_table_module, "fence", interleaver.fence)
        patch.setattr(GrantMap, "_check", slow_check)
        ref = ends.guest.table.grant(FRAME, 0)
        mapped = ended = False

        def mapper() -> None:
            nonlocal mapped
            interleaver.fence()
            try:
                ends.backend.grants.map(ref, write=True)
                mapped = True
            except GrantError:
                mapped = False

        def ender() -> None:
            nonlocal ended
            interleaver.fence()
            ended = getattr(ends.guest.table, take_back)(ref)

        interleaver.run([mapper, ender])
        assert not (mapped and ended)
        assert bool(status_of(ends, ref)) == mapped
