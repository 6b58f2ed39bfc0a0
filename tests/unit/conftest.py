"""How unit tests run, and the set-up that many of them share.

Examples have no time limit of their own, because the machine may be busy with guests. ``HYPOTHESIS_PROFILE=long``
makes the random runs twenty times as long.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings

from harness.backend.network_client import NetworkClient
from harness.store.client import StoreClient
from harness.store.core import Store
from tests.unit.backend_guest import Guest, domain_below
from tests.unit.blockfront import image
from tests.unit.netpeer import Peer as NetPeer
from tests.unit.netpeer import plugged_in, private_network
from tests.unit.store_peers import Peer, small_store

__all__ = ["image"]

settings.register_profile("busy-machine", deadline=None)
settings.register_profile("long", deadline=None, max_examples=2_000)
PROFILE = os.environ.get("HYPOTHESIS_PROFILE", "busy-machine")
settings.load_profile(PROFILE)


@pytest.fixture
def store() -> Store:
    """A store in this process, whose domains need no link."""
    return small_store()


@pytest.fixture
def tool(store: Store) -> Peer:
    """A process of Domain 0."""
    return Peer.tool(store)


@pytest.fixture
def other(store: Store) -> Peer:
    """Another process of Domain 0."""
    return Peer.tool(store)


@pytest.fixture
def domain_5(store: Store, tool: Peer) -> Peer:
    """Domain 5, which may read its home and write below its ``data``."""
    tool.write("/local/domain/5/data")
    tool.set_perms("/local/domain/5", "n0", "r5")
    tool.set_perms("/local/domain/5/data", "n5")
    return Peer.domain(store, 5)


@pytest.fixture
def store_runtime(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A runtime directory in which a store of its own starts on demand, which Xen's tools find, too."""
    monkeypatch.setenv("HARNESS_RUNTIME", str(tmp_path))
    monkeypatch.setenv("XENSTORED_PATH", str(tmp_path / "store.sock"))
    return tmp_path


@pytest.fixture
def client(store_runtime: Path) -> Iterator[StoreClient]:
    """A connection to a store that runs as a process."""
    with StoreClient.connect() as it:
        yield it


@pytest.fixture(scope="module")
def guest(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Guest]:
    """One domain for all tests of a module, so that what one device suffers would show in the others."""
    with domain_below(tmp_path_factory.mktemp("domain")) as guest:
        yield guest


@pytest.fixture(scope="module")
def network(guest: Guest) -> Iterator[NetworkClient]:
    """The network of the guest's cards."""
    with private_network() as network:
        yield network


@pytest.fixture(scope="module")
def peer(network: NetworkClient) -> Iterator[NetPeer]:
    """Another card on that network."""
    with plugged_in(network) as peer:
        yield peer
