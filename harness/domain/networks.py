"""A domain's network cards on the host: leases of addresses, and the guest's own configuration."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass

from harness.backend.network_client import Lease, NetworkClient
from harness.domain.definition import Network


@dataclass(frozen=True)
class AttachedNetwork:
    """A network card of the definition, with the MAC and the address it got.

    :param number: tells it from the other cards of the domain.
    """

    network: Network
    lease: Lease
    number: int


def attach(networks: Sequence[Network], stack: ExitStack) -> tuple[NetworkClient | None, list[AttachedNetwork]]:
    """Join the private network, if there is a card at all, and lease an address for each.

    :param stack: leaves it again.
    :raise HostError: this machine does not let us have a private network, or a MAC is in use.
    """
    if not networks:
        return None, []
    client = stack.enter_context(NetworkClient.connect())
    return client, [
        AttachedNetwork(network, client.lease(network.mac), number) for number, network in enumerate(networks)
    ]


# QEMU's NE2000 drops frames when its receive ring of eight is full, and does not say so. The stock driver takes nine
# frames per interrupt and then acknowledges; if the ring is full again by then, no interrupt will ever come, and the
# card is deaf until it is set down and up. A receive buffer of seven frames keeps TCP from filling the ring; without
# losses it is faster, too.
NE2000_RECEIVE_WINDOW = "echo 4096 16384 16384 >/proc/sys/net/ipv4/tcp_rmem\n"

CONFIGURE = """
for address in /sys/class/net/*/address; do
    if [ "$(cat "$address")" = "$1" ]; then
        card=${address%/address}
        card=${card##*/}
        ip address replace "$2" dev "$card" && exec ip link set "$card" up
        exit
    fi
done
echo "no network card has the address $1" >&2
exit 1
"""


BRIDGE = "br0"
"""A driver domain's bridge, whose ports are its first card and the cards of those that it serves."""

# The address of a bridge is by default the least of its ports', and changes as those come and go.
MAKE_BRIDGE = """
for address in /sys/class/net/*/address; do
    if [ "$(cat "$address")" = "$1" ]; then
        card=${address%/address}
        card=${card##*/}
        modprobe -q bridge
        brctl addbr "$3" && ip link set "$3" address "$1" && brctl addif "$3" "$card" &&
        ip link set "$card" up && ip address add "$2" dev "$3" && exec ip link set "$3" up
        exit
    fi
done
echo "no network card has the address $1" >&2
exit 1
"""


def bridge_configuration(one: AttachedNetwork, client: NetworkClient) -> list[str]:
    """The command that makes a card of a driver domain a port of its bridge, which gets the card's address."""
    return ["sh", "-c", MAKE_BRIDGE, "sh", one.lease.mac, f"{one.lease.address}/{client.prefix}", BRIDGE]


def configuration(one: AttachedNetwork, client: NetworkClient) -> list[str]:
    """The command that gives a guest's card its address: the card is known by its MAC."""
    script = NE2000_RECEIVE_WINDOW + CONFIGURE if one.network.model == "ne2000" else CONFIGURE
    return ["sh", "-c", script, "sh", one.lease.mac, f"{one.lease.address}/{client.prefix}"]
