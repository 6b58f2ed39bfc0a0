"""What one domain cannot do to the others by using too much. Domain 0 has no limits."""

from __future__ import annotations

import pytest

from harness.store.core import Store
from harness.store.quotas import Quota
from harness.store.wire import Message, Op, split, strings
from tests.unit.store_peers import Peer, small_store

QUOTA = Quota(
    nodes=10,
    node_size=200,
    path_max=40,
    node_permissions=3,
    watches=4,
    transactions=2,
    transaction_nodes=6,
    outstanding=3,
    memory=0,
)


@pytest.fixture
def store() -> Store:
    return small_store(QUOTA)


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
    for number in range(4):
        guest.watch("d", str(number))
    guest.begin().write("d/0", "x")
    tool.ask(Op.RELEASE, "5")
    assert (store.tree.owned_by(5), store.accounts.memory[5], store.tree.open_transactions) == (0, 0, 0)
    successor = Peer.domain(store, 5)
    tool.write("/local/domain/5/d")
    tool.set_perms("/local/domain/5/d", "n5")
    for number in range(9):
        successor.write(f"d/{number}")
    for number in range(4):
        successor.watch("d", str(number))


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
    assert guest.refused(Op.WATCH, "d", "4") == "ENOSPC"
    assert guest.refused(Op.WATCH, "d", "0") == "EEXIST"
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


def test_a_transaction_that_touches_too_much_can_only_be_aborted(guest: Peer) -> None:
    transaction = guest.begin()
    for number in range(5):
        transaction.write(f"d/{number}")
    assert transaction.refused(Op.WRITE, "d/5") == "ENOSPC"
    assert transaction.refused(Op.TRANSACTION_END, "T") == "ENOMEM"
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


# ---- memory ----


def test_memory_of_nodes_watches_and_transactions_together(store: Store, tool: Peer, guest: Peer) -> None:
    for name, value in (("memory", "4000"), ("node-size", "0"), ("transaction-nodes", "0")):
        tool.ask(Op.SET_QUOTA, "5", name, value)
    guest.write("d/x", "v" * 1500)
    guest.watch("d", "w" * 500)
    assert guest.refused(Op.WRITE, "d/y", raw=b"v" * 1900) == "ENOMEM"
    assert guest.refused(Op.WATCH, "d", "w" * 1900) == "ENOMEM"
    transaction = guest.begin()
    transaction.write("d/x", "v" * 100)
    transaction.write("d/y", "v" * 600)
    assert transaction.refused(Op.WRITE, "d/z", raw=b"v" * 600) == "ENOMEM"
    transaction.end(commit=False)
    guest.ask(Op.UNWATCH, "d", "w" * 500)
    guest.write("d/y", "v" * 1900)
    guest.rm("d/x")
    guest.rm("d/y")
    assert store.accounts.memory[5] < 200
    tool.write("/local/domain/5/big", "v" * 4000)


def test_who_uses_too_much_memory_is_not_listened_to(store: Store, tool: Peer, guest: Peer) -> None:
    guest.write("d/x", "v" * 100)
    guest.connection.decoder.feed(Message(Op.READ, 1, 0, strings("d")).pack())
    tool.ask(Op.SET_QUOTA, "5", "memory", "100")
    assert guest.connection.next_message() is None
    tool.ask(Op.SET_QUOTA, "5", "memory", "1000")
    assert guest.connection.next_message() is not None


def test_coming_near_the_limit_of_memory_is_logged_once(
    tool: Peer, guest: Peer, capsys: pytest.CaptureFixture[str]
) -> None:
    tool.ask(Op.SET_QUOTA, "5", "soft-memory", "300")
    for number in range(9):
        guest.write(f"d/{number}", "x" * 50)
        assert not guest.connection.full
    log = capsys.readouterr().err
    assert log.count("domain 5 uses") == 1


# ---- quotas that change ----


def test_quotas_are_named_read_and_set(tool: Peer, guest: Peer) -> None:
    names = split(tool.ask(Op.GET_QUOTA))[0].decode().split()
    assert {"nodes", "watches", "transactions", "node-size", "node-permissions", "memory", "soft-memory"} <= set(names)
    assert tool.ask(Op.GET_QUOTA, "nodes") == tool.ask(Op.GET_QUOTA, "5", "nodes") == b"10\0"
    assert tool.ask(Op.SET_QUOTA, "nodes", "20") == b"OK\0"
    # What is there already keeps what it was given.
    assert (tool.ask(Op.GET_QUOTA, "nodes"), tool.ask(Op.GET_QUOTA, "5", "nodes")) == (b"20\0", b"10\0")
    tool.ask(Op.SET_QUOTA, "5", "nodes", "2")
    guest.write("d/1")
    assert guest.refused(Op.WRITE, "d/2") == "ENOSPC"
    tool.ask(Op.SET_QUOTA, "5", "nodes", "0")
    for number in range(30):
        guest.write(f"d/{number}")
    for wrong in (["7nodes"], ["5", "no-such"], ["nodes", "x", "1", "2"], ["soft-nodes"]):
        assert tool.refused(Op.GET_QUOTA, *wrong) == "EINVAL"
        assert tool.refused(Op.SET_QUOTA, *wrong, "1") == "EINVAL"
    for operation in (Op.GET_QUOTA, Op.SET_QUOTA):
        assert guest.refused(operation, "5", "nodes", "1") == "EACCES"


def test_a_quota_ends_with_its_domain(store: Store, tool: Peer, guest: Peer) -> None:
    tool.ask(Op.SET_QUOTA, "5", "watches", "1")
    tool.ask(Op.RELEASE, "5")
    assert tool.ask(Op.GET_QUOTA, "5", "watches") == b"4\0"


def test_the_quota_of_a_domain_can_be_set_before_it_comes(store: Store, tool: Peer) -> None:
    tool.ask(Op.SET_QUOTA, "6", "transactions", "1")
    domain = Peer.domain(store, 6)
    domain.begin()
    assert domain.refused(Op.TRANSACTION_START, "") == "ENOSPC"
