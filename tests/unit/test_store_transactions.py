"""Transactions: what they see, what they conflict with, and long random runs against a model."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from harness.store.core import DOMAIN_0, Store
from harness.store.errors import StoreError
from harness.store.paths import parent
from harness.store.wire import Op
from tests.unit.store_peers import Peer, small_store


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


# ---- against a model ----


@dataclass
class Model:
    """The whole store as a dictionary of values. Knows one client at a time and no transactions."""

    values: dict[str, bytes] = field(default_factory=lambda: {"/": b""})

    def write(self, path: str, value: bytes) -> object:
        self.mkdir(path)
        self.values[path] = value
        return b"OK\0"

    def mkdir(self, path: str) -> object:
        while path not in self.values:
            self.values[path] = b""
            path = parent(path)
        return b"OK\0"

    def rm(self, path: str) -> object:
        if parent(path) not in self.values:
            return "ENOENT"
        for other in [other for other in self.values if other == path or other.startswith(path + "/")]:
            del self.values[other]
        return b"OK\0"

    def read(self, path: str) -> object:
        return self.values.get(path, "ENOENT")

    def directory(self, path: str) -> object:
        if path not in self.values:
            return "ENOENT"
        return sorted(other.rpartition("/")[2] for other in self.values if other != "/" and parent(other) == path)


@dataclass(frozen=True)
class Step:
    """One request."""

    verb: str
    path: str
    value: bytes = b""

    def on(self, peer: Peer) -> object:
        """What the store answers: a payload, sorted names, or the name of an error."""
        try:
            if self.verb == "directory":
                return sorted(peer.directory(self.path))
            return peer.ask(Op[self.verb.upper()], self.path, raw=self.value)
        except StoreError as error:
            return error.name

    def on_model(self, model: Model) -> object:
        act = getattr(model, self.verb)
        result: object = act(self.path, self.value) if self.verb == "write" else act(self.path)
        return result


@dataclass
class Open:
    """An open transaction: what it did and was answered, and how many changes others had made when it began."""

    peer: Peer
    changes_before: int
    answered: list[tuple[Step, object]] = field(default_factory=list)


names = st.sampled_from("ab")
paths = st.lists(names, min_size=1, max_size=3).map(lambda parts: "/" + "/".join(parts))
steps = st.one_of(
    st.builds(Step, st.just("write"), paths, st.sampled_from([b"", b"1", b"2"])),
    st.builds(Step, st.sampled_from(["mkdir", "rm", "read", "directory"]), paths),
)
OUTSIDE, COMMIT, ABORT = -1, Step("commit", ""), Step("abort", "")
actors = st.sampled_from([OUTSIDE, 0, 1])
schedules = st.lists(st.tuples(actors, steps), min_size=2, max_size=12)
endings = st.permutations([(0, COMMIT), (1, COMMIT)]) | st.permutations([(0, COMMIT), (1, ABORT)])


class AgainstModel(RuleBasedStateMachine):
    """Committed transactions must have been answered as if they had run alone at the moment of their end."""

    @initialize()
    def start(self) -> None:
        self.store = small_store()
        self.store.tree.remove(DOMAIN_0, "/tool")
        self.store.tree.remove(DOMAIN_0, "/local")
        self.model = Model()
        self.changes = 0
        self.outsider = Peer.tool(self.store)

    @rule(step=steps)
    def alone(self, step: Step) -> None:
        assert step.on(self.outsider) == step.on_model(self.model)
        self.changes += step.verb not in ("read", "directory")

    @rule(schedule=schedules, ending=endings)
    def together(self, schedule: list[tuple[int, Step]], ending: list[tuple[int, Step]]) -> None:
        """Two transactions and somebody without one, interleaved."""
        transactions = [Open(Peer.tool(self.store).begin(), self.changes) for _ in range(2)]
        for actor, step in schedule:
            if actor == OUTSIDE:
                self.alone(step)
            else:
                transactions[actor].answered.append((step, step.on(transactions[actor].peer)))
        for actor, end in ending:
            if end is ABORT:
                transactions[actor].peer.end(commit=False)
            else:
                self.commit(transactions[actor])

    def commit(self, transaction: Open) -> None:
        if not self._conflicts(transaction):
            self.changes += 1
            for step, answer in transaction.answered:
                assert answer == step.on_model(self.model)
            return
        assert self.changes > transaction.changes_before, "nobody changed anything, and it conflicts"
        assert any(step.verb != "write" for step, _ in transaction.answered), "it has only written, and conflicts"

    def _conflicts(self, transaction: Open) -> bool:
        try:
            transaction.peer.end()
        except StoreError as error:
            if error.name != "EAGAIN":
                raise
            return True
        return False

    @invariant()
    def the_tree_is_the_model(self) -> None:
        found = {}
        for path in self.store.tree.subtree("/"):
            node = self.store.tree.find(path)
            assert node is not None
            found[path] = node.value
        assert found == self.model.values
        assert self.store.tree.owned_by(0) == len(found) + 2


AgainstModel.TestCase.settings = settings(max_examples=200, stateful_step_count=6, deadline=None)
TestAgainstModel = AgainstModel.TestCase
