"""Who is told of which change, and as what."""

from __future__ import annotations

import pytest

from harness.store.core import Store
from harness.store.wire import HEADER, PAYLOAD_MAX, Message, Op, strings
from tests.unit.store_peers import Peer, small_store


@pytest.fixture
def store() -> Store:
    return small_store()


@pytest.fixture
def tool(store: Store) -> Peer:
    return Peer.tool(store)


@pytest.fixture
def watcher(store: Store) -> Peer:
    return Peer.tool(store)


@pytest.fixture
def guest(store: Store, tool: Peer) -> Peer:
    tool.write("/local/domain/5/data")
    tool.set_perms("/local/domain/5", "n0", "r5")
    tool.set_perms("/local/domain/5/data", "n5")
    return Peer.domain(store, 5)


def test_a_watch_fires_at_once_and_then_for_its_node_and_all_below(tool: Peer, watcher: Peer) -> None:
    watcher.watch("/a/b", "token")
    for path in ("/a", "/a/b", "/a/b/c/d", "/a/bc", "/other"):
        tool.write(path, "1")
    tool.ask(Op.MKDIR, "/a/b/made")
    tool.ask(Op.MKDIR, "/a/b/made")
    tool.set_perms("/a/b", "r0")
    tool.rm("/a/b/c")
    assert watcher.heard() == [
        ("/a/b", "token"),
        ("/a/b/c/d", "token"),
        ("/a/b/made", "token"),
        ("/a/b/c", "token"),
    ]


def test_events_come_before_the_answer_but_the_first_one_after_it(tool: Peer) -> None:
    tool.store.handle(tool.connection, _watch_message("/a"), [])
    assert _types(tool) == [Op.WATCH, Op.WATCH_EVENT]
    tool.write("/a")
    tool.heard()
    tool.store.handle(tool.connection, _write_message("/a"), [])
    assert _types(tool) == [Op.WATCH_EVENT, Op.WRITE]


def _watch_message(path: str) -> Message:
    return Message(Op.WATCH, 1, 0, strings(path, "t"))


def _write_message(path: str) -> Message:
    return Message(Op.WRITE, 2, 0, strings(path))


def _types(peer: Peer) -> list[int]:
    output, types = peer.connection.output, []
    while len(output):
        head = bytes(output.head())
        types.append(HEADER.unpack_from(head)[0])
        output.sent(len(head))
    return types


def test_what_waits_already_is_not_queued_again(tool: Peer, watcher: Peer) -> None:
    watcher.watch("/a", "t")
    for value in range(5):
        tool.write("/a", str(value))
    assert watcher.heard() == [("/a", "t")]
    tool.write("/a", "again")
    assert watcher.heard() == [("/a", "t")]


def test_each_domain_that_comes_and_goes_is_told_of(tool: Peer, watcher: Peer) -> None:
    watcher.watch("@introduceDomain", "in", "1")
    watcher.watch("@releaseDomain", "out", "1")
    watcher.watch("@releaseDomain", "plain")
    watcher.watch("@releaseDomain/3", "only-3")
    for domid in ("3", "4"):
        tool.ask(Op.INTRODUCE, domid, "1", "1")
    for domid in ("4", "3"):
        tool.ask(Op.RELEASE, domid)
    assert watcher.heard() == [
        ("@introduceDomain/3", "in"),
        ("@introduceDomain/4", "in"),
        ("@releaseDomain/4", "out"),
        ("@releaseDomain", "plain"),
        ("@releaseDomain/3", "only-3"),
        ("@releaseDomain/3", "out"),
    ]


def test_special_events_reach_unprivileged_domains_only_by_permission(store: Store, tool: Peer, guest: Peer) -> None:
    guest.watch("@introduceDomain", "t")
    Peer.domain(store, 6)
    assert guest.heard() == []
    assert guest.refused(Op.GET_PERMS, "@introduceDomain") == "EACCES"
    tool.set_perms("@introduceDomain", "n0", "r5")
    assert tool.perms("@introduceDomain") == ["n0", "r5"]
    guest.heard()
    Peer.domain(store, 7)
    assert guest.heard() == [("@introduceDomain", "t")]


@pytest.mark.parametrize(
    ("depth", "heard"),
    [("0", ["/a"]), ("1", ["/a", "/a/b"]), ("2", ["/a", "/a/b", "/a/b/c"])],
)
def test_depth_limits_what_is_told(tool: Peer, watcher: Peer, depth: str, heard: list[str]) -> None:
    watcher.watch("/a", "t", depth)
    for path in ("/a", "/a/b", "/a/b/c", "/a/b/c/d"):
        tool.write(path)
    assert watcher.heard() == [(path, "t") for path in heard]


def test_depth_counts_from_the_root_too(tool: Peer, watcher: Peer) -> None:
    watcher.watch("/", "t", "1")
    tool.write("/top")
    tool.write("/top/below")
    assert watcher.heard() == [("/top", "t")]


def test_a_relative_watch_is_told_relative_paths(tool: Peer, guest: Peer) -> None:
    guest.watch("data", "rel")
    guest.watch("/local/domain/5/data", "abs")
    tool.write("/local/domain/5/data/x")
    assert guest.heard() == [("data/x", "rel"), ("/local/domain/5/data/x", "abs")]
    guest.ask(Op.UNWATCH, "data", "rel")
    tool.write("/local/domain/5/data/y")
    assert guest.heard() == [("/local/domain/5/data/y", "abs")]


def test_removing_a_parent_is_told_once_to_each_watch(tool: Peer, watcher: Peer) -> None:
    tool.write("/a/b/c")
    tool.write("/a/b/d")
    for path in ("/a", "/a/b", "/a/b/c", "/a/b/c/none"):
        watcher.watch(path, path.rpartition("/")[2])
    tool.rm("/a/b")
    assert sorted(watcher.heard()) == [("/a/b", "a"), ("/a/b", "b"), ("/a/b/c", "c")]


def test_nobody_hears_of_nodes_that_they_may_not_read(tool: Peer, guest: Peer) -> None:
    guest.watch("/", "all")
    tool.write("/secret/node", "1")
    tool.rm("/secret/node")
    assert guest.heard() == []
    tool.set_perms("/secret", "r0")
    guest.heard()
    tool.write("/secret/told", "the parent may be read")
    assert guest.heard() == [("/secret/told", "all")]


def test_who_loses_a_permission_hears_of_that(tool: Peer, guest: Peer) -> None:
    tool.write("/closed")
    tool.write("/closed/node", "1")
    tool.set_perms("/closed/node", "n0", "r5")
    guest.watch("/closed/node", "t")
    tool.set_perms("/closed/node", "n0")
    assert guest.heard() == [("/closed/node", "t")]
    tool.write("/closed/node", "2")
    assert guest.heard() == []


def test_the_same_watch_cannot_be_set_twice_nor_removed_twice(tool: Peer) -> None:
    tool.watch("/a", "t")
    tool.watch("/a", "u")
    assert tool.refused(Op.WATCH, "/a", "t") == "EEXIST"
    tool.ask(Op.UNWATCH, "/a", "t")
    assert tool.refused(Op.UNWATCH, "/a", "t") == "ENOENT"
    tool.write("/a")
    assert tool.heard() == [("/a", "u")]


def test_a_token_that_leaves_no_room_for_the_path_loses_its_events_only(tool: Peer) -> None:
    token = "t" * (PAYLOAD_MAX - 4)
    assert tool.ask(Op.WATCH, "/a", token) == b"OK\0"
    assert tool.heard() == [("/a", token)]
    tool.write("/a/longer")
    assert tool.heard() == []
    tool.write("/a")
    assert tool.heard() == [("/a", token)]


def test_transactions_tell_nothing_until_they_are_committed(tool: Peer, watcher: Peer) -> None:
    watcher.watch("/a", "t")
    transaction = tool.begin()
    transaction.write("/a/b", "1")
    transaction.write("/a/b", "2")
    transaction.rm("/a/b")
    transaction.write("/a/b", "3")
    transaction.write("/a/c", "1")
    assert watcher.heard() == []
    transaction.end()
    assert watcher.heard() == [("/a/b", "t"), ("/a/c", "t")]
    aborted = tool.begin()
    aborted.write("/a/d", "1")
    aborted.end(commit=False)
    assert watcher.heard() == []


def test_reset_drops_watches_and_transactions_also_inside_one(tool: Peer, watcher: Peer) -> None:
    watcher.watch("/a", "t")
    transaction = watcher.begin()
    transaction.write("/a", "1")
    assert transaction.ask(Op.RESET_WATCHES, "") == b"OK\0"
    assert transaction.refused(Op.TRANSACTION_END, "T") == "ENOENT"
    tool.write("/a")
    assert watcher.heard() == []
    assert watcher.refused(Op.UNWATCH, "/a", "t") == "ENOENT"


def test_a_connection_that_ends_takes_its_watches_along(store: Store, tool: Peer, watcher: Peer) -> None:
    watcher.watch("/a", "t")
    store.disconnect(watcher.connection)
    tool.write("/a")
    assert not len(watcher.connection.output)
    assert store.watches.count(watcher.connection) == 0
