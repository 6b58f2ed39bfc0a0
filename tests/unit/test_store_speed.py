"""A store with many nodes and watches does no more for a request than one with few: counted, not timed."""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import partial
from types import FrameType

import pytest

from harness.store.core import Store
from harness.store.wire import Op
from tests.unit.store_peers import Peer, small_store

NODES = 10_000
WATCHES = 100


def filled(nodes: int, watches: int) -> Store:
    """A store with so many nodes, in one wide directory and in many, and so many watches."""
    store = small_store()
    tool = Peer.tool(store)
    for number in range(nodes // 2):
        tool.write(f"/wide/{number}", "value")
        tool.write(f"/many/{number % 100}/{number}", "value")
    watcher = Peer.tool(store)
    for number in range(watches):
        watcher.watch(f"/many/{number}", "token")
    tool.write("/here/a", "1")
    return store


def calls(act: Callable[[], object]) -> int:
    """How many functions are called, those of the interpreter included."""
    count = 0

    def note(_frame: FrameType, event: str, _argument: object) -> None:
        nonlocal count
        count += event in ("call", "c_call")

    sys.setprofile(note)
    try:
        act()
    finally:
        sys.setprofile(None)
    return count


@pytest.fixture(scope="module")
def large() -> Store:
    return filled(NODES, WATCHES)


def create_and_remove(peer: Peer) -> None:
    peer.write("/here/b/c", "2")
    peer.rm("/here/b")


def create_and_remove_among_many(peer: Peer) -> None:
    peer.write("/wide/b", "2")
    peer.rm("/wide/b")


def watch_and_unwatch(peer: Peer) -> None:
    peer.ask(Op.WATCH, "/here", "t")
    peer.ask(Op.UNWATCH, "/here", "t")


def in_a_transaction(peer: Peer) -> None:
    transaction = peer.begin()
    transaction.write("/here/a", transaction.read("/here/a").decode())
    transaction.end()


ACTS: list[Callable[[Peer], object]] = [
    lambda peer: peer.read("/here/a"),
    lambda peer: peer.write("/here/a", "2"),
    create_and_remove,
    create_and_remove_among_many,
    in_a_transaction,
    watch_and_unwatch,
]


@pytest.mark.parametrize("act", ACTS)
def test_the_work_for_a_request_does_not_grow(large: Store, act: Callable[[Peer], object]) -> None:
    few, many = (calls(partial(act, Peer.tool(store))) for store in (filled(2, 1), large))
    assert many <= few * 1.05


def test_a_client_that_leaves_costs_what_it_had(large: Store) -> None:
    few, many = (calls(partial(store.disconnect, store.connect_tool())) for store in (filled(2, 1), large))
    # All domains are looked through, and nothing else.
    assert few == many
