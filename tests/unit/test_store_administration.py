"""Domains that come and go, and what Domain 0 says about them: rights, features, commands of xenstore-control."""

from __future__ import annotations

import pytest

from harness.store.core import Store
from harness.store.permissions import ANY_DOMID
from harness.store.ring import FEATURE_ANY_DOMAIN, FEATURES
from harness.store.wire import Op, split
from tests.unit.store_peers import NoRing, Peer


def test_what_exists_at_the_start(tool: Peer) -> None:
    assert tool.directory("/") == ["tool", "local"]
    assert tool.directory("/local/domain/0") == ["control", "domid", "name"]
    assert tool.directory("/local/domain/0/control") == ["feature-poweroff", "feature-reboot", "feature-suspend"]
    assert tool.read("/local/domain/0/name") == b"Domain-0"
    assert tool.read("/local/pool/0/name") == b"Pool-0"
    assert tool.perms("/tool/xenstored") == ["n0"]


def test_paths_and_presence_of_domains(tool: Peer, domain_5: Peer) -> None:
    assert domain_5.ask(Op.GET_DOMAIN_PATH, "9") == b"/local/domain/9\0"
    assert [tool.ask(Op.IS_DOMAIN_INTRODUCED, domid) for domid in ("0", "5", "9")] == [b"T\0", b"T\0", b"F\0"]
    assert tool.refused(Op.RESUME, "9") == "ENOENT"
    assert tool.refused(Op.RELEASE, "9") == "ENOENT"
    assert tool.refused(Op.INTRODUCE, "5", "1", "1") == "EEXIST"
    assert tool.refused(Op.INTRODUCE, "0", "1", "1") == "EEXIST"


def test_releasing_a_domain_removes_its_nodes_and_its_rights_everywhere(tool: Peer, domain_5: Peer) -> None:
    tool.write("/local/domain/5/vm", "/vm/some-uuid")
    for path in ("/vm/some-uuid/name", "/vm/other/name", "/libxl/5/type", "/libxl/6/type"):
        tool.write(path)
    for path in ("backend/vbd/5/51712/state", "backend/vif/5/0/state", "backend/vbd/6/51712/state"):
        tool.write(path)
    tool.write("/shared/from-5")
    tool.set_perms("/shared", "n0", "r5", "r6")
    tool.set_perms("/shared/from-5", "n5")
    tool.ask(Op.RELEASE, "5")
    assert tool.directory("/local/domain") == ["0"]
    assert (tool.directory("/vm"), tool.directory("/libxl")) == (["other"], ["6"])
    assert (tool.directory("backend/vbd"), tool.directory("backend/vif")) == (["6"], [])
    assert (tool.directory("/shared"), tool.perms("/shared")) == ([], ["n0", "r6"])
    assert tool.ask(Op.IS_DOMAIN_INTRODUCED, "5") == b"F\0"


@pytest.mark.parametrize("lie", ["/", "/vm", "/local/domain/0", "/vm//", "/vm/../tool", "\xff"])
def test_a_domain_that_lies_about_its_vm_takes_nothing_with_it(tool: Peer, domain_5: Peer, lie: str) -> None:
    tool.write("/local/domain/5/vm", lie)
    tool.write("/vm/other")
    tool.ask(Op.RELEASE, "5")
    assert tool.directory("/") == ["tool", "local", "vm"]
    assert tool.directory("/vm") == ["other"]


def test_domains_go_with_the_connection_that_introduced_them(store: Store, tool: Peer) -> None:
    owner = Peer.tool(store)
    owner.ask(Op.INTRODUCE, "3", "1", "1")
    tool.ask(Op.INTRODUCE, "4", "1", "1")
    tool.write("/local/domain/3/name")
    ring = store.domains[3].ring
    tool.watch("@releaseDomain", "t", "1")
    store.disconnect(owner.connection)
    assert isinstance(ring, NoRing)
    assert ring.closed
    assert tool.heard() == [("@releaseDomain/3", "t")]
    assert tool.refused(Op.READ, "/local/domain/3/name") == "ENOENT"
    assert tool.ask(Op.IS_DOMAIN_INTRODUCED, "4") == b"T\0"


def test_the_rights_of_a_domain_that_is_gone_are_not_those_of_the_next(
    store: Store, tool: Peer, domain_5: Peer
) -> None:
    tool.write("/shared", "1")
    tool.ask(Op.RELEASE, "5")
    # Somebody who has not heard of it yet.
    tool.set_perms("/shared", "n0", "r5")
    late = tool.begin()
    assert tool.refused(Op.SET_PERMS, "/shared", "n5") == "ENOENT"
    successor = Peer.domain(store, 5)
    assert successor.refused(Op.READ, "/shared") == "EACCES"
    assert tool.perms("/shared") == ["n0", "r5"]
    # Nor do they come back with a child that inherits them, or with a transaction that was open meanwhile.
    tool.write("/shared/child", "1")
    late.write("/shared/late", "1")
    late.end()
    for path in ("/shared/child", "/shared/late"):
        assert successor.refused(Op.READ, path) == "EACCES"
    tool.set_perms("/shared", "n0", "r5")
    assert successor.read("/shared") == b"1"


def test_a_transaction_that_outlives_a_domain_brings_none_of_its_rights_back(
    store: Store, tool: Peer, domain_5: Peer
) -> None:
    tool.write("/shared", "1")
    transaction = tool.begin()
    transaction.set_perms("/shared", "n0", "r5")
    transaction.write("/given", "1")
    transaction.set_perms("/given", "n5")
    tool.ask(Op.RELEASE, "5")
    assert transaction.refused(Op.TRANSACTION_END, "T") == "EAGAIN"
    again = tool.begin()
    again.set_perms("/shared", "n0", "r5")
    again.end()
    assert Peer.domain(store, 5).refused(Op.READ, "/shared") == "EACCES"
    assert tool.ask(Op.CONTROL, "check") == b"OK\0"


def test_nobody_has_the_rights_of_a_target_that_is_gone(store: Store, tool: Peer, domain_5: Peer) -> None:
    device_model = Peer.domain(store, 6)
    tool.ask(Op.SET_TARGET, "6", "5")
    tool.ask(Op.RELEASE, "5")
    Peer.domain(store, 5)
    tool.write("/local/domain/5/data")
    tool.set_perms("/local/domain/5/data", "n5")
    assert device_model.refused(Op.READ, "/local/domain/5/data") == "EACCES"


def test_what_was_reported_about_the_devices_of_a_domain_goes_with_it(tool: Peer, domain_5: Peer) -> None:
    for domid in (5, 6):
        tool.write(f"error/backend/vbd/{domid}/51712/error", "5 it is broken")
    tool.ask(Op.RELEASE, "5")
    assert tool.directory("error/backend/vbd") == ["6"]


def test_special_events_given_to_a_domain_are_no_longer_given_when_it_is_gone(
    store: Store, tool: Peer, domain_5: Peer
) -> None:
    tool.set_perms("@releaseDomain", "n0", "r5")
    tool.set_perms("@introduceDomain", "n5")
    tool.ask(Op.RELEASE, "5")
    assert (tool.perms("@releaseDomain"), tool.perms("@introduceDomain")) == (["n0"], ["n0"])


def test_whoever_introduced_a_domain_can_have_it_begin_anew(store: Store, tool: Peer, other: Peer) -> None:
    domain = Peer.domain(store, 5, by=tool)
    domain.watch("@introduceDomain", "t")
    ring = store.domains[5].ring
    assert isinstance(ring, NoRing)
    tool.watch("@introduceDomain", "t")
    assert other.refused(Op.INTRODUCE, "5", "1", "1") == "EEXIST"
    assert tool.ask(Op.INTRODUCE, "5", "1", "1") == b"OK\0"
    assert (ring.resets, tool.heard()) == (1, [])
    assert domain.refused(Op.UNWATCH, "@introduceDomain", "t") == "ENOENT"


def test_every_domain_can_be_meant_by_one_entry(store: Store, tool: Peer) -> None:
    tool.write("/public", "1")
    tool.set_perms("/public", "n0", f"r{ANY_DOMID}")
    assert [Peer.domain(store, domid).read("/public") for domid in (5, 6)] == [b"1", b"1"]
    assert tool.refused(Op.SET_PERMS, "/public", f"n{ANY_DOMID}") == "EINVAL"


def test_features_are_read_and_taken_away_before_a_domain_comes(store: Store, tool: Peer) -> None:
    assert tool.ask(Op.GET_FEATURE) == tool.ask(Op.GET_FEATURE, "5") == f"{FEATURES}\0".encode()
    assert tool.ask(Op.SET_FEATURE, "5", "1") == b"OK\0"
    assert tool.refused(Op.SET_FEATURE, "5", "16") == "EINVAL"
    domain = Peer.domain(store, 5)
    assert domain.ask(Op.GET_FEATURE) == tool.ask(Op.GET_FEATURE, "5") == b"1\0"
    assert tool.refused(Op.SET_FEATURE, "5", "3") == tool.refused(Op.SET_FEATURE, "0", "3") == "EBUSY"
    assert domain.refused(Op.GET_FEATURE, "5") == domain.refused(Op.SET_FEATURE, "6", "1") == "EACCES"
    # What was taken away does not work.
    assert domain.refused(Op.WATCH, "x", "t", "1") == "EINVAL"
    tool.write("/d")
    tool.set_perms("/d", "n5")
    domain.set_perms("/d", "n5", f"r{ANY_DOMID}")
    assert Peer.domain(store, 6).refused(Op.READ, "/d") == "EACCES"
    tool.ask(Op.RELEASE, "5")
    assert int(split(tool.ask(Op.GET_FEATURE, "5"))[0]) & FEATURE_ANY_DOMAIN


def test_commands_of_xenstore_control(tool: Peer, domain_5: Peer, capsys: pytest.CaptureFixture[str]) -> None:
    for command in split(tool.ask(Op.CONTROL, "help"))[0].decode().splitlines():
        assert command.split()[0] in ("check", "memreport", "print", "quota", "help")
    assert tool.ask(Op.CONTROL, "check") == b"OK\0"
    assert tool.ask(Op.CONTROL, "print", "a\x1b[31m message") == b"OK\0"
    assert "control: a\\x1b[31m message" in capsys.readouterr().err
    assert b"nodes             :     1000" in tool.ask(Op.CONTROL, "quota")
    assert tool.ask(Op.CONTROL, "quota", "set", "nodes", "7") == b"OK\0"
    assert tool.ask(Op.GET_QUOTA, "nodes") == b"7\0"
    assert b"nodes             :        1 (max     1000)" in tool.ask(Op.CONTROL, "quota", "5")
    assert b"memory of domain 5: " in tool.ask(Op.CONTROL, "memreport")
    for wrong in (
        ["check", "x"],
        ["print"],
        ["quota", "set", "x", "1"],
        ["quota", "set", "nodes", "0"],
        ["quota", "-1"],
    ):
        assert tool.refused(Op.CONTROL, *wrong) == "EINVAL"
    assert tool.refused(Op.CONTROL, "quota", "9") == "ENOENT"


def test_the_check_finds_what_is_broken(store: Store, tool: Peer, capsys: pytest.CaptureFixture[str]) -> None:
    tool.write("/a/b", "1")
    del store.tree._nodes["/a/b"]
    assert tool.refused(Op.CONTROL, "check") == "EIO"
    assert "check: /a lists b" in capsys.readouterr().err


@pytest.mark.parametrize("operation", [Op.GET_DOMAIN_PATH, Op.RESET_WATCHES, Op.CONTROL, Op.IS_DOMAIN_INTRODUCED])
def test_a_transaction_that_does_not_exist_is_noticed_by_all_but_watches(tool: Peer, operation: Op) -> None:
    tool.transaction = 99
    assert tool.refused(operation, "5") == "ENOENT"
    assert tool.ask(Op.WATCH, "/a", "t") == b"OK\0"
    assert tool.heard() == [("/a", "t")]
    assert tool.ask(Op.UNWATCH, "/a", "t") == b"OK\0"


def test_domids_that_are_none(tool: Peer) -> None:
    for operation in (Op.RELEASE, Op.RESUME):
        assert tool.refused(operation, "0") == "EINVAL"
    assert tool.ask(Op.GET_DOMAIN_PATH, "32752") == b"/local/domain/32752\0"
    assert tool.refused(Op.GET_DOMAIN_PATH, "65536") == "EINVAL"
    assert tool.ask(Op.IS_DOMAIN_INTRODUCED, "32752") == b"T\0"
