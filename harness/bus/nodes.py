"""What the bus needs of XenStore: a connection and, inside a transaction, the same operations on a view of the tree."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol, TypeVar

from harness.host.deadline import Deadline
from harness.host.errors import GuestError
from harness.store.errors import StoreError

Result = TypeVar("Result")


class Nodes(Protocol):
    """Operations on nodes; each raises ``StoreError`` when the store refuses."""

    def read(self, path: str) -> bytes: ...
    def write(self, path: str, value: bytes) -> None: ...
    def mkdir(self, path: str) -> None: ...
    def rm(self, path: str) -> None: ...
    def set_perms(self, path: str, perms: Sequence[str]) -> None: ...


class Store(Nodes, Protocol):
    """A connection: ``harness.store.client.StoreClient``, or what a test puts in its place."""

    def transact(self, change: Callable[[Nodes], Result]) -> Result:
        """Run ``change`` in a transaction, again for as long as the store says EAGAIN."""


class Events(Store, Protocol):
    """A connection whose watch events this thread may take."""

    def watch(self, path: str, token: str) -> None: ...
    def unwatch(self, path: str, token: str) -> None: ...

    def read_event(self, deadline: Deadline) -> tuple[str, str]:
        """The next event: path and token.

        :raise DeadlineExpired: there was none.
        """


def read_or_none(nodes: Nodes, path: str) -> bytes | None:
    """The value of a node, or None when there is no such node."""
    try:
        return nodes.read(path)
    except StoreError as error:
        if error.name == "ENOENT":
            return None
        raise


def read_number(nodes: Nodes, path: str, allowed: range, *, default: int | None = None) -> int:
    """A decimal number that another domain has written.

    :param allowed: the values that make sense.
    :param default: what an absent node means; None when it must be there.
    :raise GuestError: it is absent, no number, or not allowed.
    """
    value = read_or_none(nodes, path)
    if value is None:
        if default is None:
            raise GuestError(f"{path} is missing: a number in {allowed.start}..{allowed.stop - 1} must be there")
        return default
    # Not everything that int() takes is a number in XenStore, and it may be arbitrarily long.
    if not (value.isdigit() and len(value) <= 10 and int(value) in allowed):
        raise GuestError(f"{path} is {value[:40]!r}, expected a number in {allowed.start}..{allowed.stop - 1}")
    return int(value)
