"""Nodes, paths, permissions: what one client asks for at a time."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.store.core import Store
from harness.store.errors import StoreError
from harness.store.paths import ABSOLUTE_MAX, RELATIVE_MAX, resolve
from harness.store.permissions import Permission, Requester, access_of
from harness.store.wire import PAYLOAD_MAX, Op, split
from tests.unit.store_peers import Peer, small_store


@pytest.mark.parametrize(
    "path",
    [
        *("", "//", "/a//b", "/a/", "/local/domain/", "a/", "/a b", "/a.b", "/é", "/a\n", "/a\0", "@releaseDomain"),
        *("/" + "x" * ABSOLUTE_MAX, "x" * (RELATIVE_MAX + 1)),
    ],
)
def test_what_is_no_path_is_refused_by_every_operation(tool: Peer, path: str) -> None:
    for operation in (Op.READ, Op.DIRECTORY, Op.MKDIR, Op.RM):
        assert tool.refused(operation, path) == "EINVAL"
    if "\0" not in path:
        assert tool.refused(Op.WRITE, path, raw=b"x") == "EINVAL"


def test_the_longest_paths_are_good(tool: Peer) -> None:
    tool.write("x" * RELATIVE_MAX, "relative")
    assert tool.read("/local/domain/0/" + "x" * RELATIVE_MAX) == b"relative"
    tool.write("/" + "x" * (ABSOLUTE_MAX - 1), "absolute")
    assert tool.read("/" + "x" * (ABSOLUTE_MAX - 1)) == b"absolute"


def test_relative_paths_start_at_the_home_of_who_asks(tool: Peer, domain_5: Peer) -> None:
    domain_5.write("data/mine", "1")
    tool.write("rel/x", "2")
    assert tool.read("/local/domain/5/data/mine") == b"1"
    assert tool.read("/local/domain/0/rel/x") == b"2"
    assert domain_5.read("data/mine") == b"1"


@given(st.binary(max_size=40))
def test_any_bytes_are_a_path_or_refused(raw: bytes) -> None:
    refused = None
    try:
        path = resolve(raw, 3, special=True)
    except StoreError as error:
        refused = error.name
    else:
        assert path.startswith(("/", "@"))
        assert "//" not in path
        assert path == "/" or not path.endswith("/")
    assert refused in ("EINVAL", None)


def test_writing_creates_parents_and_reading_gives_the_bytes_back(tool: Peer) -> None:
    assert tool.ask(Op.WRITE, "/a/b/c", raw=b"\0\xff\0") == b"OK\0"
    assert tool.read("/a/b/c") == b"\0\xff\0"
    assert tool.read("/a/b") == b""
    assert tool.directory("/a") == ["b"]
    tool.write("/a/b", "value and children")
    assert tool.directory("/a/b") == ["c"]


def test_children_are_listed_in_the_order_of_their_creation(tool: Peer) -> None:
    for name in ("z", "a", "m"):
        tool.write(f"/d/{name}")
    tool.rm("/d/a")
    tool.write("/d/a")
    assert tool.directory("/d") == ["z", "m", "a"]


def test_mkdir_leaves_what_exists_alone(tool: Peer) -> None:
    tool.write("/a", "kept")
    tool.ask(Op.MKDIR, "/a")
    tool.ask(Op.MKDIR, "/b/c")
    assert (tool.read("/a"), tool.read("/b/c")) == (b"kept", b"")


def test_rm_is_recursive_and_forgiving_about_the_last_step_only(tool: Peer) -> None:
    tool.write("/a/b/c/d")
    tool.rm("/a/b")
    tool.rm("/a/b")
    assert tool.directory("/a") == []
    assert tool.refused(Op.READ, "/a/b/c/d") == "ENOENT"
    assert tool.refused(Op.RM, "/a/b/c") == "ENOENT"
    assert tool.refused(Op.RM, "/") == "EINVAL"


def test_a_tree_deeper_than_any_stack_is_removed(tool: Peer) -> None:
    path = "/" + "/".join("d" for _ in range(ABSOLUTE_MAX // 2))
    tool.write(path, "bottom")
    tool.rm("/d")
    assert tool.refused(Op.DIRECTORY, "/d") == "ENOENT"


def test_a_listing_that_fits_into_no_message_is_read_in_parts(tool: Peer) -> None:
    names = [f"a-rather-long-name-{number}" for number in range(500)]
    for name in names:
        tool.write(f"/long/{name}")
    assert tool.refused(Op.DIRECTORY, "/long") == "E2BIG"
    listing, generations = b"", set()
    while not listing.endswith(b"\0\0"):
        piece = tool.ask(Op.DIRECTORY_PART, "/long", str(len(listing)))
        assert len(piece) <= PAYLOAD_MAX
        generation, _, rest = piece.partition(b"\0")
        generations.add(generation)
        listing += rest
    assert [name.decode() for name in split(listing[:-1])] == names
    tool.write("/long/another")
    changed, _, end = tool.ask(Op.DIRECTORY_PART, "/long", str(len(listing) + 100)).partition(b"\0")
    assert changed not in generations
    assert end == b"\0"


@pytest.mark.parametrize(
    ("operation", "payload"),
    [
        (Op.READ, b""),
        (Op.READ, b"/a"),
        (Op.READ, b"/a\0/b\0"),
        (Op.WRITE, b"/a"),
        (Op.WRITE, b""),
        (Op.SET_PERMS, b"/a\0"),
        (Op.SET_PERMS, b"/a\0x1\0"),
        (Op.SET_PERMS, b"/a\0n\0"),
        (Op.SET_PERMS, b"/a\0n32752\0"),
        (Op.SET_PERMS, b"/a\0n-1\0"),
        (Op.WATCH, b"/a\0"),
        (Op.WATCH, b"/a\0t\0many\0"),
        (Op.WATCH, b"/a\0t\0001\0001\0"),
        (Op.TRANSACTION_END, b"X\0"),
        (Op.INTRODUCE, b"1\0002\0"),
        (Op.INTRODUCE, b"one\0002\0003\0"),
        (Op.INTRODUCE, b"99999\0002\0003\0"),
        (Op.RELEASE, b"\0"),
        (Op.GET_DOMAIN_PATH, b"\xff\0"),
        (Op.DIRECTORY_PART, b"/\0-1\0"),
        (Op.CONTROL, b"explode\0"),
    ],
)
def test_a_malformed_request_is_an_error_and_nothing_else(tool: Peer, operation: Op, payload: bytes) -> None:
    tool.write("/a", "1")
    assert tool.refused(operation, raw=payload) == "EINVAL"
    assert tool.read("/a") == b"1"


@given(st.integers(0, 0xFFFFFFFF), st.integers(0, 3), st.binary(max_size=60))
def test_any_request_of_a_domain_is_answered_and_changes_nothing_elsewhere(
    operation: int, transaction: int, payload: bytes
) -> None:
    store = small_store()
    guest = Peer.domain(store, 5)
    before = Peer.tool(store).directory("/")
    guest.transaction = transaction
    refused = None
    try:
        guest.ask(operation, raw=payload)
    except StoreError as error:
        refused = error.name
    assert refused != "EIO"
    assert Peer.tool(store).directory("/") == before


@pytest.mark.parametrize("operation", [20, 27, 65535, Op.WATCH_EVENT, Op.ERROR])
def test_unknown_operations_are_not_implemented(tool: Peer, operation: int) -> None:
    assert tool.refused(operation, "/") == "ENOSYS"


# ---- permissions ----


@pytest.mark.parametrize(
    ("entries", "asker", "read", "write"),
    [
        ("n0", 5, False, False),
        ("r0", 5, True, False),
        ("w0", 5, False, True),
        ("b0", 5, True, True),
        ("n5", 5, True, True),
        ("n0 r5", 5, True, False),
        ("b0 n5", 5, False, False),
        ("n0 r5 b5", 5, True, False),
        ("n0 b6", 5, False, False),
        ("n0", 0, True, True),
    ],
)
def test_who_may_do_what(store: Store, tool: Peer, entries: str, asker: int, read: bool, write: bool) -> None:
    tool.write("/node", "secret")
    tool.set_perms("/node", *entries.split())
    peer = Peer.domain(store, asker) if asker else tool
    assert _outcome(peer, Op.READ) == (b"secret" if read else "EACCES")
    assert _outcome(peer, Op.WRITE) == (b"OK\0" if write else "EACCES")


def _outcome(peer: Peer, operation: Op) -> bytes | str:
    try:
        return peer.ask(operation, "/node")
    except StoreError as error:
        return error.name


def test_a_new_node_has_its_parents_permissions_but_its_creators_domain_owns_it(tool: Peer, domain_5: Peer) -> None:
    tool.write("/shared")
    tool.set_perms("/shared", "n0", "b5", "r7")
    tool.write("/shared/by-tool/x")
    domain_5.write("/shared/by-guest/x")
    assert tool.perms("/shared/by-tool/x") == ["n0", "b5", "r7"]
    assert tool.perms("/shared/by-guest") == tool.perms("/shared/by-guest/x") == ["n5", "b5", "r7"]


def test_existence_is_not_told_to_those_who_may_not_read_the_parent(tool: Peer, domain_5: Peer) -> None:
    tool.write("/hidden/node")
    assert domain_5.refused(Op.READ, "/hidden/node") == "EACCES"
    assert domain_5.refused(Op.READ, "/hidden/nothing") == "EACCES"
    tool.set_perms("/hidden", "r0")
    assert domain_5.refused(Op.READ, "/hidden/nothing") == "ENOENT"
    assert domain_5.refused(Op.RM, "/hidden/nothing") == "EACCES"


def test_only_the_owner_sets_permissions_and_only_domain_0_gives_a_node_away(tool: Peer, domain_5: Peer) -> None:
    domain_5.write("data/mine", "1")
    domain_5.set_perms("data/mine", "n5", "r0", "b6")
    assert domain_5.perms("data/mine") == ["n5", "r0", "b6"]
    assert domain_5.refused(Op.SET_PERMS, "data/mine", "n6") == "EPERM"
    assert domain_5.refused(Op.SET_PERMS, "/local/domain/5", "n5") == "EACCES"
    tool.set_perms("/local/domain/5/data/mine", "n6")
    assert domain_5.refused(Op.READ, "data/mine") == "EACCES"


def test_a_domain_with_a_target_has_its_rights_too(store: Store, tool: Peer, domain_5: Peer) -> None:
    domain_5.write("data/mine", "1")
    device_model = Peer.domain(store, 6)
    assert device_model.refused(Op.READ, "/local/domain/5/data/mine") == "EACCES"
    tool.ask(Op.SET_TARGET, "6", "5")
    assert device_model.read("/local/domain/5/data/mine") == b"1"


@pytest.mark.parametrize(
    ("operation", "arguments"),
    [
        (Op.CONTROL, ["help"]),
        (Op.INTRODUCE, ["9", "1", "1"]),
        (Op.RELEASE, ["5"]),
        (Op.RESUME, ["5"]),
        (Op.SET_TARGET, ["5", "5"]),
        (Op.IS_DOMAIN_INTRODUCED, ["5"]),
    ],
)
def test_what_only_domain_0_may_do(domain_5: Peer, operation: Op, arguments: list[str]) -> None:
    assert domain_5.refused(operation, *arguments) == "EACCES"


@given(st.integers(0, 0x7FEF), st.sampled_from("nrwb"))
def test_permissions_are_printed_as_they_are_read(domid: int, letter: str) -> None:
    text = f"{letter}{domid}"
    assert str(Permission.parse(text.encode())) == text


def test_the_first_matching_entry_decides() -> None:
    permissions = tuple(Permission.parse(text) for text in (b"b1", b"n2", b"b2"))
    assert not access_of(Requester(2), permissions)


def test_a_mistake_in_the_server_is_an_error_to_one_client(
    tool: Peer, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def broken(*_arguments: object) -> bytes:
        raise KeyError("a mistake")

    with monkeypatch.context() as patch:
        patch.setattr(tool.store.tree, "read", broken)
        assert tool.refused(Op.READ, "/tool") == "EIO"
    assert "a mistake" in capsys.readouterr().err
    assert tool.read("/tool") == b""
