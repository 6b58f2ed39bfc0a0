"""Transactions: what they see, and what they conflict with."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from harness.store.core import Store
from harness.store.wire import Op
from tests.unit.store_peers import Peer


def test_a_transaction_sees_its_own_writes_and_others_see_them_at_its_end(tool: Peer, other: Peer) -> None:
    tool.write("/a", "old")
    transaction = tool.begin()
    transaction.write("/a", "new")
    transaction.write("/b/c", "1")
    transaction.rm("/tool")
    assert (transaction.read("/a"), transaction.directory("/b")) == (b"new", ["c"])
    assert (tool.read("/a"), other.read("/a"), other.directory("/")) == (b"old", b"old", ["tool", "local", "a"])
    transaction.end()
    assert (other.read("/a"), other.directory("/")) == (b"new", ["local", "a", "b"])


def test_an_aborted_transaction_leaves_nothing_and_never_conflicts(tool: Peer, other: Peer) -> None:
    tool.write("/a", "old")
    transaction = tool.begin()
    assert transaction.read("/a") == b"old"
    transaction.write("/a", "new")
    other.write("/a", "meanwhile")
    transaction.end(commit=False)
    assert tool.read("/a") == b"meanwhile"
    assert transaction.refused(Op.READ, "/a") == "ENOENT"


Action = Callable[[Peer], object]


@pytest.mark.parametrize(
    ("inside", "meanwhile"),
    [
        (lambda it: it.read("/a"), lambda it: it.write("/a", "2")),
        (lambda it: it.read("/a"), lambda it: it.write("/a", "1")),
        (lambda it: it.read("/a"), lambda it: it.rm("/a")),
        (lambda it: it.read("/a"), lambda it: it.set_perms("/a", "r0")),
        (lambda it: it.refused(Op.READ, "/new"), lambda it: it.write("/new")),
        (lambda it: it.directory("/a"), lambda it: it.write("/a/new")),
        (lambda it: it.directory("/a"), lambda it: it.rm("/a/b")),
        (lambda it: it.perms("/a"), lambda it: it.set_perms("/a", "r0")),
        (lambda it: it.ask(Op.MKDIR, "/a"), lambda it: it.rm("/a")),
        (lambda it: it.rm("/a"), lambda it: it.write("/a/b", "2")),
        (lambda it: it.rm("/a"), lambda it: it.write("/a/new")),
        (lambda it: it.rm("/new"), lambda it: it.write("/new")),
        (lambda it: (it.write("/a/own"), it.directory("/a")), lambda it: it.write("/a/new")),
    ],
)
def test_what_a_transaction_has_read_must_not_change(
    tool: Peer, other: Peer, inside: Action, meanwhile: Action
) -> None:
    tool.write("/a/b", "1")
    transaction = tool.begin()
    inside(transaction)
    transaction.write("/written", "x")
    meanwhile(other)
    assert transaction.refused(Op.TRANSACTION_END, "T") == "EAGAIN"
    assert tool.refused(Op.READ, "/written") == "ENOENT"
    assert tool.refused(Op.TRANSACTION_END, "T") == "ENOENT"


@pytest.mark.parametrize(
    ("inside", "meanwhile"),
    [
        (lambda it: it.read("/a/b"), lambda it: it.write("/c", "2")),
        (lambda it: it.read("/a"), lambda it: it.write("/a/b", "2")),
        (lambda it: it.write("/a", "1"), lambda it: it.write("/a", "2")),
        (lambda it: it.write("/a", "1"), lambda it: it.rm("/a")),
        (lambda it: it.write("/a/new"), lambda it: it.write("/a/newer")),
        (lambda it: it.write("/a/new"), lambda it: it.rm("/a")),
        (lambda it: (it.write("/a", "1"), it.read("/a")), lambda it: it.write("/a", "2")),
        (lambda it: it.set_perms("/a", "r0"), lambda it: it.write("/a", "2")),
    ],
)
def test_what_it_has_only_written_or_never_seen_may(tool: Peer, other: Peer, inside: Action, meanwhile: Action) -> None:
    tool.write("/a/b", "1")
    transaction = tool.begin()
    inside(transaction)
    transaction.write("/written", "x")
    meanwhile(other)
    transaction.end()
    assert tool.read("/written") == b"x"


@pytest.mark.parametrize("look", [Op.READ, Op.DIRECTORY])
def test_a_view_with_a_gap_cannot_be_committed(tool: Peer, other: Peer, look: Op) -> None:
    """What it wrote is there for the transaction, the parent is gone for everybody: both cannot be."""
    tool.write("/a/b", "1")
    transaction = tool.begin()
    transaction.write("/a/b", "2")
    other.rm("/a")
    assert transaction.refused(look, "/a") == "ENOENT"
    assert transaction.refused(Op.TRANSACTION_END, "T") == "EAGAIN"


def test_both_create_below_the_same_parent(tool: Peer, other: Peer) -> None:
    first, second = tool.begin(), other.begin()
    first.write("/dir/one", "1")
    second.write("/dir/two", "2")
    first.end()
    second.end()
    assert sorted(tool.directory("/dir")) == ["one", "two"]


def test_two_that_read_what_the_other_writes_cannot_both_win(tool: Peer, other: Peer) -> None:
    tool.write("/a", "0")
    tool.write("/b", "0")
    first, second = tool.begin(), other.begin()
    first.write("/a", first.read("/b").decode() + "1")
    second.write("/b", second.read("/a").decode() + "2")
    first.end()
    assert second.refused(Op.TRANSACTION_END, "T") == "EAGAIN"


def test_a_permission_taken_away_meanwhile_counts(store: Store, tool: Peer) -> None:
    tool.write("/a", "old")
    tool.set_perms("/a", "n0", "b5")
    transaction = Peer.domain(store, 5).begin()
    transaction.write("/a", "new")
    transaction.write("/a/b", "new")
    tool.set_perms("/a", "n0", "r5")
    assert transaction.refused(Op.TRANSACTION_END, "T") == "EAGAIN"
    assert (tool.read("/a"), tool.directory("/a"), tool.perms("/a")) == (b"old", [], ["n0", "r5"])


def test_created_and_removed_in_one_transaction(tool: Peer) -> None:
    transaction = tool.begin()
    transaction.write("/a/b", "1")
    transaction.rm("/a")
    transaction.end()
    assert tool.directory("/") == ["tool", "local"]


def test_a_listing_in_parts_shows_when_the_transaction_itself_has_changed_it(tool: Peer) -> None:
    transaction = tool.begin()
    transaction.write("/d/a")
    before = transaction.ask(Op.DIRECTORY_PART, "/d", "0")
    transaction.write("/d/b")
    assert before.partition(b"\0")[0] != transaction.ask(Op.DIRECTORY_PART, "/d", "0").partition(b"\0")[0]


@pytest.mark.parametrize("operation", [Op.READ, Op.WRITE, Op.DIRECTORY, Op.RM, Op.TRANSACTION_END])
def test_a_transaction_that_does_not_exist(store: Store, tool: Peer, operation: Op) -> None:
    stranger = tool.begin()
    peer = Peer(store, store.connect_tool(), transaction=stranger.transaction)
    assert peer.refused(operation, "T" if operation == Op.TRANSACTION_END else "/tool") == "ENOENT"
