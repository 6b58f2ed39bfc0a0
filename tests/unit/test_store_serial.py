"""Long random runs of two transactions at a time: whoever commits was alone, as far as it can tell."""

from __future__ import annotations

from dataclasses import dataclass, field

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from harness.store.core import DOMAIN_0
from harness.store.errors import StoreError
from harness.store.paths import parent
from harness.store.wire import Op
from tests.unit.conftest import PROFILE
from tests.unit.store_peers import Peer, small_store


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


AgainstModel.TestCase.settings = settings(settings.get_profile(PROFILE), stateful_step_count=6)
TestAgainstModel = AgainstModel.TestCase
