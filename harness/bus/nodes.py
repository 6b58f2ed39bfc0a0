"""Reading what others have written into XenStore."""

from __future__ import annotations

from harness.host.errors import GuestError
from harness.store.errors import StoreError
from harness.store.nodes import NodeClient

Nodes = NodeClient
"""A connection to the store, or a transaction on one."""


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
