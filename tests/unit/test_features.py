"""Switches of features on their way from the toolstack to a backend."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import fields
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.bus.features import (
    ADAPTIVE,
    ALL_BLOCK,
    ALL_NET,
    BlockFeatures,
    NetFeatures,
    Notification,
    Notifications,
    nodes,
    read_block_features,
    read_net_features,
    read_notification,
    read_sector_size,
)
from harness.host.errors import GuestError
from harness.store.client import StoreClient
from tests.unit.live_store import live_store

NUMBERS = itertools.count(1)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[StoreClient]:
    with live_store(tmp_path_factory.mktemp("runtime")) as client:
        yield client


def features(kind: type[Any]) -> st.SearchStrategy[Any]:
    """Any features of a kind that a definition may ask for."""
    values = {}
    for one in fields(kind):
        allowed = one.metadata["allowed"]
        number = st.integers(allowed.start, allowed.stop - 1)
        values[one.name] = st.booleans() if isinstance(one.default, bool) else number
    return st.builds(kind, **values)


def write(store: StoreClient, values: dict[str, str]) -> str:
    path = f"/features/{next(NUMBERS)}"
    store.mkdir(path)
    for name, value in values.items():
        store.write(f"{path}/{name}", value)
    return path


def test_nothing_is_written_for_what_is_not_said(store: StoreClient) -> None:
    assert nodes(ALL_BLOCK, ADAPTIVE) == nodes(ALL_NET, ADAPTIVE) == ({}, {})
    path = write(store, {})
    assert read_block_features(store, path) == ALL_BLOCK
    assert read_net_features(store, path) == ALL_NET
    assert read_notification(store, path) == Notification.ADAPTIVE
    assert read_sector_size(store, path) == 512


@given(features(BlockFeatures))
def test_a_disks_backend_reads_what_the_toolstack_writes(store: StoreClient, wanted: BlockFeatures) -> None:
    frontend, backend = nodes(wanted, ADAPTIVE)
    found = read_block_features(store, write(store, backend))
    assert nodes(found, ADAPTIVE)[1] == backend
    # The one that is the guest's alone is in the frontend's node.
    assert frontend == ({} if wanted.poll_queues == ALL_BLOCK.poll_queues else {"poll-queues": str(wanted.poll_queues)})


@given(features(NetFeatures))
def test_a_cards_backend_reads_what_the_toolstack_writes(store: StoreClient, wanted: NetFeatures) -> None:
    frontend, backend = nodes(wanted, ADAPTIVE)
    assert frontend == {}
    assert read_net_features(store, write(store, backend)) == wanted


def test_each_end_has_its_own_strategy(store: StoreClient) -> None:
    frontend, backend = nodes(ALL_BLOCK, Notifications(Notification.EVENT, Notification.POLL))
    assert read_notification(store, write(store, frontend)) == Notification.EVENT
    assert read_notification(store, write(store, backend)) == Notification.POLL


def test_the_names_of_the_nodes_are_those_that_everybody_knows() -> None:
    off = BlockFeatures(flush=False, barrier=False, discard=False, persistent=False, indirect_segments=0, queues=2)
    assert nodes(off, ADAPTIVE)[1] == {
        "flush-cache-enable": "0",
        "barrier-enable": "0",
        "discard-enable": "0",
        "persistent-enable": "0",
        "indirect-segments-limit": "0",
        "queues-limit": "2",
    }


@pytest.mark.parametrize(
    ("node", "value"),
    [
        ("flush-cache-enable", "2"),
        ("discard-enable", "-1"),
        ("persistent-enable", "yes"),
        ("indirect-segments-limit", "257"),
        ("ring-page-order-limit", "31"),
        ("queues-limit", "0"),
        ("queues-limit", "99999999999999999999"),
    ],
)
def test_nonsense_is_refused(store: StoreClient, node: str, value: str) -> None:
    with pytest.raises(GuestError, match=node):
        read_block_features(store, write(store, {node: value}))


@given(st.binary(max_size=12))
def test_a_nonsensical_strategy_is_the_default(store: StoreClient, value: bytes) -> None:
    path = write(store, {})
    store.write(f"{path}/notification", value)
    expected = {one.value.encode(): one for one in Notification}.get(value, Notification.ADAPTIVE)
    assert read_notification(store, path) == expected


@pytest.mark.parametrize("value", ["0", "511", "1024", "4097", "x"])
def test_there_are_two_sizes_of_sectors(store: StoreClient, value: str) -> None:
    assert read_sector_size(store, write(store, {"sector-size": "4096"})) == 4096
    with pytest.raises(GuestError, match="sector-size"):
        read_sector_size(store, write(store, {"sector-size": value}))
