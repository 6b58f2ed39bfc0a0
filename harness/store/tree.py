"""The nodes of the store themselves."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

from harness.store.paths import SPECIAL, join
from harness.store.permissions import DOMAIN_0_ONLY, without
from harness.store.quotas import Accounts
from harness.store.space import ABSENT, Node, NodeSpace


class Tree(NodeSpace):
    """The nodes themselves, always complete: whatever exists has all its parents."""

    def __init__(self, accounts: Accounts) -> None:
        super().__init__(accounts)
        self._nodes: dict[str, Node] = {}
        self._generation = ABSENT
        self._undo: list[tuple[str, Node | None]] | None = None
        self._dead: set[int] = set()
        self.open_transactions = 0
        self.removals = 0
        """How many nodes have been removed so far."""
        for path in ("/", *SPECIAL):
            self._store(path, Node(b"", DOMAIN_0_ONLY))

    def find(self, path: str) -> Node | None:
        return self._nodes.get(path)

    def owned_by(self, domid: int) -> int:
        return self._owned[domid]

    def is_dead(self, domid: int) -> bool:
        return domid in self._dead

    def __len__(self) -> int:
        return len(self._nodes)

    def generation(self, path: str) -> int:
        """The generation of a node, ABSENT if there is none."""
        node = self._nodes.get(path)
        return ABSENT if node is None else node.generation

    def next_generation(self) -> int:
        """A generation that no node has or has had."""
        self._generation += 1
        return self._generation

    @contextmanager
    def all_or_nothing(self) -> Iterator[None]:
        """Undo everything done inside, changes to report included, if it ends with an error."""
        undo: list[tuple[str, Node | None]] = []
        self._undo = undo
        changes = len(self._changes)
        try:
            yield
        except BaseException:
            for path, node in reversed(undo):
                self._place(path, node)
            del self._changes[changes:]
            raise
        finally:
            self._undo = None

    def admit_domain(self, domid: int) -> None:
        """There is a domain with this domid, perhaps again."""
        self._dead.discard(domid)

    def forget_domain(self, domid: int) -> None:
        """A domain is gone: remove every node that it owns and every right it was given."""
        self._dead.add(domid)
        for path in list(self._nodes):
            node = self._nodes.get(path)
            if node is None:
                continue
            if node.owner == domid:
                self._disown(path, node)
            elif (kept := without(node.permissions, domid)) != node.permissions:
                self._store(path, replace(node, permissions=kept))

    def faults(self) -> Iterator[str]:
        """What is wrong with the tree: names without nodes, nodes without parents, wrong counts."""
        owned: Counter[int] = Counter(node.owner for node in self._nodes.values())
        reachable = {*self.subtree("/"), *SPECIAL}
        yield from (f"{path} is in no parent's list" for path in self._nodes.keys() - reachable)
        for path, node in self._nodes.items():
            yield from (f"{path} lists {name}" for name in node.children if join(path, name) not in self._nodes)
            if node.names_size != sum(len(name) + 1 for name in node.children):
                yield f"{path} has a wrong size"
        yield from (
            f"domain {domid} owns another number of nodes" for domid in owned if owned[domid] != self._owned[domid]
        )

    def _disown(self, path: str, node: Node) -> None:
        """Remove a node whose owner is gone; what cannot be removed is Domain 0's again."""
        if path in ("/", *SPECIAL):
            self._store(path, replace(node, permissions=DOMAIN_0_ONLY))
        else:
            self._remove(path)

    def _store(self, path: str, node: Node | None) -> None:
        if self._undo is not None:
            self._undo.append((path, self._nodes.get(path)))
        if node is not None:
            node = replace(node, generation=self.next_generation())
        self._place(path, node)

    def _place(self, path: str, node: Node | None) -> None:
        old = self._nodes.get(path)
        self._count(old, node)
        if old is not None:
            self.accounts.memory[old.owner] -= len(path) + old.size
        if node is None:
            self._nodes.pop(path, None)
            self.removals += 1
        else:
            self.accounts.memory[node.owner] += len(path) + node.size
            self._nodes[path] = node
