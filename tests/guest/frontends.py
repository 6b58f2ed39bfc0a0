"""What tests of a driver domain's network backend share: that domain is real, its frontends are in this process."""

from __future__ import annotations

import itertools
import os
import struct
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager

import pytest

from harness.bus import toolstack
from harness.bus.devices import Device
from harness.bus.features import NetFeatures
from harness.bus.hotplug import forget
from harness.bus.xenbus import XenbusState
from harness.domain.definition import Definition
from harness.domain.domain import Domain
from harness.hypervisor.layout import GRANTEE, GRANTER
from harness.hypervisor.link import Link
from harness.ring.netif import Status
from harness.store.client import StoreClient
from tests.guest.cards import run
from tests.guest.conftest import named
from tests.guest.driver_guest import debugging
from tests.guest.links import plugged
from tests.unit.backend_guest import GuestSide, wait_until
from tests.unit.net_packets import MAC, ethernet
from tests.unit.netfront import DEFAULTS, OFFLOADS, NetFront, Received

LINK_MIB = 16
BROADCAST = b"\xff" * 6
BRIDGE = """
sysctl -qw net.ipv6.conf.all.disable_ipv6=1 net.ipv6.conf.default.disable_ipv6=1
for bridge in br0 br1; do ip link add $bridge type bridge && ip link set $bridge up; done
"""
EXISTS = '[ ! -e "/sys/class/net/$1" ] || echo yes'
FORWARDS = """
[ -e "/sys/class/net/$1/brport" ] || exit 0
until [ "$(cat "/sys/class/net/$1/brport/state")" = 3 ]; do usleep 10000; done
"""
"""A bridge hears of a carrier a little later, and until then takes and gives nothing."""
CARRIER = 'cat "/sys/class/net/$1/carrier"'

_domids = itertools.count(5000)
_numbers = itertools.count()


def start_driver(start: Callable[[Definition], Domain], request: pytest.FixtureRequest) -> Domain:
    """A driver domain with two bridges, ``br0`` and ``br1``."""
    with debugging():
        domain = start(named("pv", request, driver_domain=True, disks=(), networks=(), vcpus=2))
    run(domain, BRIDGE)
    return domain


def must_be_sound(driver: Domain) -> None:
    """Nothing in its kernel has gone wrong."""
    assert not run(driver, "dmesg | grep 'Call Trace\\|BUG:\\|WARNING:\\|have been left mapped' || :")


class FrontendDomain(GuestSide):
    """The granter's end of a link to a driver domain, for frontends in this process.

    :ivar driver: the domain at the other end.
    """

    def __init__(self, link: Link, store: StoreClient, driver: Domain) -> None:
        super().__init__(link, store, link.layout.domid[GRANTER])
        self.driver = driver

    def check_backend(self) -> None:
        must_be_sound(self.driver)

    def name(self, device: Device) -> str:
        """What the driver domain calls its network device."""
        return f"vif{self.domid}.{device.devid}"

    def has_carrier(self, device: Device) -> bool:
        return run(self.driver, CARRIER, self.name(device)).strip() == "1"


@contextmanager
def frontend_domain(driver: Domain) -> Iterator[FrontendDomain]:
    """A domain that the driver domain has a link to."""
    domid = next(_domids)
    with ExitStack() as stack:
        store = stack.enter_context(StoreClient.connect())
        link = stack.enter_context(Link.between(domid, driver.domid, size=LINK_MIB << 20))
        stack.enter_context(plugged(driver, f"link-{domid}", link, GRANTEE))
        yield FrontendDomain(link, store, driver)


@contextmanager
def bridged_domain(start: Callable[[Definition], Domain], request: pytest.FixtureRequest) -> Iterator[FrontendDomain]:
    """The same, with a driver domain that is started for it and must be sound in the end."""
    driver = start_driver(start, request)
    with frontend_domain(driver) as guest:
        yield guest
    must_be_sound(driver)


def plug_in(guest: FrontendDomain, device: Device, bridge: str | None) -> None:
    """What the hotplug script does, when the backend has made its network device."""
    guest.wait_for_backend(device, XenbusState.INIT_WAIT)
    name = guest.name(device)
    if bridge is not None:
        run(guest.driver, 'ip link set "$1" master "$2"', name, bridge)
    run(guest.driver, 'ip link set "$1" up', name)
    toolstack.vif_is_plugged(guest.store, device)


@contextmanager
def card(
    guest: FrontendDomain, *, bridge: str | None = None, mtu: int = 1500, features: NetFeatures = DEFAULTS
) -> Iterator[Device]:
    """A network card that the toolstack has made, and plugged into a bridge if one is named."""
    device = toolstack.add_vif(
        guest.store,
        guest.domid,
        next(_numbers),
        "00:16:3e:00:00:01",
        bridge or "br0",
        mtu=mtu,
        features=features,
        backend_domid=guest.driver.domid,
    )
    plug_in(guest, device, bridge)
    yield device
    forget(guest.store, device)
    name = guest.name(device)
    wait_until(f"the end of {name}", lambda: not run(guest.driver, EXISTS, name))


def connect(
    guest: FrontendDomain,
    device: Device,
    *,
    split: bool = True,
    offers: dict[str, int] | None = None,
    queues: int = 1,
    state: XenbusState = XenbusState.CONNECTED,
) -> NetFront:
    """Connect a frontend, and wait until packets get through the bridge."""
    offers = OFFLOADS if offers is None else offers
    front = NetFront(guest, device, split=split, offers=offers, queues=queues).connect(state)
    run(guest.driver, FORWARDS, guest.name(device))
    return front


@contextmanager
def connected(
    guest: FrontendDomain,
    *,
    bridge: str | None = None,
    split: bool = True,
    offers: dict[str, int] | None = None,
    queues: int = 1,
    mtu: int = 1500,
    features: NetFeatures = DEFAULTS,
) -> Iterator[NetFront]:
    """A card and a frontend that uses it; in the end the backend must let go of all the frontend gave it."""
    with card(guest, bridge=bridge, mtu=mtu, features=features) as device:
        front = connect(guest, device, split=split, offers=offers, queues=queues)
        yield front
        front.close()


def next_packet(front: NetFront, kind: int) -> Received:
    """The next packet of an Ethernet type; others the driver domain sends by itself."""
    while True:
        received = front.receive()
        if received.data[12:14] == struct.pack(">H", kind):
            return received
        front.post(received.frames)


def works(front: NetFront, peer: NetFront) -> None:
    """Exchange a packet each way."""
    for sender, receiver in ((front, peer), (peer, front)):
        receiver.post(range(1))
        packet = ethernet(os.urandom(100), 0x88B5, MAC, BROADCAST)
        assert sender.send(packet) == [Status.OKAY]
        assert next_packet(receiver, 0x88B5).data == packet
