"""Several queues: each has rings and event channels of its own, and all of them carry data, both ways."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack

import pytest

from harness.bus.features import NetFeatures
from harness.domain.definition import Network
from harness.domain.domain import Domain
from harness.pytest_plugin.plugin import StartDomain
from harness.store.client import StoreClient
from tests.guest.cards import ECHO_PORT, echo, per_queue, run, serve_echo, use
from tests.guest.conftest import named

TWO, ONE = 0, 1
CONNECTIONS = 12
"""So many that not all of them have the same hash, and with it the same queue."""


@pytest.fixture(scope="module")
def smp(request: pytest.FixtureRequest, start_domain_for_module: StartDomain) -> Domain:
    cards = (Network("pv"), Network("pv", features=NetFeatures(queues=1)))
    domain = start_domain_for_module(named("pv", request, vcpus=2, networks=cards))
    serve_echo(domain)
    return domain


def test_there_are_as_many_queues_as_both_ends_want(smp: Domain) -> None:
    home = f"/local/domain/{smp.domid}/device/vif"
    with StoreClient.connect() as store:
        assert store.read(f"{home}/{TWO}/multi-queue-num-queues") == b"2"
        for queue in range(2):
            nodes = set(store.directory(f"{home}/{TWO}/queue-{queue}"))
            assert nodes == {"tx-ring-ref", "rx-ring-ref", "event-channel-tx", "event-channel-rx"}
        assert "tx-ring-ref" not in store.directory(f"{home}/{TWO}")
        # One queue alone is described as by a frontend that knows of no more.
        assert store.read(f"{home}/{ONE}/multi-queue-num-queues") == b"1"
        assert "tx-ring-ref" in store.directory(f"{home}/{ONE}")
    for card, queues in ((TWO, 2), (ONE, 1)):
        channels = run(smp, 'ethtool -l "$1" | grep Combined', use(smp, card))
        assert channels.split() == ["Combined:", "2", "Combined:", str(queues)]


@pytest.mark.parametrize(("card", "queues"), [(TWO, 2), (ONE, 1)])
def test_connections_spread_over_all_queues_and_data_is_intact(smp: Domain, card: int, queues: int) -> None:
    use(smp, card)
    before = {counter: per_queue(smp, card, counter) for counter in ("tx_packets", "rx_packets")}
    with ExitStack() as stack, ThreadPoolExecutor(CONNECTIONS) as pool:
        # One after the other: the guest's listener lets only few wait.
        opened = [stack.enter_context(smp.connect(ECHO_PORT, card=card)) for _ in range(CONNECTIONS)]
        transfers = [
            pool.submit(echo, smp, card, 100_000 + number, connection=connection)
            for number, connection in enumerate(opened)
        ]
        for transfer in transfers:
            transfer.result()
    for counter, old in before.items():
        grown = [now - then for now, then in zip(per_queue(smp, card, counter), old, strict=True)]
        assert len(grown) == queues
        assert all(grown)
