"""The handshake of a backend with frontends that behave, and with those that do not."""

from __future__ import annotations

import errno
import itertools
from collections.abc import Iterator, Mapping

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.bus.backend import BackendDevice
from harness.bus.nodes import read_number, read_or_none
from harness.bus.xenbus import (
    XenbusState,
    error_path,
    read_state,
    report_error,
    switch_state,
    wait_for_state,
)
from harness.host.deadline import Deadline
from harness.host.errors import DeadlineExpired, GuestError
from harness.store.client import StoreClient
from harness.store.errors import StoreError
from tests.unit.live_store import live_store, within

NUMBERS = itertools.count(1)


class Recorder:
    """A backend that only notes what it is told to do.

    :ivar refusal: what to raise instead of doing anything.
    """

    def __init__(self) -> None:
        self.calls: list[str] = []
        self.refusal: Exception | None = None
        self.serving = False

    def features(self) -> Mapping[str, str]:
        if self.refusal:
            raise self.refusal
        self.calls.append("features")
        return {"feature-flush-cache": "1"}

    def connect(self, frontend: str) -> Mapping[str, str]:
        assert not self.serving, "connected twice"
        if self.refusal:
            raise self.refusal
        self.calls.append("connect")
        self.serving = True
        return {"sectors": "2048"}

    def disconnect(self) -> None:
        self.calls.append("disconnect")
        self.serving = False


class Pair:
    """A backend under test, and the nodes of its frontend."""

    def __init__(self, store: StoreClient) -> None:
        devid = next(NUMBERS)
        self.store = store
        self.frontend = f"/local/domain/7/device/vbd/{devid}"
        self.path = f"/local/domain/0/backend/vbd/7/{devid}"
        store.write(f"{self.path}/frontend", self.frontend)
        store.write(f"{self.path}/online", "1")
        store.write(f"{self.path}/state", "1")
        self.set_frontend(XenbusState.INITIALISING)
        self.backend = Recorder()
        self.device = BackendDevice(store, self.path, 7, lambda device: self.backend)

    def set_frontend(self, state: XenbusState | str) -> None:
        self.store.write(f"{self.frontend}/state", state if isinstance(state, str) else str(state.value))

    def frontend_goes_to(self, state: XenbusState | str) -> XenbusState:
        """Let the frontend change and return what the backend's state in the store is then."""
        self.set_frontend(state)
        self.device.frontend_changed()
        return read_state(self.store, self.path)

    def connected(self) -> None:
        self.device.start()
        assert self.frontend_goes_to(XenbusState.INITIALISED) == XenbusState.CONNECTED


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[StoreClient]:
    with live_store(tmp_path_factory.mktemp("runtime")) as client:
        yield client


@pytest.fixture
def pair(store: StoreClient) -> Pair:
    return Pair(store)


def test_from_features_to_connected_and_back_to_closed(pair: Pair, store: StoreClient) -> None:
    pair.device.start()
    assert read_state(store, pair.path) == XenbusState.INIT_WAIT
    assert store.read(f"{pair.path}/feature-flush-cache") == b"1"
    assert pair.frontend_goes_to(XenbusState.INITIALISED) == XenbusState.CONNECTED
    assert store.read(f"{pair.path}/sectors") == b"2048"
    assert pair.frontend_goes_to(XenbusState.CONNECTED) == XenbusState.CONNECTED
    assert pair.frontend_goes_to(XenbusState.CLOSING) == XenbusState.CLOSING
    assert pair.backend.calls == ["features", "connect"]
    assert pair.frontend_goes_to(XenbusState.CLOSED) == XenbusState.CLOSED
    assert pair.backend.calls == ["features", "connect", "disconnect"]
    assert not pair.device.gone, "it is online, so the frontend may come back"


def test_a_frontend_may_connect_without_stopping_on_the_way(pair: Pair) -> None:
    pair.device.start()
    assert pair.frontend_goes_to(XenbusState.CONNECTED) == XenbusState.CONNECTED


def test_watches_that_fire_for_nothing_change_nothing(pair: Pair) -> None:
    pair.connected()
    for _ in range(3):
        pair.device.frontend_changed()
    assert pair.backend.calls == ["features", "connect"]


def test_a_closed_frontend_may_start_again(pair: Pair) -> None:
    pair.connected()
    pair.frontend_goes_to(XenbusState.CLOSED)
    assert pair.frontend_goes_to(XenbusState.INITIALISING) == XenbusState.INIT_WAIT
    assert pair.frontend_goes_to(XenbusState.INITIALISED) == XenbusState.CONNECTED


def test_a_frontend_that_starts_again_without_closing_is_a_new_one(pair: Pair) -> None:
    pair.connected()
    assert pair.frontend_goes_to(XenbusState.INITIALISING) == XenbusState.INIT_WAIT
    assert pair.backend.calls == ["features", "connect", "disconnect", "features"]
    assert pair.frontend_goes_to(XenbusState.INITIALISED) == XenbusState.CONNECTED


def test_a_backend_that_cannot_start_again_says_so(pair: Pair, store: StoreClient) -> None:
    pair.connected()
    pair.frontend_goes_to(XenbusState.CLOSED)
    pair.backend.refusal = OSError(errno.ENOENT, "the image is gone")
    assert pair.frontend_goes_to(XenbusState.INITIALISING) == XenbusState.CLOSING
    assert store.read(error_path(pair.path)).startswith(b"2 ")


def test_a_device_that_is_unplugged_ends_with_its_frontend(pair: Pair, store: StoreClient) -> None:
    pair.connected()
    store.write(f"{pair.path}/online", "0")
    assert pair.frontend_goes_to(XenbusState.CLOSED) == XenbusState.CLOSED
    assert pair.device.gone


def test_a_frontend_whose_nodes_are_removed_is_gone(pair: Pair, store: StoreClient) -> None:
    pair.connected()
    store.rm(pair.frontend)
    pair.device.frontend_changed()
    assert pair.device.gone
    assert not pair.backend.serving


def test_a_removed_backend_does_not_come_back_to_life(pair: Pair, store: StoreClient) -> None:
    pair.connected()
    store.rm(pair.path)
    pair.frontend_goes_to(XenbusState.CLOSED)
    assert pair.device.gone
    assert not pair.backend.serving
    assert not store.exists(pair.path)


@pytest.mark.parametrize("nonsense", ["", "x", "9", "-1", "4 ", "04", "4\0", "99999999999999999999", "\u0664"])
def test_a_state_that_does_not_exist_is_ignored(pair: Pair, nonsense: str) -> None:
    pair.connected()
    assert pair.frontend_goes_to(nonsense) == XenbusState.CONNECTED
    assert pair.backend.serving
    assert not pair.device.gone


@pytest.mark.parametrize(
    ("refusal", "number"),
    [
        (GuestError("ring-ref is missing\nwrite it"), errno.EIO),
        (OSError(errno.ENOSPC, "No space left on device"), errno.ENOSPC),
        (StoreError("EACCES", "READ", "x"), errno.EACCES),
    ],
)
def test_what_the_frontend_did_wrong_is_reported(
    pair: Pair, store: StoreClient, refusal: Exception, number: int
) -> None:
    pair.device.start()
    pair.backend.refusal = refusal
    assert pair.frontend_goes_to(XenbusState.INITIALISED) == XenbusState.CLOSING
    assert not pair.backend.serving
    report = store.read(error_path(pair.path)).decode()
    assert report == f"{number} {refusal}"
    # It cannot try again before it has closed, too.
    pair.backend.refusal = None
    assert pair.frontend_goes_to(XenbusState.CONNECTED) == XenbusState.CLOSING
    pair.frontend_goes_to(XenbusState.CLOSED)
    pair.frontend_goes_to(XenbusState.INITIALISING)
    assert pair.frontend_goes_to(XenbusState.INITIALISED) == XenbusState.CONNECTED


def test_a_mistake_of_our_own_is_not_blamed_on_the_frontend(pair: Pair) -> None:
    pair.device.start()
    pair.backend.refusal = ZeroDivisionError()
    with pytest.raises(ZeroDivisionError):
        pair.frontend_goes_to(XenbusState.INITIALISED)


@given(st.lists(st.one_of(st.sampled_from(XenbusState), st.sampled_from(["gone", "junk", "offline"])), max_size=12))
def test_whatever_the_frontend_does_the_backend_keeps_its_order(
    store: StoreClient, steps: list[XenbusState | str]
) -> None:
    pair = Pair(store)
    pair.device.start()
    for step in steps:
        if step == "gone":
            store.rm(pair.frontend)
            pair.device.frontend_changed()
        elif step == "offline":
            store.write(f"{pair.path}/online", "0")
        else:
            pair.frontend_goes_to(step)
        ours = read_state(store, pair.path)
        assert ours == pair.device.state
        assert pair.backend.serving or ours != XenbusState.CONNECTED
        assert ours in {XenbusState.CONNECTED, XenbusState.CLOSING} or not pair.backend.serving
        if pair.device.gone:
            assert not pair.backend.serving
            return


@pytest.mark.parametrize("frontend", [None, "/local/domain/8/device/vbd/1", "/local/domain/70/device", "\u00e9"])
def test_a_frontend_in_another_domain_is_refused(store: StoreClient, frontend: str | None) -> None:
    path = f"/local/domain/0/backend/vbd/7/{next(NUMBERS)}"
    store.write(f"{path}/state", "1")
    if frontend is not None:
        store.write(f"{path}/frontend", frontend)
    with pytest.raises(GuestError, match="expected a path of domain 7"):
        BackendDevice(store, path, 7, lambda device: Recorder())


def test_an_unchanged_state_is_not_written_again(pair: Pair, store: StoreClient) -> None:
    node = f"{pair.path}/state"
    store.watch(node, "own state")
    store.read_event(within("the first event"))
    assert switch_state(store, pair.path, XenbusState.INITIALISING, {"other": "1"})
    assert store.poll_event() is None
    assert switch_state(store, pair.path, XenbusState.INIT_WAIT)
    assert store.read_event(within("the event of the new state")) == (node, "own state")
    store.unwatch(node, "own state")
    assert store.read(f"{pair.path}/other") == b"1"


def test_no_node_of_a_removed_device_is_written(store: StoreClient) -> None:
    assert not switch_state(store, "/local/domain/0/backend/vbd/7/none", XenbusState.CLOSED, {"other": "1"})
    assert not store.exists("/local/domain/0/backend/vbd/7/none")


def test_errors_are_reported_below_the_domain_that_has_them(store: StoreClient) -> None:
    report_error(store, "/local/domain/0/backend/vbd/7/51712", errno.EINVAL, "no ring-ref" + "!" * 5000)
    value = store.read("/local/domain/0/error/backend/vbd/7/51712/error")
    assert value.startswith(b"22 no ring-ref!!!")
    assert len(value) == 1024


def test_waiting_for_a_state(pair: Pair, store: StoreClient) -> None:
    with pytest.raises(DeadlineExpired):
        wait_for_state(store, pair.path, {XenbusState.CONNECTED}, Deadline(0.05, "the connection"))
    with StoreClient.connect() as other:
        switch_state(other, pair.path, XenbusState.CONNECTED)
    assert wait_for_state(store, pair.path, {XenbusState.CONNECTED}, within("the connection")) == XenbusState.CONNECTED
    assert wait_for_state(store, "/nowhere", {XenbusState.UNKNOWN}, within("nothing")) == XenbusState.UNKNOWN


@given(st.one_of(st.binary(max_size=20), st.integers(-5, 20).map(lambda number: str(number).encode())))
def test_only_numbers_in_range_are_numbers(store: StoreClient, value: bytes) -> None:
    store.write("/numbers/one", value)
    allowed = range(3, 12)
    texts = {str(number).encode().rjust(width, b"0"): number for number in allowed for width in range(1, 11)}
    if value in texts:
        assert read_number(store, "/numbers/one", allowed) == texts[value]
    else:
        with pytest.raises(GuestError, match="/numbers/one"):
            read_number(store, "/numbers/one", allowed, default=5)


def test_a_number_that_is_not_there(store: StoreClient) -> None:
    assert read_or_none(store, "/numbers/none") is None
    assert read_number(store, "/numbers/none", range(8), default=5) == 5
    with pytest.raises(GuestError, match="missing"):
        read_number(store, "/numbers/none", range(8))
