"""Who is at the other end of a link the guest believes of the toolstack alone, whatever the link's memory says."""

from __future__ import annotations

import mmap
import struct
from collections.abc import Callable, Iterator

import pytest

from harness.bus import toolstack
from harness.bus.devices import Device
from harness.domain.domain import Domain
from harness.guest.completed import Completed
from harness.hypervisor.layout import GRANTEE, GRANTER, LINK_INFO_OFFSET, PEER, PEER_OFFSET, LinkLayout
from harness.hypervisor.link import Link
from harness.hypervisor.startinfo import pack_start_info
from harness.pytest_plugin.plugin import StartDomain
from harness.store.client import StoreClient
from harness.store.paths import home
from tests.guest.conftest import named
from tests.guest.links import plugged
from tests.guest.test_bus_links import announced, exists, gone, is_there, quiet, wait_until

HOSTILE, VICTIM = 32100, 32101
DISK = 51712 + 16
DOMID = struct.Struct("<2H")
DOMID_OFFSET = LINK_INFO_OFFSET + 12


@pytest.fixture(scope="module")
def guest(request: pytest.FixtureRequest, start_domain_for_module: StartDomain) -> Domain:
    return start_domain_for_module(named("pv", request))


@pytest.fixture
def store() -> Iterator[StoreClient]:
    with StoreClient.connect() as client:
        yield client


def ends(end: int, guest: Domain, other: int) -> tuple[int, int]:
    """The domids of a link's ends."""
    return (guest.domid, other) if end == GRANTER else (other, guest.domid)


def device(end: int, guest: Domain, other: int) -> tuple[Device, str]:
    """A disk that needs a link, and what the guest calls it."""
    if end == GRANTER:
        return Device("vbd", guest.domid, DISK, other), f"vbd-{guest.domid}-{DISK}"
    return Device("vbd", other, DISK, guest.domid), f"backend-vbd-{other}-{DISK}"


def lie(link: Link, offset: int, data: bytes) -> None:
    """Write into the memory of a link, as either end can."""
    with mmap.mmap(link.guest_fds()[0], link.layout.size) as memory:
        memory[offset : offset + len(data)] = data


def clear_log(guest: Domain) -> None:
    guest.execute(["dmesg", "-c"]).check()


def wait_for_log(guest: Domain, words: str) -> None:
    wait_until(guest, f"dmesg | grep -q -F '{words}'")


@pytest.mark.parametrize("end", [GRANTER, GRANTEE])
def test_a_link_is_of_use_when_the_toolstack_has_said_whose_it_is(end: int, guest: Domain, store: StoreClient) -> None:
    disk, name = device(end, guest, HOSTILE)
    clear_log(guest)
    with (
        Link.between(*ends(end, guest, HOSTILE)) as link,
        announced(store, disk, {"virtual-device": str(DISK), "device-type": "disk"}, {}),
        plugged(guest, "link", link, end, tell=False) as slot,
    ):
        wait_until(guest, f"[ -e /sys/bus/pci/drivers/pvbus/0000:00:{slot:02x}.0 ]")
        # The word on another slot says nothing about this one.
        toolstack.add_link(store, guest.domid, slot + 1, end, HOSTILE)
        toolstack.remove_link(store, guest.domid, slot + 1)
        assert not is_there(guest, name)
        assert "link to domain" not in guest.execute(["dmesg"]).check().text
        toolstack.add_link(store, guest.domid, slot, end, HOSTILE)
        exists(guest, name)
        wait_for_log(guest, f"link to domain {HOSTILE}")
        # What it knows it knows: the toolstack takes its word back before the link goes.
        toolstack.remove_link(store, guest.domid, slot)
        assert is_there(guest, name)
    gone(guest, name)
    assert quiet(guest)


@pytest.mark.parametrize("late", [False, True])
@pytest.mark.parametrize("end", [GRANTER, GRANTEE])
def test_who_claims_to_be_another_domain_is_refused(end: int, late: bool, guest: Domain, store: StoreClient) -> None:
    clear_log(guest)
    disk, name = device(end, guest, VICTIM)
    with Link.between(*ends(end, guest, HOSTILE)) as link, announced(store, disk, {}, {}):
        lie(link, DOMID_OFFSET, DOMID.pack(*ends(end, guest, VICTIM)))
        with plugged(guest, "link", link, end, tell=False) as slot:
            if late:
                wait_until(guest, f"[ -e /sys/bus/pci/drivers/pvbus/0000:00:{slot:02x}.0 ]")
            toolstack.add_link(store, guest.domid, slot, end, HOSTILE)
            word = toolstack.END_NAMES[end]
            wait_for_log(guest, f'refused: its memory says we are "{word} {VICTIM}", the toolstack "{word} {HOSTILE}"')
            # For good: it may have shown something else while it was looked at.
            lie(link, DOMID_OFFSET, DOMID.pack(*ends(end, guest, HOSTILE)))
            toolstack.add_link(store, guest.domid, slot, end, HOSTILE)
            assert not is_there(guest, name)
        with Link.between(*ends(end, guest, VICTIM)) as honest, plugged(guest, "honest", honest, end):
            exists(guest, name)
    assert quiet(guest)


def swap_peers(link: Link) -> None:
    peer = link.layout.peer
    lie(link, PEER_OFFSET, PEER.pack(peer[1], peer[0]))


def swap_ends(link: Link) -> None:
    domid = link.layout.domid
    lie(link, DOMID_OFFSET, DOMID.pack(domid[1], domid[0]))
    swap_peers(link)


def pose_as_domain_0(link: Link) -> None:
    """A first link, with a store and a console, as Domain 0 has it with the guest."""
    layout = LinkLayout(link.layout.nr_frames, (link.layout.domid[GRANTEE], 0), vectors=link.layout.vectors)
    lie(link, 0, pack_start_info(layout))
    lie(link, LINK_INFO_OFFSET, layout.pack_info())
    swap_peers(link)


def pose_as_domain_0_without_store(link: Link) -> None:
    lie(link, DOMID_OFFSET, DOMID.pack(0, link.layout.domid[GRANTEE]))


def take_the_guests_number(link: Link) -> None:
    lie(link, DOMID_OFFSET, DOMID.pack(HOSTILE, VICTIM))


@pytest.mark.parametrize(
    ("crime", "complaint"),
    [
        (swap_peers, f"this link is of domain {HOSTILE}"),
        (swap_ends, 'refused: its memory says we are "granter'),
        (pose_as_domain_0, "a store is on the link in slot 1f, and on no other"),
        (pose_as_domain_0_without_store, "refused"),
        (take_the_guests_number, f"this link is of domain {VICTIM}"),
    ],
)
def test_other_lies(crime: Callable[[Link], None], complaint: str, guest: Domain, store: StoreClient) -> None:
    clear_log(guest)
    with Link.between(HOSTILE, guest.domid) as link:
        crime(link)
        with plugged(guest, "link", link, GRANTEE):
            wait_for_log(guest, complaint)
            assert "link to domain" not in guest.execute(["dmesg"]).check().text
        # Its own link to Domain 0 works as before.
        assert guest.execute(["xenstore-read", "name"]).check().text.strip() == guest.name
    assert quiet(guest)


def test_the_guest_cannot_write_what_it_is_told(guest: Domain, store: StoreClient) -> None:
    def write(path: str) -> Completed:
        return guest.execute(["xenstore-write", path, f"grantee {VICTIM}"])

    with Link.between(HOSTILE, guest.domid) as link, plugged(guest, "link", link, GRANTEE, tell=False) as slot:
        assert not write(f"link/{slot:02x}").ok
        toolstack.add_link(store, guest.domid, slot, GRANTEE, HOSTILE)
        assert guest.execute(["xenstore-read", f"link/{slot:02x}"]).check().text.strip() == f"grantee {HOSTILE}"
        assert not write(f"link/{slot:02x}").ok
        assert not write("link/1e").ok
    assert not store.exists(f"{home(guest.domid)}/link/{slot:02x}")
