"""The nodes of devices that a driver domain serves: whose they are, who may look, and when they go and come again."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from harness.bus import hotplug, toolstack
from harness.bus.devices import Device
from harness.bus.toolstack import Storage
from harness.bus.xenbus import XenbusState, read_state
from harness.host.errors import GuestGone
from harness.hypervisor.layout import GRANTEE, GRANTER
from harness.hypervisor.link import Link
from harness.store.client import StoreClient
from tests.unit.live_store import live_store
from tests.unit.test_toolstack import DESCRIPTION, below, listing

DRIVER, GUEST, OTHER = 2, 3, 4
STORAGE = Storage(DRIVER, "/dev/loop0", (7, 16))
TREE = Path(__file__).with_name("toolstack_driver_tree.txt")
"""The nodes, key by key as libxl and Xen's hotplug scripts write them."""


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[StoreClient]:
    with live_store(tmp_path_factory.mktemp("runtime")) as client:
        yield client


def introduce(store: StoreClient, link: Link, domid: int) -> None:
    description = replace(
        DESCRIPTION, name=f"d{domid}", uuid=DESCRIPTION.uuid[:-1] + str(domid), driver_domain=domid == DRIVER
    )
    toolstack.add_domain(store, domid, link, description)


@pytest.fixture
def links(store: StoreClient) -> Iterator[dict[int, Link]]:
    """The links of a driver domain, a guest, and another guest."""
    made = {domid: Link.create(domid) for domid in (DRIVER, GUEST, OTHER)}
    try:
        for domid, link in made.items():
            introduce(store, link, domid)
        yield made
    finally:
        for domid, link in made.items():
            if store.is_introduced(domid):
                toolstack.remove_domain(store, domid)
            link.close()


def add_disk(store: StoreClient, *, again: bool = False) -> Device:
    return toolstack.add_vbd(store, GUEST, "xvda", Path("/images/guest.img"), storage=STORAGE, again=again)


def add_card(store: StoreClient, *, again: bool = False) -> Device:
    return toolstack.add_vif(store, GUEST, 0, "00:16:3e:00:00:01", "br0", backend_domid=DRIVER, again=again)


@pytest.mark.parametrize(
    "path",
    [f"/local/domain/{DRIVER}/{name}" for name in ("backend", "libxl", "device-model")]
    + [f"/local/domain/{GUEST}/device", f"/libxl/{GUEST}/device"],
)
def test_the_tree_is_the_one_that_libxl_makes(store: StoreClient, links: dict[int, Link], path: str) -> None:
    add_disk(store)
    toolstack.vif_is_plugged(store, add_card(store))
    expected = below(TREE.read_text().splitlines(), path)
    assert expected
    assert listing(store, path) == expected


def test_a_domain_that_serves_nobody_has_no_nodes_for_that(store: StoreClient, links: dict[int, Link]) -> None:
    for name in ("backend", "libxl", "device-model"):
        assert not store.exists(f"/local/domain/{GUEST}/{name}")


def test_each_end_is_told_who_is_at_the_other(store: StoreClient, links: dict[int, Link]) -> None:
    told = {GUEST: f"/local/domain/{GUEST}/link/04", DRIVER: f"/local/domain/{DRIVER}/link/1e"}
    toolstack.add_link(store, GUEST, 4, GRANTER, DRIVER)
    toolstack.add_link(store, DRIVER, 30, GRANTEE, GUEST)
    assert [listing(store, path) for path in told.values()] == [
        [f'{told[GUEST]} = "granter {DRIVER}" (n0,r{GUEST})'],
        [f'{told[DRIVER]} = "grantee {GUEST}" (n0,r{DRIVER})'],
    ]
    toolstack.remove_link(store, DRIVER, 30)
    assert not store.exists(told[DRIVER])
    toolstack.remove_domain(store, GUEST)
    toolstack.remove_link(store, GUEST, 4)
    assert not store.exists(told[GUEST])
    # Who has ended cannot be told, and nothing is left for the next one of that number.
    with pytest.raises(GuestGone):
        toolstack.add_link(store, GUEST, 4, GRANTER, DRIVER)
    assert not store.exists(f"/local/domain/{GUEST}")
    store.write(told[GUEST], f"granter {OTHER}")
    introduce(store, links[GUEST], GUEST)
    assert not store.exists(told[GUEST])


@pytest.mark.parametrize("which", ["vbd", "vif"])
def test_a_device_goes_at_both_ends(store: StoreClient, links: dict[int, Link], which: str) -> None:
    disk, card = add_disk(store), add_card(store)
    gone, kept = (disk, card) if which == "vbd" else (card, disk)
    hotplug.forget(store, gone)
    assert not any(store.exists(path) for path in (gone.frontend, gone.backend, gone.toolstack))
    assert all(store.exists(path) for path in (kept.frontend, kept.backend, kept.toolstack))


def test_what_served_a_guest_goes_with_the_guest(store: StoreClient, links: dict[int, Link]) -> None:
    add_disk(store)
    add_card(store)
    toolstack.remove_domain(store, GUEST)
    for kind in ("vbd", "vif"):
        assert store.directory(f"/local/domain/{DRIVER}/backend/{kind}") == []


def test_a_driver_domain_that_returns_may_look_and_serves_again(store: StoreClient, links: dict[int, Link]) -> None:
    devices = [add_disk(store), add_card(store)]
    frontends = f"/local/domain/{GUEST}/device"
    for device in devices:
        for path in (device.frontend, device.backend):
            store.write(f"{path}/state", str(XenbusState.CONNECTED.value))
        # As the guest's frontend does it; what it makes inherits the permissions.
        store.write(f"{device.frontend}/queue-0/ring-ref", "9")
    before = listing(store, frontends)
    toolstack.remove_domain(store, DRIVER)
    for device in devices:
        assert not store.exists(device.backend)
        assert read_state(store, device.frontend) == XenbusState.CONNECTED
    introduce(store, links[DRIVER], DRIVER)
    assert listing(store, frontends) != before
    assert [add_disk(store, again=True), add_card(store, again=True)] == devices
    assert sorted(listing(store, frontends)) == sorted(before)
    for device in devices:
        assert read_state(store, device.backend) == XenbusState.INITIALISING
