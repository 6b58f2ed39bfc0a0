"""Watches: who wants to hear of changes at or below a path, and what exactly they are told."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Generic, TypeVar

from harness.store.errors import StoreError
from harness.store.paths import SPECIAL, parent
from harness.store.space import Change

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

    @property
    def size(self) -> int:
        """Bytes that it uses."""
        return len(self.path) + len(self.token)

    def told(self, change: Change) -> str | None:
        """The path to report for a change at or below the watched path, or None for no report."""
        if change.path == self.path:
            return change.path[self.prefix :]
        if change.exact:
            return None
        if self.path in SPECIAL:
            # "@releaseDomain/7" is what happened; only who asked for the level below is told which domain it was.
            if self.depth == 0:
                return None
            return change.path if self.depth else self.path
        levels = change.path.count("/") - (0 if self.path == "/" else self.path.count("/"))
        return change.path[self.prefix :] if self.depth is None or levels <= self.depth else None


class WatchTable(Generic[Watcher]):
    """All watches, found by path.

    :param charge: is told how many bytes more somebody uses for them, or fewer.
    """

    def __init__(self, charge: Callable[[Watcher, int], None]) -> None:
        self._charge = charge
        self._by_path: dict[str, dict[tuple[Watcher, bytes], Watch[Watcher]]] = {}
        self._by_watcher: dict[Watcher, dict[tuple[str, bytes], None]] = {}

    def __len__(self) -> int:
        return sum(len(watches) for watches in self._by_watcher.values())

    def count(self, watcher: Watcher) -> int:
        return len(self._by_watcher.get(watcher, ()))

    def has(self, watch: Watch[Watcher]) -> bool:
        """Whether the same watcher watches this path with this token already."""
        return (watch.path, watch.token) in self._by_watcher.get(watch.watcher, {})

    def add(self, watch: Watch[Watcher]) -> None:
        """Add one that is not there yet."""
        self._by_path.setdefault(watch.path, {})[watch.watcher, watch.token] = watch
        self._by_watcher.setdefault(watch.watcher, {})[watch.path, watch.token] = None
        self._charge(watch.watcher, watch.size)

    def remove(self, watcher: Watcher, path: str, token: bytes) -> None:
        """:raise StoreError: ENOENT, there is none."""
        watch = self._by_path.get(path, {}).pop((watcher, token), None)
        if watch is None:
            raise StoreError("ENOENT")
        if not self._by_path[path]:
            del self._by_path[path]
        del self._by_watcher[watcher][path, token]
        self._charge(watcher, -watch.size)

    def forget(self, watcher: Watcher) -> None:
        """Remove all watches of somebody."""
        for path, token in list(self._by_watcher.get(watcher, ())):
            self.remove(watcher, path, token)
        self._by_watcher.pop(watcher, None)

    def concerned(self, change: Change) -> Iterator[tuple[Watch[Watcher], str]]:
        """The watches that a change is reported to, and as which path. Permissions are the caller's business."""
        for path in _at_and_above(change.path):
            for watch in self._by_path.get(path, {}).values():
                told = watch.told(change)
                if told is not None:
                    yield watch, told


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
