"""Records of domains, their collection after a crash, and the janitor."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from harness.domain import records
from harness.domain.janitor import Janitor
from harness.domain.leases import Lease
from harness.host.deadline import Deadline
from harness.host.errors import UsageError
from harness.host.process import spawn
from tests.unit.test_process import wait_for_end


@pytest.fixture(autouse=True)
def private_runtime(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HARNESS_RUNTIME", str(tmp_path / "run"))


def test_domids_and_names_are_unique_while_their_owner_lives(tmp_path: Path) -> None:
    one = records.claim("one", "hvm", tmp_path)
    two = records.claim("two", "pv", tmp_path)
    assert (one.record.domid, two.record.domid) == (1, 2)
    with pytest.raises(UsageError, match="one is running already"):
        records.claim("one", "hvm", tmp_path)
    assert [record.name for record in records.records()] == ["one", "two"]
    assert records.find("2").name == "two"
    one.release()
    two.release()
    assert list(records.records()) == []
    with pytest.raises(UsageError, match="no domain is called one; running: none"):
        records.find("one")


def test_domids_are_not_used_again_soon(tmp_path: Path) -> None:
    records.claim("one", "hvm", tmp_path).release()
    two = records.claim("two", "hvm", tmp_path)
    assert two.record.domid == 2
    counter = tmp_path / "run" / "domains.lock"
    counter.write_text(str(records.FIRST_RESERVED_DOMID - 1))
    domids = []
    for name in ("three", "four"):
        claim = records.claim(name, "hvm", tmp_path)
        domids.append(claim.record.domid)
        claim.release()
    assert domids == [1, 3]
    counter.write_text("nonsense")
    claim = records.claim("five", "hvm", tmp_path)
    assert claim.record.domid == 1
    claim.release()
    two.release()


def test_what_a_killed_owner_left_is_collected(tmp_path: Path) -> None:
    """The owner is SIGKILLed with a process that does not die with it: gc kills just that one."""
    stranger = spawn("a stranger", ["sleep", "600"], log=tmp_path / "log")
    program = f"""
import os, pathlib, sys
from harness.domain import records
from harness.host.process import spawn
claim = records.claim("lost", "hvm", pathlib.Path({str(tmp_path)!r}))
left = spawn("left", ["sleep", "600"], log=pathlib.Path({str(tmp_path / "log")!r}),
             env=records.environment(claim.record.domid), die_with_parent=False)
claim.record.pids = {{"qemu": left.pid, "backend": {stranger.pid}}}
claim.record.write()
print(left.pid, flush=True)
os.kill(os.getpid(), 9)
"""
    done = subprocess.run([sys.executable, "-c", program], stdout=subprocess.PIPE, check=False)
    left = int(done.stdout)
    told = records.collect()
    assert told == [f"killed qemu {left} of lost", "removed the record of lost"]
    assert wait_for_end(left)
    assert stranger.poll() is None
    stranger.kill()
    assert records.collect() == []


def test_the_janitor_removes_files_when_its_owner_is_killed(tmp_path: Path) -> None:
    guarded = tmp_path / "with space"
    guarded.mkdir()
    (guarded / "file").touch()
    program = f"""
import os, pathlib
from harness.domain.janitor import Janitor
janitor = Janitor(pathlib.Path({str(tmp_path / "log")!r}))
janitor.guard(pathlib.Path({str(guarded)!r}))
print(janitor.pid, flush=True)
os.kill(os.getpid(), 9)
"""
    done = subprocess.run([sys.executable, "-c", program], stdout=subprocess.PIPE, check=False)
    assert wait_for_end(int(done.stdout))
    assert not guarded.exists()


def test_the_janitor_removes_files_when_dismissed(tmp_path: Path) -> None:
    guarded = tmp_path / "file"
    guarded.touch()
    janitor = Janitor(tmp_path / "log")
    janitor.guard(guarded)
    assert guarded.exists()
    janitor.dismiss()
    assert not guarded.exists()


def test_an_image_has_one_writer_or_many_readers(tmp_path: Path) -> None:
    image = tmp_path / "disk.img"
    image.write_bytes(bytes(4096))
    with Lease(image, readonly=False) as lease:
        assert lease.size == 4096
        for readonly in (False, True):
            with pytest.raises(UsageError, match="in use by another domain"):
                Lease(image, readonly=readonly)
    with Lease(image, readonly=True), Lease(image, readonly=True):
        pass


def test_a_lease_lasts_as_long_as_a_child_that_inherited_it(tmp_path: Path) -> None:
    image = tmp_path / "disk.img"
    image.write_bytes(bytes(512))
    lease = Lease(image, readonly=False)
    child = spawn("a holder", ["sleep", "600"], log=tmp_path / "log", pass_fds=lease.descriptors)
    lease.release()
    with pytest.raises(UsageError, match="in use"):
        Lease(image, readonly=False)
    child.kill()
    child.wait(Deadline(5, "its end"))
    Lease(image, readonly=False).release()


@pytest.mark.parametrize("size", [0, 1, 511, 1000])
def test_an_image_of_a_wrong_size_is_refused(size: int, tmp_path: Path) -> None:
    image = tmp_path / "disk.img"
    image.write_bytes(bytes(size))
    with pytest.raises(UsageError, match=f"has {size} bytes.*multiple of 512"):
        Lease(image, readonly=False)


def test_a_missing_image_and_a_directory_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="does not exist"):
        Lease(tmp_path / "none", readonly=False)
    with pytest.raises(UsageError, match="neither a file nor a block device"):
        Lease(tmp_path, readonly=True)
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(UsageError, match="neither a file nor a block device"):
        Lease(tmp_path / "pipe", readonly=False)
