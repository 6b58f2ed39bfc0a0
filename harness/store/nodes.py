"""The requests about nodes as a client makes them, alone or inside a transaction."""

from __future__ import annotations

from abc import ABC, abstractmethod

from harness.store.errors import StoreError
from harness.store.wire import Op, split, strings


class NodeClient(ABC):
    """Reads and writes nodes. Paths are absolute, or relative to ``/local/domain/0``.

    Every method raises StoreError when the store refuses, and HostError when the store has gone.
    """

    @abstractmethod
    def _ask(self, operation: Op, path: str, payload: bytes) -> bytes:
        """Send a request and return the payload of its answer.

        :param path: what the request is about, for the text of an error.
        """

    def read(self, path: str) -> bytes:
        """:raise StoreError: ENOENT, there is no such node."""
        return self._ask(Op.READ, path, strings(path))

    def exists(self, path: str) -> bool:
        try:
            self.read(path)
        except StoreError as error:
            if error.name != "ENOENT":
                raise
            return False
        return True

    def write(self, path: str, value: str | bytes) -> None:
        """Set a value; creates the node and its parents."""
        raw = value.encode() if isinstance(value, str) else value
        self._ask(Op.WRITE, path, strings(path) + raw)

    def mkdir(self, path: str) -> None:
        """Create an empty node unless it exists; creates its parents."""
        self._ask(Op.MKDIR, path, strings(path))

    def rm(self, path: str) -> None:
        """Remove a node and all below it.

        :raise StoreError: ENOENT, not even its parent exists.
        """
        self._ask(Op.RM, path, strings(path))

    def directory(self, path: str) -> list[str]:
        """The names of a node's children.

        :raise StoreError: ENOENT, there is no such node.
        """
        try:
            listing = self._ask(Op.DIRECTORY, path, strings(path))
        except StoreError as error:
            if error.name != "E2BIG":
                raise
            listing = self._long_directory(path)
        return [name.decode() for name in split(listing)] if listing else []

    def get_perms(self, path: str) -> list[str]:
        """Permissions such as ``["n0", "r1"]``: the owner with the default first."""
        return [entry.decode() for entry in split(self._ask(Op.GET_PERMS, path, strings(path)))]

    def set_perms(self, path: str, permissions: list[str]) -> None:
        self._ask(Op.SET_PERMS, path, strings(path, *permissions))

    def _long_directory(self, path: str) -> bytes:
        """A listing that fits into no message, piece by piece; begun anew when it changes in between."""
        listing, generation = b"", b""
        while True:
            piece = self._ask(Op.DIRECTORY_PART, path, strings(path, str(len(listing))))
            current, _, names = piece.partition(b"\0")
            if listing and current != generation:
                listing = b""
                continue
            generation = current
            if names.endswith(b"\0\0") or names == b"\0":
                return listing + names[:-1]
            listing += names
