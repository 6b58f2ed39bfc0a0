"""What can be done to nodes, wherever they are kept. Knows nothing of sockets, requests or watches.

Everything here takes absolute paths that :func:`harness.store.paths.resolve` has let through.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import pairwise

from harness.store.errors import StoreError
from harness.store.paths import join, leaf, parent
from harness.store.permissions import (
    Access,
    Permissions,
    Requester,
    access_of,
    inherited,
)
from harness.store.quotas import Accounts, exceeds

ABSENT = 0
"""The generation of a node that does not exist."""

_NODE_BYTES = 24
_PERMISSION_BYTES = 8


@dataclass(frozen=True, slots=True)
class Node:
    """One node; a change makes a new one.

    :param children: their names, in the order in which they were created.
    :param names_size: bytes that the names take in a listing.
    :param generation: unlike that of any other node and of any other version of this one.
    """

    value: bytes
    permissions: Permissions
    children: tuple[str, ...] = ()
    names_size: int = 0
    generation: int = ABSENT

    @property
    def owner(self) -> int:
        return self.permissions[0].domid

    @property
    def size(self) -> int:
        """Bytes, as the node-size quota counts them."""
        return _NODE_BYTES + len(self.value) + self.names_size + _PERMISSION_BYTES * len(self.permissions)

    def with_child(self, name: str) -> Node:
        return replace(self, children=(*self.children, name), names_size=self.names_size + len(name) + 1)

    def without_child(self, name: str) -> Node:
        """In the view of a transaction, the list may be older than a child of somebody else."""
        if name not in self.children:
            return self
        position = self.children.index(name)
        children = self.children[:position] + self.children[position + 1 :]
        return replace(self, children=children, names_size=self.names_size - len(name) - 1)


@dataclass(frozen=True, slots=True)
class Change:
    """What a watch may have to report.

    :param exact: report only to a watch on this very path (a node that went away together with its parent).
    :param readers: permissions of the node before and after, and of its parent: who may read under one of them is told.
    """

    path: str
    exact: bool
    readers: tuple[Permissions, ...]


class NodeSpace(ABC):
    """The operations, written once for the tree itself and for a transaction's view of it."""

    def __init__(self, accounts: Accounts) -> None:
        self.accounts = accounts
        self._owned: Counter[int] = Counter()
        self._changes: list[Change] = []

    @abstractmethod
    def find(self, path: str) -> Node | None:
        """The node, or None. Does not count as reading it."""

    @abstractmethod
    def _store(self, path: str, node: Node | None) -> None:
        """Put a node in its place, None to remove it, and keep count of owners with :meth:`_count`."""

    @abstractmethod
    def owned_by(self, domid: int) -> int:
        """How many nodes a domain owns."""

    @abstractmethod
    def is_dead(self, domid: int) -> bool:
        """Whether it is the domid of a domain that is gone."""

    def _note_node(self, path: str) -> None:  # noqa: B027 - only a transaction cares
        """The answer being given depends on this node, its children and whether it exists."""

    def _note_value(self, path: str) -> None:  # noqa: B027 - only a transaction cares
        """The answer being given depends on the value of this node."""

    def take_changes(self) -> list[Change]:
        """What was changed since the last call."""
        changes, self._changes = self._changes, []
        return changes

    def read(self, who: Requester, path: str) -> bytes:
        """:raise StoreError: ENOENT, EACCES."""
        self._note_value(path)
        return self._existing(who, path, Access.READ).value

    def directory(self, who: Requester, path: str) -> Node:
        """The node whose children are asked for.

        :raise StoreError: ENOENT, EACCES.
        """
        self._note_node(path)
        return self._existing(who, path, Access.READ)

    def get_permissions(self, who: Requester, path: str) -> Permissions:
        """:raise StoreError: ENOENT, EACCES."""
        self._note_node(path)
        return self._existing(who, path, Access.READ).permissions

    def write(self, who: Requester, path: str, value: bytes) -> None:
        """Set a value, creating the node and its parents if missing.

        :raise StoreError: EACCES; ENOSPC, ENOMEM: a quota.
        """
        node = self._reachable(who, path, Access.WRITE, to_create=True)
        if node is None:
            self._create(who, path, value)
        else:
            self._change(who, path, node, replace(node, value=value))
        self._report(path)

    def make(self, who: Requester, path: str) -> None:
        """Create an empty node and its parents; does nothing if it exists.

        :raise StoreError: EACCES; ENOSPC, ENOMEM: a quota.
        """
        self._note_node(path)
        if self._reachable(who, path, Access.WRITE, to_create=True) is None:
            self._create(who, path, b"")
            self._report(path)

    def remove(self, who: Requester, path: str) -> None:
        """Remove a node and all below it; does nothing if only the node is missing.

        :raise StoreError: EINVAL for the root, ENOENT if the parent is missing, too; EACCES.
        """
        self._note_node(path)
        if self._reachable(who, path, Access.WRITE) is None:
            self._note_node(parent(path))
            if self.find(parent(path)) is None:
                raise StoreError("ENOENT")
            return
        if path == "/":
            raise StoreError("EINVAL")
        self._remove(path)

    def set_permissions(self, who: Requester, path: str, permissions: Permissions) -> None:
        """Replace a node's permissions; only its owner may, and only Domain 0 may give it to another owner.

        An entry for a domain that is gone grants nothing, also not to the next one with its domid.

        :raise StoreError: ENOENT, no such node, or the new owner is gone; EACCES, EPERM, ENOSPC, ENOMEM.
        """
        if exceeds(self.accounts.of(who).node_permissions, len(permissions)):
            raise StoreError("ENOSPC")
        if self.is_dead(permissions[0].domid):
            raise StoreError("ENOENT")
        permissions = tuple(replace(entry, void=entry.void or self.is_dead(entry.domid)) for entry in permissions)
        node = self._existing(who, path, Access.WRITE | Access.OWNER)
        if not who.privileged and permissions[0].domid != node.owner:
            raise StoreError("EPERM")
        self._change(who, path, node, replace(node, permissions=permissions))
        self._report(path, node.permissions)

    def subtree(self, path: str) -> Iterator[str]:
        """The path and all existing ones below it, parents first. Not recursive: trees can be deep."""
        pending = [path]
        while pending:
            current = pending.pop()
            node = self.find(current)
            if node is not None:
                yield current
                pending.extend(join(current, name) for name in reversed(node.children))

    def _reachable(self, who: Requester, path: str, needed: Access, *, to_create: bool = False) -> Node | None:
        """The node if it exists and the access is granted; None if it does not exist but might.

        Whether it exists is told only to those who have some of the access to its nearest existing ancestor.

        :param to_create: a node that does not exist will be created: then that ancestor is asked again.
        """
        ancestor = path
        while (asked := self.find(ancestor)) is None:
            ancestor = parent(ancestor)
        granted = access_of(who, asked.permissions) & needed
        refused = granted != needed if ancestor == path else not granted
        if not who.privileged and (refused or (ancestor != path and not to_create)):
            # The answer depends on the permissions of that node.
            self._note_node(ancestor)
        if refused:
            raise StoreError("EACCES")
        return asked if ancestor == path else None

    def _existing(self, who: Requester, path: str, needed: Access) -> Node:
        node = self._reachable(who, path, needed)
        if node is None:
            raise StoreError("ENOENT")
        return node

    def _create(self, who: Requester, path: str, value: bytes) -> None:
        """Make a node that does not exist, and its missing parents: all of them or, over quota, none."""
        missing = [path]
        while (ancestor := self.find(parent(missing[-1]))) is None:
            missing.append(parent(missing[-1]))
        extended = ancestor.with_child(leaf(missing[-1]))
        new = Node(b"", inherited(ancestor.permissions, who))
        created = [(path, replace(new, value=value))]
        created += [(step, new.with_child(leaf(below))) for below, step in pairwise(missing)]
        if exceeds(self.accounts.of(who).nodes, self.owned_by(who.domid) + len(created)):
            raise StoreError("ENOSPC")
        growth = extended.size - ancestor.size + sum(len(step) + node.size for step, node in created)
        self._check_size(who, growth, extended, *(node for _, node in created))
        self._store(parent(missing[-1]), extended)
        for step, node in reversed(created):
            self._store(step, node)

    def _change(self, who: Requester, path: str, old: Node, new: Node) -> None:
        self._check_size(who, new.size - old.size, new)
        self._store(path, new)

    def _check_size(self, who: Requester, growth: int, *nodes: Node) -> None:
        limit = self.accounts.of(who).node_size
        if any(exceeds(limit, node.size) for node in nodes):
            raise StoreError("ENOSPC")
        self.accounts.require_memory(who, growth)

    def _remove(self, path: str) -> None:
        above = self._known(parent(path))
        doomed = list(self.subtree(path))
        for step in doomed:
            self._note_node(step)
            self._report(step, exact=step != path)
        for step in reversed(doomed):
            self._store(step, None)
        self._store(parent(path), above.without_child(leaf(path)))

    def _known(self, path: str) -> Node:
        node = self.find(path)
        if node is None:
            raise KeyError(path)
        return node

    def _report(self, path: str, before: Permissions | None = None, *, exact: bool = False) -> None:
        readers = [self._known(path).permissions]
        if not path.startswith("@"):
            readers.append(self._known(parent(path)).permissions)
        if before is not None:
            readers.append(before)
        self._changes.append(Change(path, exact, tuple(readers)))

    def _count(self, old: Node | None, new: Node | None) -> None:
        if old is not None:
            self._owned[old.owner] -= 1
        if new is not None:
            self._owned[new.owner] += 1
