"""Domains that do their worst over the ring page: each of these costs them alone."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from harness.store.paths import ABSOLUTE_MAX
from harness.store.ring import FEATURE_ERROR, FEATURE_RECONNECTION, RING_SIZE, RingFault
from harness.store.wire import HEADER, PAYLOAD_MAX, Op
from tests.unit.linkends import DOMID, Ends, ends_of_a_link
from tests.unit.store_guest import CONNECTION, ERROR, REQ_PROD, RSP_PROD, SERVER_FEATURES, Guest, Rig, request, rig_for
from tests.unit.store_peers import Clock, Peer

OTHER = DOMID + 1


@pytest.fixture
def ends() -> Iterator[Ends]:
    with ends_of_a_link() as it:
        yield it


@pytest.fixture
def rig(ends: Ends) -> Iterator[Rig]:
    """A store with the hostile domain and a good one."""
    with rig_for(ends) as it:
        yield it


@pytest.fixture
def tool(rig: Rig) -> Iterator[Peer]:
    """A process of Domain 0 that hears of every domain's end, and in the end has heard of none."""
    tool = Peer.tool(rig.store)
    tool.watch("@releaseDomain", "gone")
    home = f"/local/domain/{DOMID}"
    tool.write(f"{home}/own")
    tool.set_perms(f"{home}/own", f"n{DOMID}")
    yield tool
    assert tool.heard() == []
    tool.write("/still", "works")
    assert tool.read("/still") == b"works"
    assert tool.ask(Op.CONTROL, "check") == b"OK\0"


@pytest.fixture
def guest(ends: Ends, rig: Rig) -> Guest:
    return Guest(ends.guest.frame(ends.guest.layout.store_frame))


def payloads(rig: Rig, guest: Guest, *requests: bytes) -> list[bytes]:
    """What the store answers."""
    for one in requests:
        assert guest.send(one) == len(one)
    rig.settle()
    return [message.payload for message in guest.messages()]


@pytest.mark.parametrize("length", [PAYLOAD_MAX + 1, 0x7FFFFFFF, 0x80000000, 0xFFFFFFF0, 0xFFFFFFFF])
def test_a_length_that_cannot_be_ends_the_connection(rig: Rig, guest: Guest, tool: Peer, length: int) -> None:
    guest.send(request(Op.WATCH, "own", "t") + HEADER.pack(Op.WRITE, 2, 0, length) + b"own\0")
    rig.settle()
    assert guest.get(ERROR) == RingFault.PROTOCOL
    assert rig.store.watches.count(rig.store.domains[DOMID].connection) == 0
    # It lives on, and nothing of it is looked at until it begins anew.
    guest.receive()
    assert payloads(rig, guest, request(Op.READ, "own")) == []
    guest.set(CONNECTION, 1)
    rig.settle()
    assert payloads(rig, guest, request(Op.READ, "own")) == [b""]


def test_half_a_header_for_ever_is_waited_for_and_costs_nothing(rig: Rig, guest: Guest, tool: Peer) -> None:
    used = rig.store.accounts.memory[DOMID]
    guest.send(request(Op.READ, "own")[:15])
    for _ in range(100):
        rig.settle()
    assert not any(carrier.busy for carrier in rig.carriers)
    assert (guest.get(ERROR), rig.store.accounts.memory[DOMID]) == (0, used)
    assert payloads(rig, guest, request(Op.READ, "own")[15:]) == [b""]


def test_a_ring_that_was_given_up_is_not_worked_on(rig: Rig, guest: Guest, tool: Peer) -> None:
    guest.set(REQ_PROD, guest.get(REQ_PROD) + RING_SIZE + 1)
    rig.settle()
    assert guest.get(ERROR) == RingFault.RING_INDEX
    assert not any(carrier.busy for carrier in rig.carriers)
    produced = guest.get(RSP_PROD)
    tool.write(f"/local/domain/{DOMID}/own", "1")
    rig.settle()
    assert guest.get(RSP_PROD) == produced


def test_without_the_features_there_is_neither_error_nor_reconnection(ends: Ends) -> None:
    with rig_for(ends, features=0) as rig:
        guest = Guest(ends.guest.frame(ends.guest.layout.store_frame))
        assert not guest.get(SERVER_FEATURES) & (FEATURE_ERROR | FEATURE_RECONNECTION)
        guest.send(HEADER.pack(Op.WRITE, 2, 0, PAYLOAD_MAX + 1))
        rig.settle()
        guest.set(CONNECTION, 1)
        rig.settle()
        assert (guest.get(ERROR), guest.get(CONNECTION)) == (0, 1)
        assert payloads(rig, guest, request(Op.READ, "own")) == []


def test_a_domain_that_never_reads_uses_bounded_memory_and_hears_nothing_old(
    ends: Ends, rig: Rig, guest: Guest, tool: Peer
) -> None:
    tool.write("/public")
    tool.set_perms("/public", "r0")
    tool.ask(Op.SET_QUOTA, str(DOMID), "memory", "20000")
    guest.send(request(Op.WATCH, "/public", "t" * 100))
    rig.settle()
    for number in range(2000):
        tool.write(f"/public/{number}")
    rig.settle()
    assert rig.store.accounts.memory[DOMID] <= 20000
    assert 0 < len(rig.store.domains[DOMID].connection.output) < 200
    tool.heard()


def test_a_watch_on_the_root_leaks_no_paths(rig: Rig, guest: Guest, tool: Peer) -> None:
    assert payloads(rig, guest, request(Op.WATCH, "/", "all")) == [b"OK\0", b"/\0all\0"]
    tool.write("/secret/name-that-tells", "1")
    tool.write("/secret/name-that-tells", "2")
    tool.set_perms("/secret/name-that-tells", "n0", "r9")
    transaction = tool.begin()
    transaction.write("/secret/another", "1")
    transaction.end()
    tool.rm("/secret")
    with ends_of_a_link(OTHER) as others:
        rig.introduce(others, OTHER)
        assert payloads(rig, guest) == []


@pytest.mark.parametrize("length", [PAYLOAD_MAX - 5, PAYLOAD_MAX - 6, PAYLOAD_MAX - 7])
def test_a_token_near_the_limit(rig: Rig, guest: Guest, tool: Peer, length: int) -> None:
    """The request fits, the event about a longer path does not: it is dropped."""
    message = request(Op.WATCH, "own", "t" * length)
    answers: list[bytes] = []
    while message:
        message = message[guest.send(message) :]
        rig.settle()
        answers += [one.payload for one in guest.messages()]
    while rig.store.domains[DOMID].connection.output:
        rig.settle()
        answers += [one.payload for one in guest.messages()]
    answers += [one.payload for one in guest.messages()]
    assert answers == [b"OK\0", b"own\0" + b"t" * length + b"\0"]
    tool.write(f"/local/domain/{DOMID}/own/longer", "1")
    assert payloads(rig, guest) == []


def test_resetting_inside_a_transaction(rig: Rig, guest: Guest, tool: Peer) -> None:
    (number,) = payloads(rig, guest, request(Op.TRANSACTION_START, ""))
    transaction = int(number.rstrip(b"\0"))
    inside = [
        request(Op.WRITE, "own/new", "", transaction=transaction),
        request(Op.RESET_WATCHES, "", transaction=transaction),
        request(Op.WRITE, "own/newer", "", transaction=transaction),
        request(Op.TRANSACTION_END, "T", transaction=transaction),
    ]
    assert payloads(rig, guest, *inside) == [b"OK\0", b"OK\0", b"ENOENT\0", b"ENOENT\0"]
    assert tool.directory(f"/local/domain/{DOMID}/own") == []
    assert rig.store.tree.open_transactions == 0


def test_creating_and_deleting_in_one_transaction(rig: Rig, guest: Guest, tool: Peer) -> None:
    owned = rig.store.tree.owned_by(DOMID)
    for _ in range(5):
        (number,) = payloads(rig, guest, request(Op.TRANSACTION_START, ""))
        transaction = int(number.rstrip(b"\0"))
        steps = [(Op.WRITE, "own/a/b"), (Op.RM, "own/a"), (Op.MKDIR, "own/a"), (Op.RM, "own/a"), (Op.RM, "own/a")]
        inside = [request(kind, path, transaction=transaction) for kind, path in steps]
        assert payloads(rig, guest, *inside, request(Op.TRANSACTION_END, "T", transaction=transaction)) == [b"OK\0"] * 6
    assert rig.store.tree.owned_by(DOMID) == owned


def test_a_deep_tree_of_a_domain_is_made_and_goes_with_it(ends: Ends, rig: Rig, guest: Guest, tool: Peer) -> None:
    deep = f"/local/domain/{DOMID}/own" + "/d" * 900
    assert len(deep) < ABSOLUTE_MAX
    message = request(Op.MKDIR, deep)
    while message:
        message = message[guest.send(message) :]
        rig.settle()
    assert [one.payload for one in guest.messages()] == [b"OK\0"]
    assert payloads(rig, guest, request(Op.MKDIR, "own" + "/e" * 200)) == [b"ENOSPC\0"]
    tool.ask(Op.RELEASE, str(DOMID))
    assert (rig.store.tree.owned_by(DOMID), rig.store.accounts.memory[DOMID]) == (0, 0)
    tool.heard()


def test_a_listing_that_is_too_long_is_an_error(rig: Rig, guest: Guest, tool: Peer) -> None:
    for number in range(500):
        tool.write(f"/many/a-long-name-{number}")
    tool.set_perms("/many", "r0")
    assert payloads(rig, guest, request(Op.DIRECTORY, "/many")) == [b"E2BIG\0"]


@pytest.mark.parametrize(
    "path", ["/local/domain/", "/local/domain//", "/local/domain/99999999999/x", "/local/domain/x"]
)
def test_paths_that_look_like_a_home_and_are_none(rig: Rig, guest: Guest, tool: Peer, path: str) -> None:
    (answer,) = payloads(rig, guest, request(Op.READ, path))
    assert answer in (b"EINVAL\0", b"EACCES\0")


def test_a_flood_of_changes_fills_nobody_elses_queue(ends: Ends, rig: Rig, guest: Guest, tool: Peer) -> None:
    """A tool that is slow to read is not overrun: the domain that causes the events waits for it."""
    slow = Peer.tool(rig.store)
    slow.watch(f"/local/domain/{DOMID}", "t")
    taken = 0
    for number in range(500):
        taken += guest.send(request(Op.WRITE, f"own/{number}")) > 0
        rig.settle()
        guest.messages()
    waiting = len(slow.connection.output)
    assert waiting == rig.store.accounts.default.outstanding
    assert len(slow.heard()) == waiting
    rig.settle()
    assert len(slow.connection.output) > 0


def test_events_that_wait_too_long_are_dropped_and_their_cause_may_go_on(ends: Ends) -> None:
    clock = Clock()
    with rig_for(ends, clock=clock) as rig:
        guest = Guest(ends.guest.frame(ends.guest.layout.store_frame))
        tool = Peer.tool(rig.store)
        tool.write("/public")
        tool.set_perms("/public", f"b{0}")
        with ends_of_a_link(OTHER) as others:
            rig.introduce(others, OTHER)
            sleeper = Guest(others.guest.frame(others.guest.layout.store_frame))
            sleeper.send(request(Op.WATCH, "/public", "t" * 200))
            rig.settle()
            answered = 0
            for number in range(100):
                guest.send(request(Op.WRITE, f"/public/{number}"))
                rig.settle()
                answered += len(guest.messages())
            assert answered < 100
            clock.now += 21
            rig.settle()
            assert len(guest.messages()) > 0
            assert sleeper.get(ERROR) == 0
