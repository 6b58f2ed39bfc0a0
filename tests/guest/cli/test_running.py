"""A domain that runs: what is listed of it, its devices, its store."""

from __future__ import annotations

import json
import secrets
import shutil
import subprocess
from pathlib import Path

import pytest

from harness.host.directories import GUESTS
from tests.guest.cli.commands import HARNESS, SECONDS, Run


def test_list_shows_the_domain(harness: Run, created: str) -> None:
    (fields,) = json.loads(harness("list", "--json").stdout)
    assert (fields["name"], fields["kind"], fields["state"]) == (created, "pv", "running")
    assert fields["domid"] == 1
    assert len(fields["pids"]) == 3
    for pid in fields["pids"]:
        assert Path(f"/proc/{pid}").exists()
    table = harness("list").stdout.decode()
    assert created in table
    assert fields["addresses"][0] in table


def test_devices_come_and_go(harness: Run, created: str, tmp_path: Path) -> None:
    (tmp_path / "data.img").write_bytes(secrets.token_bytes(1 << 16))
    done = harness("block-attach", created, "xvdb", str(tmp_path / "data.img"), "readonly=true")
    assert done.returncode == 0, done.stderr.decode()
    read = harness("exec", created, "--", "cat", "/dev/xvdb").stdout
    assert read == (tmp_path / "data.img").read_bytes()
    heads, first, second = harness("block-list", created).stdout.decode().splitlines()
    assert heads.split()[:5] == ["Vdev", "Name", "BE", "handle", "state"]
    assert first.split()[:5] == ["51712", "xvda", "0", "1", "4"]
    assert second.split()[:5] == ["51728", "xvdb", "0", "1", "4"]
    assert str(tmp_path / "data.img") in second
    assert harness("block-detach", created, "xvdb").returncode == 0

    assert harness("network-attach", created, "mac=00:16:3e:00:99:01").returncode == 0
    rows = harness("network-list", created).stdout.decode().splitlines()[1:]
    assert [row.split()[2] for row in rows][1:] == ["00:16:3e:00:99:01"]
    assert len(json.loads(harness("list", "--json").stdout)[0]["addresses"]) == 2
    assert harness("network-detach", created, "00:16:3e:00:99:01").returncode == 0
    assert len(harness("network-list", created).stdout.decode().splitlines()) == 2


def test_a_disk_in_use_is_the_guests_fault(harness: Run, created: str) -> None:
    assert harness("block-attach", created, "xvdb", "size=1MiB").returncode == 0
    assert harness("exec", created, "--", "sh", "-c", "sleep 600 </dev/xvdb >/dev/null 2>&1 &").returncode == 0
    busy = harness("block-detach", created, "xvdb", "--timeout", "1")
    assert busy.returncode == 4
    assert b"is still using xvdb" in busy.stderr
    assert b"--force" in busy.stderr
    assert harness("block-detach", created, "xvdb", "--force").returncode == 0
    for arguments, words in (
        (["xvdb", "/nowhere.img"], b"No such file"),
        (["xvda", "size=1MiB"], b"has a xvda already"),
        (["xvdb", "size=1MiB", "features.dicsard=false"], b"did you mean 'discard'"),
    ):
        refused = harness("block-attach", created, *arguments)
        assert refused.returncode == 2
        assert words in refused.stderr


def test_a_disk_grows(harness: Run, created: str) -> None:
    assert harness("block-attach", created, "xvdc", "size=1MiB").returncode == 0
    assert harness("block-resize", created, "xvdc", "2MiB").returncode == 0
    assert harness("exec", created, "--", "cat", "/sys/block/xvdc/size").stdout == b"4096\n"
    assert harness("block-resize", created, "xvdc", "1MiB").returncode == 2
    assert harness("block-resize", created, "xvdc", "much").returncode == 2
    assert harness("block-detach", created, "xvdc").returncode == 0


def test_pause_and_unpause(harness: Run, created: str) -> None:
    assert harness("pause", created).returncode == 0
    assert json.loads(harness("list", "--json").stdout)[0]["state"] == "paused"
    refused = harness("exec", created, "--", "true")
    assert refused.returncode == 2
    assert b"is paused, not running" in refused.stderr
    assert harness("pause", created).returncode == 2
    assert harness("unpause", created).returncode == 0
    assert harness("exec", created, "--", "true").returncode == 0


def test_the_name_is_taken(harness: Run, created: str) -> None:
    done = harness("create", str(GUESTS / "hvm.yaml"), "--name", created)
    assert done.returncode == 2
    assert b"is running already" in done.stderr


def test_the_store(harness: Run, created: str) -> None:
    domid = json.loads(harness("list", "--json").stdout)[0]["domid"]
    base = f"/local/domain/{domid}"
    assert harness("store", "read", f"{base}/name").stdout.decode() == f"{created}\n"
    assert harness("store", "write", f"{base}/data/by/hand", 'say "hi"').returncode == 0
    listing = harness("store", "ls", "-p", f"{base}/data").stdout.decode().splitlines()
    assert listing[0].startswith('by = ""   (')
    assert listing[1].startswith(' hand = "say \\"hi\\""   (')
    assert harness("store", "rm", f"{base}/data/by").returncode == 0
    missing = harness("store", "read", f"{base}/data/by/hand")
    assert missing.returncode == 2
    assert b"ENOENT" in missing.stderr


def test_store_watch_prints_changes(harness: Run, created: str, environment: dict[str, str]) -> None:
    domid = json.loads(harness("list", "--json").stdout)[0]["domid"]
    path = f"/local/domain/{domid}/data"
    watcher = subprocess.Popen([*HARNESS, "store", "watch", "-n", "2", path], stdout=subprocess.PIPE, env=environment)
    assert watcher.stdout is not None
    # The first event only says that the watch is set.
    assert watcher.stdout.readline().decode() == f"{path}\n"
    harness("store", "write", f"{path}/news", "1")
    assert watcher.stdout.readline().decode() == f"{path}/news\n"
    assert watcher.wait(SECONDS) == 0


@pytest.mark.skipif(shutil.which("xenstore-ls") is None, reason="xenstore-utils is not installed")
def test_xens_own_tools_work_with_the_socket(harness: Run, created: str, environment: dict[str, str]) -> None:
    path = harness("store", "socket").stdout.decode().strip()
    done = subprocess.run(
        ["xenstore-ls", "/local/domain"],
        env={**environment, "XENSTORED_PATH": path},
        capture_output=True,
        timeout=SECONDS,
        check=True,
    )
    assert f'name = "{created}"' in done.stdout.decode()
