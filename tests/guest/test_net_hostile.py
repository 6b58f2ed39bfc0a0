"""A backend that breaks the network protocol: it loses packets or the card, the guest and its other cards go on."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from harness.bus.devices import Device
from harness.bus.hotplug import close_device
from harness.bus.xenbus import XenbusState, read_state, wait_for_state, wait_for_value
from harness.domain.definition import Network
from harness.domain.domain import Domain
from harness.host.deadline import Deadline
from harness.pytest_plugin.plugin import StartDomain
from harness.store.client import StoreClient
from tests.guest.cards import counters, node, run, use
from tests.guest.conftest import named
from tests.guest.hostile_net import GOOD_ONES, MODULE, PACKETS

SECONDS = 20

RX_CRIMES = {
    "rx response to another request": "an rx response out of its place",
    "more rx responses than requests": "more rx responses than there are requests",
}
TX_CRIMES = {
    "tx response to no request": "a tx response to no request",
    "tx responses to one request": "a tx response to no request",
    "tx response to extra info": "a tx response to no request",
    "more tx responses than requests": "more tx responses than there are requests",
}
CARDS = ["good", *RX_CRIMES, *TX_CRIMES, "keep all"]
"""Each crime costs a card; the first one stays."""

FILL_RING = """
for i in 1 2 3 4 5 6 7 8; do
    ping -q -c 1 -W 1 -s 60000 -I "$1" 224.1.1.1 >/dev/null &
done
until grep -q "^queue-0/tx-stops [1-9]" "$2/statistics"; do usleep 10000; done
"""
"""Send more fragments than the ring has room for, to nobody: the queue stops, since the backend answers none."""
WAIT_FOR_COUNT = """
until [ "$(sed -n "s,^queue-0/$2 ,,p" "$1/statistics")" -ge "$3" ]; do usleep 5000; done
"""


@pytest.fixture(scope="module")
def guest(request: pytest.FixtureRequest, start_domain_for_module: StartDomain) -> Iterator[Domain]:
    cards = tuple(Network("pv") for _ in CARDS)
    domain = start_domain_for_module(named("pv", request, networks=cards), backend=MODULE)
    yield domain
    assert not run(domain, "dmesg | grep 'Call Trace\\|BUG:\\|WARNING:' || :")


@pytest.fixture
def store() -> Iterator[StoreClient]:
    with StoreClient.connect() as client:
        yield client


def order(store: StoreClient, domain: Domain, card: int, what: str) -> Device:
    """Have the backend of a card do something, and wait until it has."""
    device = Device("vif", domain.domid, card)
    store.write(f"{device.backend}/order", what)
    wait_for_value(store, f"{device.backend}/done", what.encode(), Deadline(SECONDS, f"the backend to do: {what}"))
    return device


def grow(store: StoreClient, domain: Domain, counter: str, what: str) -> int:
    """By how much a counter of the first card grows when it gets a packet, and at least how much that must be: 1."""
    before = counters(domain, 0)[counter]
    order(store, domain, 0, what)
    run(domain, WAIT_FOR_COUNT, node(domain, 0), counter.replace("_", "-"), str(before + 1))
    return counters(domain, 0)[counter] - before


def must_be_closed(store: StoreClient, device: Device, reason: str) -> None:
    """The guest gives up the card, and says in XenStore why."""
    wait_for_state(store, device.frontend, {XenbusState.CLOSED}, Deadline(SECONDS, f"{device.frontend} to close"))
    report = store.read(f"/local/domain/{device.domid}/error/device/vif/{device.devid}/error").decode()
    assert reason in report


@pytest.mark.parametrize("what", PACKETS)
def test_a_wrong_packet_is_dropped_and_the_next_one_arrives(guest: Domain, store: StoreClient, what: str) -> None:
    use(guest, 0)
    if what in GOOD_ONES:
        assert grow(store, guest, "rx_packets", what) == 1
        return
    packets = counters(guest, 0)["rx_packets"]
    assert grow(store, guest, "rx_errors", what) == 1
    assert counters(guest, 0)["rx_packets"] == packets
    assert grow(store, guest, "rx_packets", "good") == 1


@pytest.mark.parametrize(("what", "reason"), [*RX_CRIMES.items(), *TX_CRIMES.items()])
def test_a_broken_ring_costs_the_card_and_nothing_else(
    guest: Domain, store: StoreClient, what: str, reason: str
) -> None:
    card = CARDS.index(what)
    name = use(guest, card)
    if what in TX_CRIMES:
        run(guest, FILL_RING, name, node(guest, card))
    must_be_closed(store, order(store, guest, card, what), reason)
    assert run(guest, 'cat "/sys/class/net/$1/carrier"', name).strip() == "0"
    use(guest, 0)
    assert grow(store, guest, "rx_packets", "good") == 1


def test_a_backend_that_gives_no_frame_back_keeps_no_card_from_closing(guest: Domain, store: StoreClient) -> None:
    card = CARDS.index("keep all")
    use(guest, card)
    device = order(store, guest, card, "keep all")
    close_device(store, device)
    wait_for_state(store, device.frontend, {XenbusState.CLOSED}, Deadline(SECONDS, f"{device.frontend} to close"))
    use(guest, 0)
    assert grow(store, guest, "rx_packets", "good") == 1
    assert read_state(store, Device("vif", guest.domid, 0).frontend) == XenbusState.CONNECTED
