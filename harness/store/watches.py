"""Watches: who wants to hear of changes at or below a path, and what exactly they are told."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Generic, TypeVar

from harness.store.errors import StoreError
from harness.store.paths import SPECIAL, parent
from harness.store.tree import Change

Watcher = TypeVar("Watcher")


@dataclass(frozen=True, slots=True)
class Watch(Generic[Watcher]):
    """One watch.

    :param watcher: who is told.
    :param path: absolute, or special.
    :param token: sent along with each event.
    :param depth: how many levels below the path are reported; None for all.
    :param prefix: how much to cut from the front of a reported path, because the watch was set on a relative one.
    """

    watcher: Watcher
    path: str
    token: bytes
    depth: int | None = None
    prefix: int = 0

    def told(self, change: Change) -> str | None:
        """The path to report for a change at or below the watched path, or None for no report."""
        if change.path == self.path:
            return change.path[self.prefix :]
        if change.exact:
            return None
        if self.path in SPECIAL:
            # "@releaseDomain/7" is what happened; only who asked for the level below is told which domain it was.
            return change.path if self.depth else self.path
        levels = change.path.count("/") - (0 if self.path == "/" else self.path.count("/"))
        return change.path[self.prefix :] if self.depth is None or levels <= self.depth else None


class WatchTable(Generic[Watcher]):
    """All watches, found by path."""

    def __init__(self) -> None:
        self._by_path: dict[str, list[Watch[Watcher]]] = {}
        self._count: dict[Watcher, int] = {}

    def count(self, watcher: Watcher) -> int:
        return self._count.get(watcher, 0)

    def add(self, watch: Watch[Watcher]) -> None:
        """:raise StoreError: EEXIST, the same watcher has this path and token already."""
        if self._find(watch.watcher, watch.path, watch.token) is not None:
            raise StoreError("EEXIST")
        self._by_path.setdefault(watch.path, []).append(watch)
        self._count[watch.watcher] = self.count(watch.watcher) + 1

    def remove(self, watcher: Watcher, path: str, token: bytes) -> None:
        """:raise StoreError: ENOENT, there is none."""
        watch = self._find(watcher, path, token)
        if watch is None:
            raise StoreError("ENOENT")
        self._by_path[path].remove(watch)
        if not self._by_path[path]:
            del self._by_path[path]
        self._count[watcher] -= 1

    def forget(self, watcher: Watcher) -> None:
        """Remove all watches of somebody."""
        self._count.pop(watcher, None)
        for path, watches in list(self._by_path.items()):
            kept = [watch for watch in watches if watch.watcher != watcher]
            if kept:
                self._by_path[path] = kept
            else:
                del self._by_path[path]

    def concerned(self, change: Change) -> Iterator[tuple[Watch[Watcher], str]]:
        """The watches that a change is reported to, and as which path. Permissions are the caller's business."""
        for path in _at_and_above(change.path):
            for watch in self._by_path.get(path, ()):
                told = watch.told(change)
                if told is not None:
                    yield watch, told

    def _find(self, watcher: Watcher, path: str, token: bytes) -> Watch[Watcher] | None:
        for watch in self._by_path.get(path, ()):
            if watch.watcher == watcher and watch.token == token:
                return watch
        return None


def _at_and_above(path: str) -> Iterator[str]:
    yield path
    if path.startswith("@"):
        event, _, domid = path.partition("/")
        if domid:
            yield event
        return
    while path != "/":
        path = parent(path)
        yield path
