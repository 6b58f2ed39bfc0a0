"""Who is told of which change, and as what."""

from __future__ import annotations

import pytest

from harness.store.core import Store
from harness.store.wire import HEADER, PAYLOAD_MAX, Message, Op, strings
from tests.unit.store_peers import Peer


def test_a_watch_fires_at_once_and_then_for_its_node_and_all_below(tool: Peer, other: Peer) -> None:
    other.watch("/a/b", "token")
    for path in ("/a", "/a/b", "/a/b/c/d", "/a/bc", "/other"):
        tool.write(path, "1")
    tool.ask(Op.MKDIR, "/a/b/made")
    tool.ask(Op.MKDIR, "/a/b/made")
    tool.set_perms("/a/b", "r0")
    tool.rm("/a/b/c")
    assert other.heard() == [
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


def test_what_waits_already_is_not_queued_again(tool: Peer, other: Peer) -> None:
    other.watch("/a", "t")
    for value in range(5):
        tool.write("/a", str(value))
    assert other.heard() == [("/a", "t")]
    tool.write("/a", "again")
    assert other.heard() == [("/a", "t")]


def test_each_domain_that_comes_and_goes_is_told_of(tool: Peer, other: Peer) -> None:
    other.watch("@introduceDomain", "in", "1")
    other.watch("@releaseDomain", "out", "1")
    other.watch("@releaseDomain", "plain")
    other.watch("@releaseDomain/3", "only-3")
    for domid in ("3", "4"):
        tool.ask(Op.INTRODUCE, domid, "1", "1")
    for domid in ("4", "3"):
        tool.ask(Op.RELEASE, domid)
    assert other.heard() == [
        ("@introduceDomain/3", "in"),
        ("@introduceDomain/4", "in"),
        ("@releaseDomain/4", "out"),
        ("@releaseDomain", "plain"),
        ("@releaseDomain/3", "only-3"),
        ("@releaseDomain/3", "out"),
        ("@releaseDomain", "plain"),
    ]


def test_special_events_reach_unprivileged_domains_only_by_permission(store: Store, tool: Peer, domain_5: Peer) -> None:
    domain_5.watch("@introduceDomain", "t")
    Peer.domain(store, 6)
    assert domain_5.heard() == []
    assert domain_5.refused(Op.GET_PERMS, "@introduceDomain") == "EACCES"
    tool.set_perms("@introduceDomain", "n0", "r5")
    assert tool.perms("@introduceDomain") == ["n0", "r5"]
    domain_5.heard()
    Peer.domain(store, 7)
    assert domain_5.heard() == [("@introduceDomain", "t")]


@pytest.mark.parametrize(
    ("depth", "heard"),
    [("0", ["/a"]), ("1", ["/a", "/a/b"]), ("2", ["/a", "/a/b", "/a/b/c"])],
)
def test_depth_limits_what_is_told(tool: Peer, other: Peer, depth: str, heard: list[str]) -> None:
    other.watch("/a", "t", depth)
    for path in ("/a", "/a/b", "/a/b/c", "/a/b/c/d"):
        tool.write(path)
    assert other.heard() == [(path, "t") for path in heard]


def test_depth_counts_from_the_root_too(tool: Peer, other: Peer) -> None:
    other.watch("/", "t", "1")
    tool.write("/top")
    tool.write("/top/below")
    assert other.heard() == [("/top", "t")]


def test_a_relative_watch_is_told_relative_paths(tool: Peer, domain_5: Peer) -> None:
    domain_5.watch("data", "rel")
    domain_5.watch("/local/domain/5/data", "abs")
    tool.write("/local/domain/5/data/x")
    assert domain_5.heard() == [("data/x", "rel"), ("/local/domain/5/data/x", "abs")]
    domain_5.ask(Op.UNWATCH, "data", "rel")
    tool.write("/local/domain/5/data/y")
    assert domain_5.heard() == [("/local/domain/5/data/y", "abs")]


def test_removing_a_parent_is_told_once_to_each_watch(tool: Peer, other: Peer) -> None:
    tool.write("/a/b/c")
    tool.write("/a/b/d")
    for path in ("/a", "/a/b", "/a/b/c", "/a/b/c/none"):
        other.watch(path, path.rpartition("/")[2])
    tool.rm("/a/b")
    assert sorted(other.heard()) == [("/a/b", "a"), ("/a/b", "b"), ("/a/b/c", "c")]


def test_nobody_hears_of_nodes_that_they_may_not_read(tool: Peer, domain_5: Peer) -> None:
    domain_5.watch("/", "all")
    tool.write("/secret/node", "1")
    tool.rm("/secret/node")
    assert domain_5.heard() == []
    tool.set_perms("/secret", "r0")
    domain_5.heard()
    tool.write("/secret/told", "the parent may be read")
    assert domain_5.heard() == [("/secret/told", "all")]


def test_who_loses_a_permission_hears_of_that(tool: Peer, domain_5: Peer) -> None:
    tool.write("/closed")
    tool.write("/closed/node", "1")
    tool.set_perms("/closed/node", "n0", "r5")
    domain_5.watch("/closed/node", "t")
    tool.set_perms("/closed/node", "n0")
    assert domain_5.heard() == [("/closed/node", "t")]
    tool.write("/closed/node", "2")
    assert domain_5.heard() == []


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


def test_transactions_tell_nothing_until_they_are_committed(tool: Peer, other: Peer) -> None:
    other.watch("/a", "t")
    transaction = tool.begin()
    transaction.write("/a/b", "1")
    transaction.write("/a/b", "2")
    transaction.rm("/a/b")
    transaction.write("/a/b", "3")
    transaction.write("/a/c", "1")
    assert other.heard() == []
    transaction.end()
    assert other.heard() == [("/a/b", "t"), ("/a/c", "t")]
    aborted = tool.begin()
    aborted.write("/a/d", "1")
    aborted.end(commit=False)
    assert other.heard() == []


def test_reset_drops_watches_and_transactions_also_inside_one(tool: Peer, other: Peer) -> None:
    other.watch("/a", "t")
    transaction = other.begin()
    transaction.write("/a", "1")
    assert transaction.ask(Op.RESET_WATCHES, "") == b"OK\0"
    assert transaction.refused(Op.TRANSACTION_END, "T") == "ENOENT"
    tool.write("/a")
    assert other.heard() == []
    assert other.refused(Op.UNWATCH, "/a", "t") == "ENOENT"


def test_a_connection_that_ends_takes_its_watches_along(store: Store, tool: Peer, other: Peer) -> None:
    other.watch("/a", "t")
    store.disconnect(other.connection)
    tool.write("/a")
    assert not len(other.connection.output)
    assert store.watches.count(other.connection) == 0
