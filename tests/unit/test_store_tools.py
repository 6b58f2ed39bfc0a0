"""Debian's xenstore-* as clients of a store that runs as a process."""

from __future__ import annotations

import subprocess

from harness.store.client import StoreClient

SECONDS = 20.0


def xenstore(verb: str, *arguments: str) -> str:
    """What one of Debian's tools prints."""
    done = subprocess.run([f"xenstore-{verb}", *arguments], capture_output=True, text=True, timeout=SECONDS, check=True)
    assert done.stderr == ""
    return done.stdout


def test_debians_tools_find_their_way(client: StoreClient) -> None:
    xenstore("write", "/a/b", "value", "rel/x", "mine")
    assert xenstore("read", "/a/b", "rel/x") == "value\nmine\n"
    assert client.read("/local/domain/0/rel/x") == b"mine"
    assert xenstore("list", "/a") == "b\n"
    xenstore("exists", "/a/b")
    xenstore("chmod", "/a/b", "n0", "r5")
    assert client.get_perms("/a/b") == ["n0", "r5"]
    xenstore("rm", "/a")
    assert subprocess.run(["xenstore-exists", "/a/b"], check=False, timeout=SECONDS).returncode == 1
    assert subprocess.run(["xenstore-read", "/a"], capture_output=True, check=False, timeout=SECONDS).returncode == 1


def test_a_live_tree_is_listed_as_xen_lists_its_own(client: StoreClient) -> None:
    client.write("/local/domain/1/name", "domU")
    client.set_perms("/local/domain/1", ["n0", "r1"])
    client.set_perms("/local/domain/1/name", ["n0", "r1"])
    client.write("/local/domain/1/data", "")
    client.set_perms("/local/domain/1/data", ["n1"])
    listing = xenstore("ls", "-fp")
    assert listing.splitlines() == [
        '/tool = ""   (n0)',
        '/tool/xenstored = ""   (n0)',
        '/local = ""   (n0)',
        '/local/domain = ""   (n0)',
        '/local/domain/0 = ""   (n0)',
        '/local/domain/0/control = ""   (n0)',
        '/local/domain/0/control/feature-poweroff = "1"   (n0)',
        '/local/domain/0/control/feature-reboot = "1"   (n0)',
        '/local/domain/0/control/feature-suspend = "1"   (n0)',
        '/local/domain/0/domid = "0"   (n0)',
        '/local/domain/0/name = "Domain-0"   (n0)',
        '/local/domain/1 = ""   (n0,r1)',
        '/local/domain/1/name = "domU"   (n0,r1)',
        '/local/domain/1/data = ""   (n1)',
        '/local/pool = ""   (n0)',
        '/local/pool/0 = ""   (n0)',
        '/local/pool/0/name = "Pool-0"   (n0)',
    ]


def test_a_long_directory_is_listed_by_everybody(client: StoreClient) -> None:
    names = [f"a-rather-long-name-{number}" for number in range(400)]
    for name in names:
        client.write(f"/long/{name}", "")
    assert client.directory("/long") == names
    assert xenstore("list", "/long").split() == names


def test_xenstore_watch_prints_what_changes(client: StoreClient) -> None:
    with subprocess.Popen(["xenstore-watch", "-n", "3", "/w"], stdout=subprocess.PIPE, text=True) as watching:
        assert watching.stdout is not None
        assert watching.stdout.readline() == "/w\n"
        client.write("/w/a", "1")
        assert watching.stdout.readline() == "/w/a\n"
        client.rm("/w")
        assert watching.stdout.readline() == "/w\n"
        assert watching.wait(SECONDS) == 0
