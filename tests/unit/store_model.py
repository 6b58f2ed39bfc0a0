"""What a store answers, and whom it tells of what, as dictionaries and the rules of xenstore.txt.

Written without a look at the server. It knows no transactions: who compares says when one happens.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

OK = b"OK\0"
TOOL = 0


@dataclass(frozen=True)
class Entry:
    """A permission such as ``r5``; ``dead``: there was no domain 5 when it was written."""

    text: str
    dead: bool = False

    @property
    def domid(self) -> int:
        return int(self.text[1:])


@dataclass
class Node:
    value: bytes
    perms: list[Entry]


@dataclass(frozen=True)
class Watch:
    """``given`` is the path as the client wrote it, which may be relative."""

    client: int
    given: str
    token: str
    depth: int | None


@dataclass
class Change:
    """Something happened to a node: ``alone`` when only those who watch this very path are told."""

    path: str
    alone: bool
    readers: list[list[Entry]]


@dataclass
class Model:
    """Clients are numbers: of domains, or negative ones for processes of Domain 0."""

    nodes: dict[str, Node] = field(default_factory=dict)
    watches: list[Watch] = field(default_factory=list)
    dead: set[int] = field(default_factory=set)
    changes: list[Change] = field(default_factory=list)

    # ---- requests; each returns what the store must answer: bytes, a list, or the name of an error ----

    def read(self, client: int, given: str) -> object:
        path = absolute(client, given)
        return self._refusal(client, path, "r") or self.nodes[path].value

    def directory(self, client: int, given: str) -> object:
        path = absolute(client, given)
        return self._refusal(client, path, "r") or sorted(name for name, _ in self._children(path))

    def get_perms(self, client: int, given: str) -> object:
        path = absolute(client, given)
        return self._refusal(client, path, "r") or [entry.text for entry in self.nodes[path].perms]

    def write(self, client: int, given: str, value: bytes) -> object:
        path = absolute(client, given)
        if (refusal := self._refusal(client, path, "w")) not in (None, "ENOENT"):
            return refusal
        self._make(client, path)
        self.nodes[path].value = value
        self._note(path)
        return OK

    def mkdir(self, client: int, given: str) -> object:
        path = absolute(client, given)
        refusal = self._refusal(client, path, "w")
        if refusal == "ENOENT":
            self._make(client, path)
            self._note(path)
            return OK
        return refusal or OK

    def rm(self, client: int, given: str) -> object:
        path = absolute(client, given)
        refusal = self._refusal(client, path, "w")
        if refusal == "ENOENT":
            return OK if above(path) in self.nodes else "ENOENT"
        if refusal is None:
            self._remove(path)
        return refusal or OK

    def set_perms(self, client: int, given: str, texts: tuple[str, ...]) -> object:
        path = absolute(client, given)
        entries = [Entry(text, int(text[1:]) in self.dead) for text in texts]
        if entries[0].dead:
            return "ENOENT"
        if (refusal := self._refusal(client, path, "w")) is not None:
            return refusal
        node = self.nodes[path]
        if client > 0 and client != node.perms[0].domid:
            return "EACCES"
        if client > 0 and entries[0].domid != client:
            return "EPERM"
        before, node.perms = node.perms, entries
        self._note(path, before)
        return OK

    def watch(self, client: int, given: str, token: str, depth: int | None) -> object:
        known = (absolute(client, given), token)
        if known in [(absolute(one.client, one.given), one.token) for one in self.watches if one.client == client]:
            return "EEXIST"
        self.watches.append(Watch(client, given, token, depth))
        return OK

    def unwatch(self, client: int, given: str, token: str) -> object:
        for one in self.watches:
            if (one.client, absolute(client, one.given), one.token) == (client, absolute(client, given), token):
                self.watches.remove(one)
                return OK
        return "ENOENT"

    def forget_watches(self, client: int) -> None:
        self.watches = [one for one in self.watches if one.client != client]

    def introduce(self, domid: int) -> None:
        self.dead.discard(domid)
        self._special("@introduceDomain", domid)

    def release(self, domid: int) -> None:
        """Its home goes, then what it owns elsewhere, then its rights."""
        self.forget_watches(domid)
        self.dead.add(domid)
        if home(domid) in self.nodes:
            self._remove(home(domid))
        while owned := [path for path, node in self.nodes.items() if node.perms[0].domid == domid]:
            self._remove(min(owned, key=len))
        for node in self.nodes.values():
            node.perms = [node.perms[0], *(entry for entry in node.perms[1:] if entry.domid != domid)]
        self._special("@releaseDomain", domid)

    # ---- events ----

    def take_events(self) -> dict[int, set[tuple[str, str]]]:
        """Who must have been told what by now: path and token, once each."""
        told: dict[int, set[tuple[str, str]]] = {}
        merged: dict[str, Change] = {}
        for change in self.changes:
            known = merged.setdefault(change.path, Change(change.path, True, []))
            known.alone &= change.alone
            known.readers += change.readers
        self.changes = []
        for change in merged.values():
            for one in self.watches:
                report = reported(one, change)
                if report and any("r" in self._rights(one.client, perms) for perms in change.readers):
                    told.setdefault(one.client, set()).add((report, one.token))
        return told

    def _special(self, name: str, domid: int) -> None:
        self.changes.append(Change(f"{name}/{domid}", False, [[Entry("n0")]]))

    def _note(self, path: str, before: list[Entry] | None = None, *, alone: bool = False) -> None:
        readers = [self.nodes[path].perms, self.nodes[above(path)].perms, *([before] if before else [])]
        self.changes.append(Change(path, alone, [list(perms) for perms in readers]))

    # ---- nodes ----

    def _children(self, path: str) -> Iterator[tuple[str, str]]:
        for other in self.nodes:
            if other != "/" and above(other) == path:
                yield other.rpartition("/")[2], other

    def _make(self, client: int, path: str) -> None:
        if path in self.nodes:
            return
        self._make(client, above(path))
        first, *others = self.nodes[above(path)].perms
        if client > 0:
            first = Entry(first.text[0] + str(client))
        self.nodes[path] = Node(b"", [first, *others])

    def _remove(self, path: str) -> None:
        doomed = [other for other in self.nodes if other == path or other.startswith(path + "/")]
        for other in doomed:
            self._note(other, alone=other != path)
        for other in doomed:
            del self.nodes[other]

    def _rights(self, client: int, perms: list[Entry]) -> str:
        if client <= 0 or perms[0].domid == client:
            return "rw"
        for entry in perms[1:]:
            if entry.domid == client and not entry.dead:
                return _RIGHTS[entry.text[0]]
        return _RIGHTS[perms[0].text[0]]

    def _refusal(self, client: int, path: str, needed: str) -> str | None:
        asked = path
        while asked not in self.nodes:
            asked = above(asked)
        rights = self._rights(client, self.nodes[asked].perms)
        if not set(needed) <= set(rights):
            return "EACCES"
        return None if asked == path else "ENOENT"


_RIGHTS = {"n": "", "r": "r", "w": "w", "b": "rw"}


def home(client: int) -> str:
    return f"/local/domain/{max(client, 0)}"


def absolute(client: int, given: str) -> str:
    return given if given[0] in "/@" else f"{home(client)}/{given}"


def above(path: str) -> str:
    return path[: path.rindex("/")] or "/"


def reported(watch: Watch, change: Change) -> str | None:
    """As what a watch reports a change, if at all."""
    path = absolute(watch.client, watch.given)
    if change.path == path:
        return watch.given
    base = path if path == "/" else path + "/"
    if change.alone or not change.path.startswith("/" if path == "/" else base):
        return None
    if path.startswith("@"):
        return watch.given if watch.depth is None else change.path if watch.depth else None
    below = change.path[len(base) :]
    if watch.depth is not None and below.count("/") + 1 > watch.depth:
        return None
    return change.path if watch.given.startswith("/") else f"{watch.given}/{below}"
