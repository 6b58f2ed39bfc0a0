"""Transactions: a private view of the tree that becomes public at once, or not at all.

A transaction sees what it has written itself, otherwise the tree as it is. At its end, every node that it has *read*
must be what it was when it was read; nodes that it has only written never conflict. Then its operations are done again
on the tree, all or none, so that whatever others did meanwhile (a sibling created, a permission taken away, a parent
removed) is respected by the same rules that hold outside of transactions.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial

from harness.store.errors import StoreError
from harness.store.permissions import Permissions, Requester
from harness.store.quotas import exceeds
from harness.store.space import ABSENT, Change, Node, NodeSpace
from harness.store.tree import Tree

NEVER = -1
"""A generation that no node ever has."""


class Transaction(NodeSpace):
    """One open transaction.

    :param who: whose it is.
    """

    def __init__(self, tree: Tree, who: Requester) -> None:
        super().__init__(tree.accounts)
        tree.open_transactions += 1
        self._tree = tree
        self._is_open = True
        self._removals = tree.removals
        self._memory = 0
        self._who = who
        self._view: dict[str, Node | None] = {}
        self._based_on: dict[str, int] = {}
        self._read: dict[str, int] = {}
        self._written: set[str] = set()
        self._touched: set[str] = set()
        self._overfull = False
        self._log: list[Callable[[Tree], None]] = []

    def find(self, path: str) -> Node | None:
        return self._view[path] if path in self._view else self._tree.find(path)

    def owned_by(self, domid: int) -> int:
        return self._tree.owned_by(domid) + self._owned[domid]

    def is_dead(self, domid: int) -> bool:
        return self._tree.is_dead(domid)

    def close(self) -> None:
        """It takes part in nothing any more, and uses no memory; it can still be committed."""
        if self._is_open:
            self._is_open = False
            self._tree.open_transactions -= 1
            self._use_memory(-self._memory)

    def write(self, who: Requester, path: str, value: bytes) -> None:
        super().write(who, path, value)
        self._written.add(path)
        self._remember(path, partial(Tree.write, who=who, path=path, value=value), len(value))

    def make(self, who: Requester, path: str) -> None:
        super().make(who, path)
        self._remember(path, partial(Tree.make, who=who, path=path))

    def remove(self, who: Requester, path: str) -> None:
        super().remove(who, path)
        self._remember(path, partial(Tree.remove, who=who, path=path))

    def set_permissions(self, who: Requester, path: str, permissions: Permissions) -> None:
        super().set_permissions(who, path, permissions)
        self._remember(path, partial(Tree.set_permissions, who=who, path=path, permissions=permissions))

    def commit(self) -> list[Change]:
        """Make everything public and return what watches may have to report: each path once.

        :raise StoreError: EAGAIN, what was read has changed meanwhile; ENOSPC, ENOMEM: a quota. Nothing was done.
        """
        if self._overfull:
            raise StoreError("ENOMEM")
        if any(self._tree.generation(path) != generation for path, generation in self._read.items()):
            raise StoreError("EAGAIN")
        try:
            with self._tree.all_or_nothing():
                for step in self._log:
                    step(self._tree)
        except StoreError as error:
            # It was allowed when the transaction did it, so somebody has changed what it stood on.
            raise StoreError(error.name if error.name in ("ENOSPC", "ENOMEM") else "EAGAIN") from error
        return _once_each(self._tree.take_changes())

    def _note_node(self, path: str) -> None:
        self._touch(path)
        seen = self._based_on.get(path, self._tree.generation(path))
        self._read.setdefault(path, NEVER if self._lost_below(path) else seen)

    def _lost_below(self, path: str) -> bool:
        """Whether others have removed, below a path, what this transaction has written: its view has gaps there."""
        below = path.rstrip("/") + "/"
        return self._tree.removals > self._removals and any(
            node is not None and self._based_on[written] != ABSENT and self._tree.find(written) is None
            for written, node in self._view.items()
            if written.startswith(below)
        )

    def _note_value(self, path: str) -> None:
        if path not in self._written:
            self._note_node(path)

    def _store(self, path: str, node: Node | None) -> None:
        self._touch(path)
        self._based_on.setdefault(path, self._tree.generation(path))
        self._count(self.find(path), node)
        self._use_memory(_view_bytes(path, node) - _view_bytes(path, self._view.get(path)))
        self._view[path] = node and replace(node, generation=self._tree.next_generation())

    def _report(self, path: str, before: Permissions | None = None, *, exact: bool = False) -> None:
        """Nobody hears of what is private; it is reported when it is done again on the tree."""

    def _remember(self, path: str, step: Callable[[Tree], None], size: int = 0) -> None:
        self._log.append(step)
        self._use_memory(len(path) + size)
        self._limit(len(self._log))

    def _use_memory(self, count: int) -> None:
        self._memory += count
        self.accounts.memory[self._who.domid] += count

    def _touch(self, path: str) -> None:
        self._touched.add(path)
        self._limit(len(self._touched))

    def _limit(self, used: int) -> None:
        if exceeds(self.accounts.of(self._who).transaction_nodes, used):
            # The operation may be half done in the view by now, so this transaction can only be aborted.
            self._overfull = True
            raise StoreError("ENOSPC")


def _view_bytes(path: str, node: Node | None) -> int:
    return 0 if node is None else len(path) + node.size


def _once_each(changes: list[Change]) -> list[Change]:
    """One change per path, in the order of first mention; a change that concerns parents, too, wins."""
    merged: dict[str, Change] = {}
    for change in changes:
        earlier = merged.get(change.path, change)
        readers = tuple(dict.fromkeys(earlier.readers + change.readers))
        merged[change.path] = Change(change.path, earlier.exact and change.exact, readers)
    return list(merged.values())
