"""The backend dies while a network card is in use: the guest sees a pause, its connections and its settings stay.

And a backend that only does not answer any more: its card can be taken away all the same.
"""

from __future__ import annotations

import os
import signal
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing

import pytest

from harness.bus.devices import Device
from harness.bus.features import NetFeatures
from harness.bus.hotplug import take_away
from harness.domain.definition import Network
from harness.domain.domain import Domain
from harness.host.deadline import Deadline
from harness.pytest_plugin.plugin import StartDomain
from harness.store.client import StoreClient
from tests.guest.cards import ECHO_PORT, SECONDS, counters, echo, interface, run, serve_echo, use
from tests.guest.conftest import named

QUEUES, JOINT = 0, 1
CARDS = {QUEUES: Network("pv"), JOINT: Network("pv", features=NetFeatures(split_event_channels=False, queues=1))}
DEATHS = 2
PIECE = 50_000

WAIT_FOR_CARRIER = 'until [ "$(cat "/sys/class/net/$1/carrier")" = 1 ]; do usleep 20000; done'

WAIT_FOR_END = 'while [ -e "/sys/class/net/$1" ]; do usleep 20000; done'


@pytest.fixture(scope="module")
def guest(request: pytest.FixtureRequest, start_domain_for_module: StartDomain) -> Domain:
    domain = start_domain_for_module(named("pv", request, vcpus=2, networks=tuple(CARDS.values())))
    serve_echo(domain)
    return domain


def carrier_changes(domain: Domain, name: str) -> int:
    return int(run(domain, 'cat "/sys/class/net/$1/carrier_changes"', name))


def kill_backend(domain: Domain, name: str) -> None:
    """Kill the backend process, and wait until another one serves the card."""
    changes = carrier_changes(domain, name)
    os.kill(domain.parts.record.pids["backend"], signal.SIGKILL)
    deadline = Deadline(SECONDS, "the carrier to go and to come back")
    while carrier_changes(domain, name) < changes + 2:
        deadline.check()
    run(domain, WAIT_FOR_CARRIER, name)


@pytest.mark.parametrize("card", CARDS)
def test_connections_and_settings_outlive_the_backend(guest: Domain, card: int) -> None:
    name = use(guest, card)
    run(guest, 'ip link set "$1" mtu 1400; ethtool -K "$1" tso off', name)
    done = threading.Event()
    with closing(guest.connect(ECHO_PORT, card=card)) as connection, ThreadPoolExecutor() as pool:

        def talk() -> int:
            """Have data there and back all the time; returns how often."""
            rounds = 0
            while not done.is_set():
                echo(guest, card, PIECE + rounds, connection=connection)
                rounds += 1
            return rounds

        talking = pool.submit(talk)
        try:
            for _ in range(DEATHS):
                kill_backend(guest, name)
                before = counters(guest, card)
                echo(guest, card, PIECE)
                assert counters(guest, card)["rx_packets"] > before["rx_packets"]
        finally:
            done.set()
        assert talking.result() > 1
    assert run(guest, 'cat "/sys/class/net/$1/mtu"', name).strip() == "1400"
    assert "tcp-segmentation-offload: off" in run(guest, 'ethtool -k "$1"', name)


def test_a_card_can_be_taken_away_from_a_backend_that_does_not_answer(guest: Domain) -> None:
    name = interface(guest, JOINT)
    use(guest, QUEUES)
    backend = guest.parts.record.pids["backend"]
    os.kill(backend, signal.SIGSTOP)
    try:
        with StoreClient.connect() as store:
            take_away(store, Device("vif", guest.domid, JOINT))
        run(guest, WAIT_FOR_END, name)
    finally:
        os.kill(backend, signal.SIGCONT)
    echo(guest, QUEUES, PIECE)
