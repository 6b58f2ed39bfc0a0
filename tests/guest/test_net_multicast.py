"""Multicast: packets of groups that the guest has joined arrive, those of others are not even sent to it."""

from __future__ import annotations

import socket
from contextlib import closing
from dataclasses import replace

import pytest

from harness.bus.features import ALL_NET
from harness.domain.definition import Network
from harness.domain.domain import Domain
from harness.host.deadline import Deadline
from harness.pytest_plugin.plugin import StartDomain
from harness.store.client import StoreClient
from tests.guest.cards import ECHO_PORT, counters, echo, run, serve_echo, use
from tests.guest.conftest import named

CONTROLLED, FLOODED = 0, 1
ALL_HOSTS, STRANGER = "224.0.0.1", "239.1.2.3"
"""Every host is in the first group."""
PORT = 9
PACKETS = 20

FRAME = 1514
IPV6_BYTES = 2 << 20
IN_NAMESPACE = 'ip link set lo up; echo $$ >/tmp/namespace; exec nc -ll -p "$1" -e cat'
MOVE = """
until [ -s /tmp/namespace ]; do usleep 20000; done
ip link set "$1" netns "$(cat /tmp/namespace)"
nsenter -t "$(cat /tmp/namespace)" -n ip link set "$1" up
"""
"""Give a card to another network namespace, as if it were another guest's."""
LINK_LOCAL = r"""
until address=$($2 ip -6 address show dev "$1" scope link | grep inet6) && [ "$address" = "${address%tentative*}" ]; do
    usleep 50000
done
echo "$address" | sed 's|.*inet6 \(.*\)/.*|\1|'
"""
"""The address that an interface gives itself, when nobody else has turned out to have it."""
TRANSFER = """
head -c "$3" /dev/urandom >/tmp/sent
nc "$1" "$2" </tmp/sent >/tmp/received
cmp /tmp/sent /tmp/received
"""


@pytest.fixture(scope="module")
def guest(request: pytest.FixtureRequest, start_domain_for_module: StartDomain) -> Domain:
    cards = (Network("pv"), Network("pv", features=replace(ALL_NET, multicast_control=False)))
    domain = start_domain_for_module(named("pv", request, networks=cards))
    serve_echo(domain)
    return domain


def send(domain: Domain, group: str) -> None:
    """Send packets to a group from the host's end of the bridge."""
    with closing(domain.network.socket(socket.AF_INET, socket.SOCK_DGRAM)) as sender:
        interface = socket.inet_aton(domain.network.host_address)
        sender.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, interface)
        for _ in range(PACKETS):
            sender.sendto(b"for a group", (group, PORT))


def received(domain: Domain, card: int, group: str) -> int:
    """How many multicast packets more the card has got after some were sent to a group."""
    before = counters(domain, card)["rx_multicast"]
    send(domain, group)
    # What comes after them through the same ring has come after them.
    echo(domain, card, 1000)
    return counters(domain, card)["rx_multicast"] - before


def wait_for_request(domain: Domain, card: int, value: bytes) -> None:
    """Wait until the guest has asked for filtering (1) or for everything (0)."""
    path = f"/local/domain/{domain.domid}/device/vif/{card}/request-multicast-control"
    deadline = Deadline(10, f"{path} to be {value.decode()}")
    with StoreClient.connect() as store:
        store.watch(path, "request")
        while store.read(path) != value:
            store.read_event(deadline)


@pytest.mark.parametrize(("card", "expected"), [(CONTROLLED, False), (FLOODED, True)])
def test_packets_of_other_groups_are_filtered_by_the_backend(guest: Domain, card: int, expected: bool) -> None:
    use(guest, card)
    assert (received(guest, card, STRANGER) >= PACKETS) is expected
    assert received(guest, card, ALL_HOSTS) >= PACKETS


def test_a_guest_that_wants_everything_gets_it(guest: Domain) -> None:
    name = use(guest, CONTROLLED)
    wait_for_request(guest, CONTROLLED, b"1")
    run(guest, 'ifconfig "$1" allmulti', name)
    try:
        wait_for_request(guest, CONTROLLED, b"0")
        assert received(guest, CONTROLLED, STRANGER) >= PACKETS
    finally:
        run(guest, 'ifconfig "$1" -allmulti', name)
    wait_for_request(guest, CONTROLLED, b"1")
    assert received(guest, CONTROLLED, STRANGER) == 0


def test_a_list_that_is_too_long_for_the_backend_ends_the_filtering(guest: Domain) -> None:
    name = use(guest, CONTROLLED)
    many = 'for i in $(seq 100); do ip -6 address "$2" fd00:6861:726e::1:$i/64 dev "$1"; done'
    run(guest, many, name, "add")
    wait_for_request(guest, CONTROLLED, b"0")
    assert received(guest, CONTROLLED, STRANGER) >= PACKETS


def test_ipv6_works_though_neighbours_are_asked_for_by_multicast(guest: Domain) -> None:
    other, name = use(guest, FLOODED), use(guest, CONTROLLED)
    guest.start_service(["unshare", "-n", "sh", "-c", IN_NAMESPACE, "sh", str(ECHO_PORT)])
    run(guest, MOVE, other)
    inside = "nsenter -n -t " + run(guest, "cat /tmp/namespace").strip()
    address = run(guest, LINK_LOCAL, other, inside).strip()
    run(guest, LINK_LOCAL, name, "")
    before = counters(guest, CONTROLLED)
    run(guest, TRANSFER, f"{address}%{name}", str(ECHO_PORT), str(IPV6_BYTES))
    after = counters(guest, CONTROLLED)
    # Its segments are put off to the backend, and so are the backend's.
    for direction in ("tx", "rx"):
        packets, size = (after[f"{direction}_{what}"] - before[f"{direction}_{what}"] for what in ("packets", "bytes"))
        assert size / packets > FRAME
