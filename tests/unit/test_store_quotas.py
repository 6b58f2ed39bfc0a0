"""What one domain cannot do to the others by using too much. Domain 0 has no limits."""

from __future__ import annotations

import pytest

from harness.store.connection import Limits, Output
from harness.store.core import Store
from harness.store.quotas import Quota
from harness.store.wire import Decoder, Message, Op, strings
from tests.unit.store_peers import Peer, small_store

QUOTA = Quota(
    nodes=10,
    node_size=200,
    path=40,
    permissions=3,
    watches=4,
    transactions=2,
    transaction_nodes=6,
    outstanding=3,
    event_bytes=300,
)


@pytest.fixture
def store() -> Store:
    return small_store(QUOTA)


@pytest.fixture
def tool(store: Store) -> Peer:
    return Peer.tool(store)


@pytest.fixture
def guest(store: Store, tool: Peer) -> Peer:
    """Domain 5, which owns one node."""
    tool.write("/local/domain/5/d")
    tool.set_perms("/local/domain/5/d", "n5")
    return Peer.domain(store, 5)


def test_nodes(tool: Peer, guest: Peer) -> None:
    for number in range(8):
        guest.write(f"d/{number}")
    assert guest.refused(Op.WRITE, "d/x/y") == "ENOSPC"
    assert "x" not in guest.directory("d")
    guest.write("d/x")
    assert guest.refused(Op.MKDIR, "d/y") == "ENOSPC"
    guest.write("d/x", "what exists can still be changed")
    guest.rm("d/0")
    guest.write("d/y")
    tool.write("/local/domain/5/d/by-domain-0")


def test_nodes_are_counted_for_who_owns_them(tool: Peer, guest: Peer) -> None:
    for number in range(9):
        guest.write(f"d/{number}")
    tool.set_perms("/local/domain/5/d/0", "n6")
    guest.write("d/another")
    assert guest.refused(Op.WRITE, "d/yet-another") == "ENOSPC"


def test_a_domid_that_is_used_again_starts_from_nothing(store: Store, tool: Peer, guest: Peer) -> None:
    for number in range(9):
        guest.write(f"d/{number}")
    tool.ask(Op.RELEASE, "5")
    assert store.tree.owned_by(5) == 0
    tool.write("/local/domain/5/d")
    tool.set_perms("/local/domain/5/d", "n5")
    Peer.domain(store, 5).write("d/new")


def test_node_size(tool: Peer, guest: Peer) -> None:
    guest.write("d/x", "y" * 150)
    assert guest.refused(Op.WRITE, "d/x", raw=b"y" * 200) == "ENOSPC"
    assert guest.refused(Op.WRITE, "d/new", raw=b"y" * 200) == "ENOSPC"
    assert guest.directory("d") == ["x"]
    tool.write("/big", "y" * 4000)


def test_names_of_children_count_as_size_of_their_parent(guest: Peer) -> None:
    for number in range(5):
        guest.write(f"d/{number}{'x' * 28}")
    assert guest.refused(Op.WRITE, f"d/6{'x' * 28}") == "ENOSPC"


def test_length_of_paths_does_not_count_the_home(tool: Peer, guest: Peer) -> None:
    guest.write("d/" + "x" * 38)
    assert guest.refused(Op.WRITE, "d/" + "x" * 39) == "EINVAL"
    tool.write("/" + "x" * 100)


def test_permissions_of_a_node(tool: Peer, guest: Peer) -> None:
    guest.set_perms("d", "n5", "r1", "r2")
    assert guest.refused(Op.SET_PERMS, "d", "n5", "r1", "r2", "r3") == "ENOSPC"
    tool.set_perms("/local/domain/5/d", "n5", "r1", "r2", "r3")


def test_watches(tool: Peer, guest: Peer) -> None:
    for number in range(4):
        guest.watch("d", str(number))
    assert guest.refused(Op.WATCH, "d", "4") == "E2BIG"
    guest.ask(Op.UNWATCH, "d", "0")
    guest.watch("d", "4")
    for number in range(10):
        tool.watch("/", str(number))


def test_transactions(tool: Peer, guest: Peer) -> None:
    first = guest.begin()
    guest.begin()
    assert guest.refused(Op.TRANSACTION_START, "") == "ENOSPC"
    assert first.refused(Op.TRANSACTION_START, "") == "EBUSY"
    first.end()
    guest.begin()
    for _ in range(5):
        tool.begin()


def test_a_transaction_that_touches_too_much_can_only_be_aborted(tool: Peer, guest: Peer) -> None:
    transaction = guest.begin()
    for number in range(5):
        transaction.write(f"d/{number}")
    assert transaction.refused(Op.WRITE, "d/5") == "ENOSPC"
    assert transaction.refused(Op.TRANSACTION_END, "T") == "ENOSPC"
    assert guest.directory("d") == []


def test_a_transaction_cannot_go_on_for_ever(guest: Peer) -> None:
    transaction = guest.begin()
    for number in range(6):
        transaction.write("d/x", str(number))
    assert transaction.refused(Op.WRITE, "d/x") == "ENOSPC"


def test_the_nodes_of_a_transaction_count(guest: Peer) -> None:
    for number in range(7):
        guest.write(f"d/{number}")
    transaction = guest.begin()
    transaction.write("d/a")
    transaction.write("d/b")
    assert transaction.refused(Op.WRITE, "d/c") == "ENOSPC"
    guest.write("d/meanwhile")
    assert transaction.refused(Op.TRANSACTION_END, "T") == "ENOSPC"
    assert guest.directory("d") == [*"0123456", "meanwhile"]


def test_requests_wait_while_answers_are_not_taken(guest: Peer) -> None:
    connection = guest.connection
    read = Message(Op.READ, 1, 0, strings("d")).pack()
    connection.decoder.feed(read * 5)
    handled = 0
    while (message := connection.next_message()) is not None:
        guest.store.handle(connection, message, [])
        handled += 1
    assert handled == QUOTA.outstanding
    assert not connection.has_work
    connection.output.sent(len(connection.output.head()))
    assert connection.has_work


def test_events_that_nobody_takes_are_dropped_when_there_is_no_room(tool: Peer, guest: Peer) -> None:
    guest.watch("d", "t")
    for number in range(100):
        tool.write(f"/local/domain/5/d/{number}")
    told = guest.heard()
    assert 0 < len(told) < 20
    assert guest.connection.output.overflowed
    tool.write("/local/domain/5/d/after")
    assert guest.heard() == [("d/after", "t")]


def test_a_message_sent_in_pieces_stays_whole() -> None:
    output = Output(Limits(replies=2, event_bytes=1000))
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
