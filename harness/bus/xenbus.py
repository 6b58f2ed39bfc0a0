"""The state machine by which a frontend and a backend find each other and connect (xenbus.h)."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from enum import IntEnum
from typing import TypeVar

from harness.bus.nodes import Nodes, read_or_none
from harness.host.deadline import Deadline
from harness.store.client import StoreClient

T = TypeVar("T")

RESIZE = "resize"
"""The node in which the toolstack asks a backend, with ``1``, to look at its size; it answers with ``0``."""

_ERROR_MAX = 1024
"""Bytes of an error report that are kept."""


class XenbusState(IntEnum):
    """``enum xenbus_state``."""

    UNKNOWN = 0
    INITIALISING = 1
    INIT_WAIT = 2
    INITIALISED = 3
    CONNECTED = 4
    CLOSING = 5
    CLOSED = 6
    RECONFIGURING = 7
    RECONFIGURED = 8


def read_state(nodes: Nodes, path: str) -> XenbusState:
    """The state of the device at ``path``; UNKNOWN when it is gone or has written nonsense."""
    value = read_or_none(nodes, f"{path}/state") or b""
    known = {str(state.value).encode(): state for state in XenbusState}
    return known.get(value, XenbusState.UNKNOWN)


def switch_state(
    store: StoreClient,
    path: str,
    state: XenbusState,
    nodes: Mapping[str, str] | None = None,
    *,
    again: bool = False,
    left_first: bool = False,
) -> bool:
    """Write the state of our own device, and other nodes of it, in one transaction.

    A device that the toolstack has told to close does not become connected any more.

    :param nodes: names below ``path`` and their values.
    :param again: write the state also when it is that already, for the other end to look at the device once more.
    :param left_first: our device has left its first state long ago; one that is in it is another one in its place.
    :return: False when our device is gone: then nothing is written, and nothing comes back to life.
    """

    def change(transaction: Nodes) -> bool:
        current = read_state(transaction, path)
        if current == XenbusState.UNKNOWN and not transaction.exists(f"{path}/state"):
            return False
        if left_first and current == XenbusState.INITIALISING:
            return False
        for name, value in (nodes or {}).items():
            transaction.write(f"{path}/{name}", value)
        told_to_close = current == XenbusState.CLOSING and state == XenbusState.CONNECTED
        if not told_to_close and (again or current != state):
            transaction.write(f"{path}/state", str(state.value))
        return True

    return store.transact(change)


def error_path(path: str) -> str:
    """Where the domain that owns the device at ``path`` reports what is wrong with it."""
    _, local, domain, domid, *rest = path.split("/")
    return "/".join(("", local, domain, domid, "error", *rest, "error"))


def report_error(store: StoreClient, path: str, number: int, text: str) -> None:
    """Say in XenStore what is wrong with our device at ``path``, as ``<errno> text``."""
    store.write(error_path(path), f"{number} {text}".encode()[:_ERROR_MAX])


def wait_for_state(store: StoreClient, path: str, wanted: Collection[XenbusState], deadline: Deadline) -> XenbusState:
    """Wait until the device at ``path`` is in one of the states; UNKNOWN is one that is gone.

    :param store: a connection on which nobody else waits for events.
    :raise DeadlineExpired: it did not get there.
    """
    return _wait(store, f"{path}/state", lambda: read_state(store, path), wanted, deadline)


def wait_for_value(store: StoreClient, path: str, wanted: bytes, deadline: Deadline) -> None:
    """Wait until a node has a value, or is gone; as :func:`wait_for_state`."""
    _wait(store, path, lambda: read_or_none(store, path), {wanted, None}, deadline)


def _wait(store: StoreClient, node: str, look: Callable[[], T], wanted: Collection[T], deadline: Deadline) -> T:
    token = f"wait {node}"
    store.watch(node, token)
    try:
        while (found := look()) not in wanted:
            store.read_event(deadline)
        return found
    finally:
        store.unwatch(node, token)
