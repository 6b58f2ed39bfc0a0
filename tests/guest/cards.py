"""Paravirtual network cards as a guest sees them: choosing one of several, their counters, and data through them."""

from __future__ import annotations

import random
import socket
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing

from harness.domain.domain import Domain

ECHO_PORT = 7
SECONDS = 30.0

USE = """
for card in /sys/class/net/eth*; do
    [ "${card##*/}" = "$1" ] || ip link set "${card##*/}" down
done
ip link set "$1" up
"""
"""All cards are in the same subnet: only one at a time may be up, or the guest answers through another."""

WAIT_FOR_LISTENER = 'until netstat -ltn | grep -q ":$1 "; do usleep 20000; done'


def run(domain: Domain, script: str, *arguments: str) -> str:
    """What a script in the guest prints; its arguments are $1 and so on."""
    return domain.execute(["sh", "-c", script, "sh", *arguments]).check().text


def node(domain: Domain, card: int) -> str:
    """The directory of a card's device on our bus, in the guest's sysfs."""
    return f"/sys/bus/pvbus/devices/vif-{domain.domid}-{card}"


def interface(domain: Domain, card: int) -> str:
    return run(domain, 'ls "$1/net"', node(domain, card)).strip()


def use(domain: Domain, card: int) -> str:
    """Have one card up, and all others down; returns the name of its interface."""
    name = interface(domain, card)
    run(domain, USE, name)
    return name


def counters(domain: Domain, card: int) -> Mapping[str, int]:
    """Of all queues of a card together."""
    total: dict[str, int] = {}
    for line in run(domain, 'cat "$1/statistics"', node(domain, card)).splitlines():
        name, value = line.split()
        counter = _counter(name)
        total[counter] = total.get(counter, 0) + int(value)
    return total


def _counter(name: str) -> str:
    """The counter of a line "queue-0/rx-packets 1", as ethtool calls it."""
    return name.partition("/")[2].replace("-", "_")


def per_queue(domain: Domain, card: int, counter: str) -> list[int]:
    """One counter of each queue."""
    lines = run(domain, 'cat "$1/statistics"', node(domain, card)).splitlines()
    return [int(line.split()[1]) for line in lines if _counter(line.split()[0]) == counter]


def features(domain: Domain, name: str) -> dict[str, bool]:
    """What ``ethtool -k`` says of an interface: which features are on."""
    lines = domain.execute(["ethtool", "-k", name]).check().text.splitlines()[1:]
    return {feature.strip(): state.split()[0] == "on" for feature, state in (line.split(":") for line in lines)}


def serve_echo(domain: Domain) -> None:
    """Have the guest send back whatever comes, on any number of connections."""
    domain.start_service(["nc", "-ll", "-p", str(ECHO_PORT), "-e", "cat"])
    run(domain, WAIT_FOR_LISTENER, str(ECHO_PORT))


def echo(domain: Domain, card: int, length: int, *, connection: socket.socket | None = None) -> None:
    """Send random bytes through a card and have them come back as they were.

    :param connection: a connection to the echo; default: a new one, closed at the end.
    """
    content = random.Random(length).randbytes(length)
    if connection is None:
        with closing(domain.connect(ECHO_PORT, card=card)) as opened:
            return echo(domain, card, length, connection=opened)
    connection.settimeout(SECONDS)
    received = bytearray()
    with ThreadPoolExecutor() as pool:
        sending = pool.submit(connection.sendall, content)
        while len(received) < length and (data := connection.recv(1 << 16)):
            received += data
        sending.result()
    assert received == content
    return None
