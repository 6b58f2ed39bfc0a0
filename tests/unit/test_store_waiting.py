"""Clients that do not take what they are sent, and domains that let nobody else come to an end."""

from __future__ import annotations

import pytest

from harness.store.connection import EVENT_SECONDS
from harness.store.core import Store
from harness.store.quotas import Quota
from harness.store.wire import Decoder, Message, Op, strings
from tests.unit.store_peers import Clock, Peer, small_store

QUOTA = Quota(outstanding=3)


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def store(clock: Clock) -> Store:
    return small_store(QUOTA, clock)


@pytest.fixture
def guest(store: Store, tool: Peer) -> Peer:
    """Domain 5, which owns one node."""
    tool.write("/local/domain/5/d")
    tool.set_perms("/local/domain/5/d", "n5")
    return Peer.domain(store, 5)


def test_requests_wait_while_answers_are_not_taken(guest: Peer) -> None:
    connection = guest.connection
    connection.decoder.feed(Message(Op.READ, 1, 0, strings("d")).pack() * 5)
    handled = guest.serve()
    assert handled == QUOTA.outstanding
    assert not connection.has_work
    connection.output.sent(len(connection.output.head()))
    assert connection.has_work


def test_a_request_is_outstanding_until_others_have_taken_the_events_it_caused(
    store: Store, tool: Peer, guest: Peer
) -> None:
    watcher = Peer.tool(store)
    watcher.watch("/local/domain/5/d", "t")
    connection = guest.connection
    for number in range(5):
        connection.decoder.feed(Message(Op.WRITE, 1, 0, strings(f"d/{number}")).pack())
    assert guest.serve() == QUOTA.outstanding
    assert len(guest.receive()) == QUOTA.outstanding
    assert guest.serve() == 0
    assert [path for path, _ in watcher.heard()] == [f"/local/domain/5/d/{number}" for number in range(3)]
    assert guest.serve() == 2
    # Nor does it matter that the watcher goes without having taken them.
    store.disconnect(watcher.connection)
    guest.receive()
    assert connection.outstanding == 0


def test_events_that_nobody_takes_are_dropped_when_there_is_no_room(tool: Peer, guest: Peer) -> None:
    tool.ask(Op.SET_QUOTA, "5", "memory", "600")
    tool.write("/public")
    tool.set_perms("/public", "r0")
    guest.watch("/public", "t")
    for number in range(100):
        tool.write(f"/public/{number}")
    told = guest.heard()
    assert 0 < len(told) < 20
    assert guest.connection.output.overflowed
    tool.write("/public/after")
    assert guest.heard() == [("/public/after", "t")]


def test_an_event_waits_for_twenty_seconds_and_no_longer(clock: Clock, tool: Peer, guest: Peer) -> None:
    guest.watch("d", "t")
    output = guest.connection.output
    tool.write("/local/domain/5/d/begun")
    guest.take(10)
    tool.write("/local/domain/5/d/late")
    clock.now += EVENT_SECONDS / 2
    tool.write("/local/domain/5/d/in-time")
    clock.now += EVENT_SECONDS / 2
    output.expire()
    assert guest.heard() == [("d/begun", "t"), ("d/in-time", "t")]


def test_answers_and_the_events_of_tools_wait_for_ever(clock: Clock, store: Store, tool: Peer, guest: Peer) -> None:
    tool.watch("/local/domain/5/d", "t")
    guest.connection.decoder.feed(Message(Op.WRITE, 1, 0, strings("d/x")).pack())
    guest.serve()
    clock.now += EVENT_SECONDS * 100
    for peer in (guest, tool):
        peer.connection.output.expire()
    assert len(guest.receive()) == 1
    assert tool.heard() == [("/local/domain/5/d/x", "t")]


def test_a_message_sent_in_pieces_stays_whole(guest: Peer) -> None:
    output = guest.connection.output
    output.event("/path", b"token")
    output.reply(Message(Op.READ, 1, 0, b"value"))
    sent = b""
    while len(output):
        sent += bytes(output.head()[:3])
        output.sent(len(output.head()[:3]))
    decoder = Decoder()
    decoder.feed(sent)
    assert decoder.next() == Message(Op.WATCH_EVENT, 0, 0, b"/path\0token\0")
    assert decoder.next() == Message(Op.READ, 1, 0, b"value")


# ---- the credit for conflicts ----


def test_who_changes_nodes_all_the_time_lets_the_transactions_of_others_end(
    clock: Clock, store: Store, tool: Peer, guest: Peer
) -> None:
    connection = guest.connection
    transaction = tool.begin()
    transaction.read("/local/domain/5/d")
    connection.decoder.feed(Message(Op.WRITE, 1, 0, strings("d")).pack() * 1000)
    handled = 0
    while not connection.full:
        handled += guest.serve()
        guest.receive()
    assert 0 < handled < 100
    # What it did not lose it gets back with time, but never much more than that.
    clock.now += 0.1
    assert 0 < guest.serve() < 50
    guest.receive()
    # Nobody is kept from anything by it, and it is kept from nothing else once there is no transaction.
    tool.write("/still", "works")
    transaction.end(commit=False)
    clock.now += 0.1
    done = 0
    while connection.has_work:
        done += guest.serve()
        guest.receive()
    assert done > 500


def test_reading_and_changing_in_a_transaction_of_ones_own_costs_nothing(store: Store, tool: Peer, guest: Peer) -> None:
    for _ in range(100):
        own = guest.begin()
        own.write("d/x", "1")
        own.end()
    tool.begin()
    for _ in range(1000):
        guest.read("d")
    assert not guest.connection.full
