"""A long random run of several domains and processes, compared with a simple model of what the answers should be."""

from __future__ import annotations

from dataclasses import dataclass, field

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from harness.store.core import Store
from harness.store.errors import StoreError
from harness.store.quotas import UNLIMITED
from harness.store.wire import Op
from tests.unit.conftest import PROFILE
from tests.unit.store_model import Entry, Model, Node, home
from tests.unit.store_peers import Peer, small_store

TOOLS, DOMAINS = (-1, -2), (1, 2, 3)
SLOTS = 2
"""Transactions of each client."""


@dataclass(frozen=True)
class Request:
    """One request about a node."""

    verb: str
    path: str
    value: bytes = b""
    perms: tuple[str, ...] = ()

    def to_store(self, peer: Peer) -> object:
        try:
            match self.verb:
                case "directory":
                    return sorted(peer.directory(self.path))
                case "get_perms":
                    return peer.perms(self.path)
            return peer.ask(Op[self.verb.upper()], self.path, *self.perms, raw=self.value)
        except StoreError as error:
            return error.name

    def to_model(self, model: Model, client: int) -> object:
        match self.verb:
            case "write":
                return model.write(client, self.path, self.value)
            case "set_perms":
                return model.set_perms(client, self.path, self.perms)
        answer: object = getattr(model, self.verb)(client, self.path)
        return answer


@dataclass
class Transaction:
    """What it asked and was answered, and how much had happened before it began."""

    peer: Peer
    began: int
    done: list[tuple[Request, object]] = field(default_factory=list)


names = st.sampled_from("ab")
tails = st.lists(names, min_size=1, max_size=3).map("/".join)
bases = st.sampled_from(["", "/", "/shared/", *(f"{home(domid)}/" for domid in DOMAINS)])
paths = st.builds(str.__add__, bases, tails) | st.just("/shared")
entries = st.builds(str.__add__, st.sampled_from("nrwb"), st.sampled_from("0123"))
requests = st.one_of(
    st.builds(Request, st.sampled_from(["read", "directory", "get_perms", "mkdir", "rm"]), paths),
    st.builds(Request, st.just("write"), paths, st.sampled_from([b"", b"1", b"2"])),
    st.builds(Request, st.just("set_perms"), paths, perms=st.lists(entries, min_size=1, max_size=3).map(tuple)),
)
clients = st.sampled_from([*TOOLS, *DOMAINS])
slots = st.sampled_from(range(SLOTS))
watched = paths | st.sampled_from(["/", "@introduceDomain", "@releaseDomain", "@releaseDomain/2"])
tokens = st.sampled_from(["s", "t"])


class RandomRun(RuleBasedStateMachine):
    """Each answer and each watch event must be the model's."""

    @initialize()
    def start(self) -> None:
        self.store: Store = small_store(UNLIMITED)
        self.model = Model()
        self.peers = {client: Peer.tool(self.store) for client in TOOLS}
        self.open: dict[tuple[int, int], Transaction] = {}
        self.happened = 0
        self.expected: set[tuple[int, str, str]] = set()
        for path in self.store.tree.subtree("/"):
            node = self.store.tree.find(path)
            assert node is not None
            self.model.nodes[path] = Node(node.value, [Entry("n0")])
        for request in (Request("mkdir", "/shared"), Request("set_perms", "/shared", perms=("b0",))):
            self.outside(TOOLS[0], request)
        for domid in DOMAINS:
            self.introduce(domid)

    def alive(self, client: int) -> bool:
        return client in self.peers

    def expect_events(self) -> None:
        self.happened += bool(self.model.changes)
        for client, told in self.model.take_events().items():
            for path, token in told:
                self.expected.add((client, path, token))

    @rule(client=clients, request=requests)
    def outside(self, client: int, request: Request) -> None:
        if self.alive(client):
            assert request.to_store(self.peers[client]) == request.to_model(self.model, client)
            self.expect_events()

    @rule(client=clients, slot=slots, requests=st.lists(requests, min_size=1, max_size=4))
    def inside(self, client: int, slot: int, requests: list[Request]) -> None:
        """Requests in a transaction, which begins with the first of them."""
        if not self.alive(client):
            return
        if (client, slot) not in self.open:
            self.open[client, slot] = Transaction(self.peers[client].begin(), self.happened)
        transaction = self.open[client, slot]
        for request in requests:
            answer = request.to_store(transaction.peer)
            if request.verb == "set_perms" and int(request.perms[0][1:]) in self.model.dead:
                # That a domain is gone is so for everybody at once, and no node says it.
                assert answer == "ENOENT"
            else:
                transaction.done.append((request, answer))

    @rule(client=clients, slot=slots, commit=st.booleans() | st.just(True))
    def end(self, client: int, slot: int, commit: bool) -> None:
        transaction = self.open.pop((client, slot), None)
        if transaction is None:
            return
        answer = _answer(transaction.peer, Op.TRANSACTION_END, "T" if commit else "F")
        if answer == "EAGAIN":
            assert commit
            assert self.happened > transaction.began, "nobody changed anything, and it conflicts"
            return
        assert answer == b"OK\0"
        if commit:
            # As if all of it had been done just now.
            for request, answer in transaction.done:
                assert answer == request.to_model(self.model, client), request
            self.expect_events()

    @rule(client=clients, path=watched, token=tokens, depth=st.sampled_from([None, None, 0, 1, 2]))
    def watch(self, client: int, path: str, token: str, depth: int | None) -> None:
        if not self.alive(client):
            return
        arguments = [path, token, *([] if depth is None else [str(depth)])]
        answer = _answer(self.peers[client], Op.WATCH, *arguments)
        assert answer == self.model.watch(client, path, token, depth)
        if answer == b"OK\0":
            self.expected.add((client, path, token))

    @rule(client=clients, path=watched, token=tokens)
    def unwatch(self, client: int, path: str, token: str) -> None:
        if self.alive(client):
            assert _answer(self.peers[client], Op.UNWATCH, path, token) == self.model.unwatch(client, path, token)

    @rule(client=clients)
    def reset_watches(self, client: int) -> None:
        if self.alive(client):
            assert _answer(self.peers[client], Op.RESET_WATCHES, "") == b"OK\0"
            self.model.forget_watches(client)
            self.forget_transactions(client)

    @rule(domid=st.sampled_from(DOMAINS))
    def come_or_go(self, domid: int) -> None:
        if self.alive(domid):
            self.release(domid)
        else:
            self.introduce(domid)

    def introduce(self, domid: int) -> None:
        """As a toolstack does: the domain, then its home."""
        self.peers[domid] = Peer.domain(self.store, domid, by=self.peers[TOOLS[0]])
        self.model.introduce(domid)
        self.expect_events()
        for request in (Request("mkdir", home(domid)), Request("set_perms", home(domid), perms=(f"n{domid}", "r0"))):
            self.outside(TOOLS[0], request)

    def release(self, domid: int) -> None:
        assert _answer(self.peers[TOOLS[0]], Op.RELEASE, str(domid)) == b"OK\0"
        del self.peers[domid]
        self.forget_transactions(domid)
        self.model.release(domid)
        self.expect_events()

    def forget_transactions(self, client: int) -> None:
        for slot in range(SLOTS):
            self.open.pop((client, slot), None)

    @invariant()
    def everybody_was_told_what_the_model_says(self) -> None:
        heard = {(client, *event) for client, peer in self.peers.items() for event in peer.heard()}
        expected, self.expected = self.expected, set()
        assert heard == {told for told in expected if self.alive(told[0])}

    @invariant()
    def the_tree_is_the_model_and_whole(self) -> None:
        found = {}
        for path in self.store.tree.subtree("/"):
            node = self.store.tree.find(path)
            assert node is not None
            found[path] = (node.value, [str(entry) for entry in node.permissions])
        assert found == {
            path: (node.value, [entry.text for entry in node.perms]) for path, node in self.model.nodes.items()
        }
        assert self.peers[TOOLS[0]].ask(Op.CONTROL, "check") == b"OK\0"


def _answer(peer: Peer, operation: Op, *arguments: str) -> object:
    """The payload of the answer or the name of the error; the events that come along stay with the peer."""
    try:
        return peer.ask(operation, *arguments)
    except StoreError as error:
        return error.name


RandomRun.TestCase.settings = settings(settings.get_profile(PROFILE), stateful_step_count=40)
TestRandomRun = RandomRun.TestCase
