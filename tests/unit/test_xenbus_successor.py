"""A backend that takes over devices from one that has died, and disks that grow."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import pytest

from harness.bus import hotplug
from harness.bus.backend import BackendDevice
from harness.bus.devices import Device
from harness.bus.xenbus import RESIZE, XenbusState, error_path, read_state
from harness.host.errors import HostError
from harness.store.client import StoreClient
from tests.unit.live_store import live_store, within
from tests.unit.test_xenbus import Pair, Recorder


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[StoreClient]:
    with live_store(tmp_path_factory.mktemp("runtime")) as client:
        yield client


@pytest.fixture
def pair(store: StoreClient) -> Pair:
    return Pair(store)


def succeed(pair: Pair) -> None:
    """The backend dies, and another one finds its device."""
    pair.backend = Recorder()
    pair.device = BackendDevice(pair.store, pair.path, 7, lambda device: pair.backend)
    pair.device.start()
    pair.device.frontend_changed()


def test_a_connected_frontend_connects_anew(pair: Pair, store: StoreClient) -> None:
    pair.connected()
    pair.set_frontend(XenbusState.CONNECTED)
    succeed(pair)
    # Its ring is the dead one's: nobody looks at it.
    assert pair.backend.calls == ["features"]
    assert read_state(store, pair.path) == XenbusState.INIT_WAIT
    assert pair.frontend_goes_to(XenbusState.INITIALISING) == XenbusState.INIT_WAIT
    assert pair.frontend_goes_to(XenbusState.INITIALISED) == XenbusState.CONNECTED
    assert pair.frontend_goes_to(XenbusState.CONNECTED) == XenbusState.CONNECTED
    assert pair.backend.calls == ["features", "connect"]


def test_a_frontend_that_was_quicker_than_the_new_backend_is_not_missed(pair: Pair) -> None:
    pair.connected()
    pair.set_frontend(XenbusState.CONNECTED)
    succeed(pair)
    assert pair.frontend_goes_to(XenbusState.INITIALISED) == XenbusState.CONNECTED


def test_another_death_before_the_frontend_has_noticed_changes_nothing(pair: Pair) -> None:
    pair.connected()
    pair.set_frontend(XenbusState.CONNECTED)
    for _ in range(3):
        succeed(pair)
        assert pair.backend.calls == ["features"]
    assert pair.frontend_goes_to(XenbusState.INITIALISED) == XenbusState.CONNECTED
    # All is as at first: a frontend that has not been connected to a dead backend may connect in one step.
    pair.frontend_goes_to(XenbusState.CLOSED)
    pair.frontend_goes_to(XenbusState.INITIALISING)
    succeed(pair)
    assert pair.frontend_goes_to(XenbusState.CONNECTED) == XenbusState.CONNECTED


def test_a_frontend_that_no_backend_had_connected_to_may_be_connected_already(pair: Pair) -> None:
    """As network frontends do, which go there in one step."""
    pair.device.start()
    pair.set_frontend(XenbusState.CONNECTED)
    succeed(pair)
    assert pair.backend.calls == ["features", "connect"]
    assert read_state(pair.store, pair.path) == XenbusState.CONNECTED


def test_the_offer_is_made_again_to_who_has_seen_it(pair: Pair, store: StoreClient) -> None:
    pair.device.start()
    store.watch(f"{pair.path}/state", "state")
    store.read_event(within("the first event"))
    succeed(pair)
    assert store.read_event(within("the new offer")) == (f"{pair.path}/state", "state")
    store.unwatch(f"{pair.path}/state", "state")


def test_a_device_that_was_to_close_is_connected_first_and_then_closed(pair: Pair, store: StoreClient) -> None:
    pair.connected()
    pair.set_frontend(XenbusState.CONNECTED)
    store.write(f"{pair.path}/online", "0")
    store.write(f"{pair.path}/state", str(XenbusState.CLOSING.value))
    succeed(pair)
    assert read_state(store, pair.path) == XenbusState.INIT_WAIT
    assert pair.frontend_goes_to(XenbusState.INITIALISED) == XenbusState.CONNECTED
    assert pair.frontend_goes_to(XenbusState.CONNECTED) == XenbusState.CLOSING
    assert pair.backend.serving
    assert pair.frontend_goes_to(XenbusState.CLOSED) == XenbusState.CLOSED
    assert pair.device.gone


def test_a_closed_device_stays_closed_until_its_frontend_comes_back(pair: Pair) -> None:
    pair.connected()
    pair.frontend_goes_to(XenbusState.CLOSED)
    succeed(pair)
    assert pair.backend.calls == ["disconnect"]
    assert pair.frontend_goes_to(XenbusState.INITIALISING) == XenbusState.INIT_WAIT


def test_who_is_told_to_close_while_connecting_does_not_forget_it(pair: Pair, store: StoreClient) -> None:
    pair.device.start()
    hotplug.close_device(store, Device("vbd", 7, int(pair.path.rpartition("/")[2])))
    assert pair.frontend_goes_to(XenbusState.INITIALISED) == XenbusState.CLOSING


def test_a_device_that_has_taken_the_place_of_another_is_left_alone(pair: Pair, store: StoreClient) -> None:
    pair.connected()
    store.rm(pair.frontend)
    store.write(f"{pair.path}/state", str(XenbusState.INITIALISING.value))
    pair.device.frontend_changed()
    assert pair.device.gone
    assert read_state(store, pair.path) == XenbusState.INITIALISING


class Growing(Recorder):
    """A backend of something whose size changes."""

    def resized(self) -> Mapping[str, str]:
        if self.refusal:
            raise self.refusal
        return {"sectors": "4096"}


@pytest.fixture
def growing(pair: Pair) -> Pair:
    pair.backend = Growing()
    pair.device = BackendDevice(pair.store, pair.path, 7, lambda device: pair.backend)
    return pair


def test_a_new_size_is_told_by_the_state_once_more(growing: Pair, store: StoreClient) -> None:
    growing.connected()
    store.watch(f"{growing.path}/state", "state")
    store.read_event(within("the first event"))
    store.write(f"{growing.path}/{RESIZE}", "1")
    growing.device.frontend_changed()
    assert store.read(f"{growing.path}/sectors") == b"4096"
    assert store.read_event(within("the state")) == (f"{growing.path}/state", "state")
    assert read_state(store, growing.path) == XenbusState.CONNECTED
    assert store.read(f"{growing.path}/{RESIZE}") == b"0"
    growing.device.frontend_changed()
    assert store.poll_event() is None
    store.unwatch(f"{growing.path}/state", "state")


def test_a_size_that_cannot_be_is_reported_and_the_device_goes_on(growing: Pair, store: StoreClient) -> None:
    growing.connected()
    growing.backend.refusal = HostError("the image has 1000 bytes")
    store.write(f"{growing.path}/{RESIZE}", "1")
    growing.device.frontend_changed()
    assert store.read(f"{growing.path}/sectors") == b"2048"
    assert store.read(f"{growing.path}/{RESIZE}") == b"0"
    assert b"1000 bytes" in store.read(error_path(growing.path))
    assert growing.backend.serving


def test_what_cannot_change_its_size_ignores_the_wish(pair: Pair, store: StoreClient) -> None:
    pair.connected()
    store.write(f"{pair.path}/{RESIZE}", "1")
    pair.device.frontend_changed()
    assert store.read(f"{pair.path}/{RESIZE}") == b"1"
    assert pair.backend.serving
