"""Each feature of a paravirtual network card, on and off: what the guest uses follows what the backend offers."""

from __future__ import annotations

import socket
from collections.abc import Mapping
from contextlib import closing, suppress
from dataclasses import replace

import pytest

from harness.bus.features import ALL_NET, NetFeatures
from harness.domain.definition import Network
from harness.domain.domain import Domain
from harness.hypervisor.layout import FRAME_SIZE
from harness.pytest_plugin.plugin import StartDomain
from harness.store.client import StoreClient
from tests.guest.cards import WAIT_FOR_LISTENER, counters, echo, features, interface, run, serve_echo, use
from tests.guest.conftest import named
from tests.guest.icmp import icmp

SG, TX4, TX6 = "scatter-gather", "tx-checksum-ipv4", "tx-checksum-ipv6"
TSO4, TSO6 = "tx-tcp-segmentation", "tx-tcp6-segmentation"

NOTHING = NetFeatures(
    sg=False, gso_tcpv4=False, gso_tcpv6=False, csum_offload=False, ipv6_csum_offload=False,
    split_event_channels=False, multicast_control=False, ctrl_ring=False, persistent=False,
)  # fmt: skip

DEFAULT, JUMBO, PLAIN, NO_SG, NO_GSO, NO_CSUM = range(6)
CARDS = {
    DEFAULT: Network("pv"),
    JUMBO: Network("pv", mtu=9000),
    PLAIN: Network("pv", features=NOTHING),
    NO_SG: Network("pv", features=replace(ALL_NET, sg=False)),
    NO_GSO: Network("pv", features=replace(ALL_NET, gso_tcpv4=False, gso_tcpv6=False)),
    NO_CSUM: Network("pv", features=replace(ALL_NET, csum_offload=False, ipv6_csum_offload=False)),
}
ALL = {SG, TX4, TX6, TSO4, TSO6}
"""Who cannot do one thing cannot do what builds on it either, by the rules of the network stack."""
USED = {
    DEFAULT: ALL,
    JUMBO: ALL,
    PLAIN: set(),
    NO_SG: {TX4, TX6},
    NO_GSO: {SG, TX4, TX6},
    NO_CSUM: {SG},
}

LENGTH = 2 << 20
FRAME = 1514
PING = 'ping -q -c 2 -W 5 -s "$2" "$1"'
FRAGMENTS = r"sed -n 's/^Ip: \([0-9].*\)/\1/p' /proc/net/snmp"

SILENT_PORT = 9
FLOOD = 400
"""More packets than a ring holds."""
HOARDED = 16 << 20
HOARD = """
echo "$1" >/proc/sys/net/core/rmem_max
echo 4096 "$1" "$1" >/proc/sys/net/ipv4/tcp_rmem
"""
"""Large buffers to receive in, for services that are started from now on."""


@pytest.fixture(scope="module")
def cards(request: pytest.FixtureRequest, start_domain_for_module: StartDomain) -> Domain:
    domain = start_domain_for_module(named("pv", request, networks=tuple(CARDS.values())))
    serve_echo(domain)
    return domain


def average(before: Mapping[str, int], after: Mapping[str, int], direction: str) -> float:
    """Bytes of a packet between the stack and the driver."""
    packets = after[f"{direction}_packets"] - before[f"{direction}_packets"]
    return (after[f"{direction}_bytes"] - before[f"{direction}_bytes"]) / packets


def transfer(domain: Domain, card: int) -> dict[str, float]:
    """Send bytes there and back; returns the average sizes of packets by direction."""
    before = counters(domain, card)
    echo(domain, card, LENGTH)
    after = counters(domain, card)
    for counter in ("tx_errors", "rx_errors"):
        assert after[counter] == before[counter]
    return {direction: average(before, after, direction) for direction in ("tx", "rx")}


@pytest.mark.parametrize("card", CARDS)
def test_data_is_intact_and_what_is_off_is_not_used(cards: Domain, card: int) -> None:
    name = use(cards, card)
    assert {feature for feature, on in features(cards, name).items() if on and feature in ALL} == USED[card]
    sizes = transfer(cards, card)
    for size in sizes.values():
        if TSO4 in USED[card]:
            assert size > 2 * FRAME
        else:
            assert size <= FRAME


@pytest.mark.parametrize("feature", ["tx", "sg", "tso"])
def test_the_guest_itself_can_switch_features_off(cards: Domain, feature: str) -> None:
    name = use(cards, DEFAULT)
    run(cards, 'ethtool -K "$1" "$2" off', name, feature)
    try:
        sizes = transfer(cards, DEFAULT)
    finally:
        run(cards, 'ethtool -K "$1" tx on sg on tso on', name)
    # What it sends, that is: what it takes has been agreed on before.
    assert sizes["tx"] <= FRAME
    assert sizes["rx"] > FRAME
    assert {feature for feature, on in features(cards, name).items() if on} >= ALL


def test_jumbo_frames_pass_the_bridge_in_one_piece(cards: Domain) -> None:
    name = use(cards, JUMBO)
    assert run(cards, 'cat "/sys/class/net/$1/mtu"', name).strip() == "9000"
    before = run(cards, FRAGMENTS).split()[12:]
    run(cards, PING, cards.network.host_address, "8000")
    with icmp(cards.network) as sender:
        payload = bytes(range(256)) * 32
        assert sender.ping(cards.addresses[JUMBO], payload) == payload
    assert run(cards, FRAGMENTS).split()[12:] == before


@pytest.mark.parametrize(("card", "largest"), [(DEFAULT, 1500), (JUMBO, 9000), (NO_SG, 1500)])
def test_the_mtu_is_what_the_way_to_the_bridge_takes(cards: Domain, card: int, largest: int) -> None:
    name = interface(cards, card)
    set_mtu = 'ip link set "$1" mtu "$2"'
    run(cards, set_mtu, name, "68")
    run(cards, set_mtu, name, str(largest))
    assert cards.execute(["sh", "-c", set_mtu, "sh", name, str(largest + 1)]).status != 0


def test_one_channel_serves_both_rings_when_they_are_not_to_be_split(cards: Domain) -> None:
    home = f"/local/domain/{cards.domid}/device/vif"
    with StoreClient.connect() as store:
        split, joint = (set(store.directory(f"{home}/{card}")) for card in (DEFAULT, PLAIN))
    assert split >= {"event-channel-tx", "event-channel-rx"}
    assert "event-channel" in joint
    assert not joint & {"event-channel-tx", "event-channel-rx"}


def test_received_frames_are_lent_to_the_stack_and_come_back(cards: Domain) -> None:
    use(cards, DEFAULT)
    before = counters(cards, DEFAULT)
    # More than there are frames, several times.
    for _ in range(4):
        echo(cards, DEFAULT, 8 << 20)
    after = counters(cards, DEFAULT)
    lent, copied = (after[name] - before[name] for name in ("rx_frames_lent", "rx_frames_copied"))
    assert lent > 4 * 1024
    assert copied < lent


def found_by_looking(domain: Domain, card: int) -> int:
    """How often an idle processor has found something in a card's rings."""
    name = f"vif-{domain.domid}-{card}-"
    lines = [line.split() for line in run(domain, "cat /sys/bus/pvbus/idle").splitlines()]
    return sum(int(line[2]) for line in lines if line[0].startswith(name))


def test_a_card_that_is_down_keeps_no_processor_busy(cards: Domain) -> None:
    use(cards, PLAIN)
    echo(cards, PLAIN, LENGTH)
    use(cards, DEFAULT)
    before = found_by_looking(cards, PLAIN)
    with closing(cards.network.socket(socket.AF_INET, socket.SOCK_DGRAM)) as sender:
        sender.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, socket.inet_aton(cards.network.host_address))
        for _ in range(FLOOD):
            sender.sendto(b"for nobody", ("239.1.2.3", SILENT_PORT))
    echo(cards, DEFAULT, LENGTH)
    assert found_by_looking(cards, PLAIN) <= before + 1
    use(cards, PLAIN)
    echo(cards, PLAIN, LENGTH)


def test_a_socket_that_nobody_reads_does_not_starve_the_others(cards: Domain) -> None:
    use(cards, DEFAULT)
    run(cards, HOARD, str(HOARDED))
    cards.start_service(["nc", "-ll", "-p", str(SILENT_PORT), "-e", "sleep", "1000"])
    run(cards, WAIT_FOR_LISTENER, str(SILENT_PORT))
    with cards.connect(SILENT_PORT, card=DEFAULT) as unread:
        # Until nothing more fits, for so long that all that is under way has arrived.
        unread.settimeout(1.0)
        with suppress(TimeoutError):
            unread.sendall(bytes(2 * HOARDED))
        before = counters(cards, DEFAULT)
        echo(cards, DEFAULT, LENGTH)
        after = counters(cards, DEFAULT)
    # All frames that could be lent are in that socket.
    assert after["rx_frames_copied"] - before["rx_frames_copied"] >= LENGTH // FRAME_SIZE
    assert after["rx_frames_lent"] == before["rx_frames_lent"]
    run(cards, "killall sleep")
    echo(cards, DEFAULT, LENGTH)
    assert counters(cards, DEFAULT)["rx_frames_lent"] > after["rx_frames_lent"]
