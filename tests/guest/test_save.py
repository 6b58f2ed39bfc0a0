"""A domain is saved to a file, is gone, and goes on from there: with its memory, its disks, its connections."""

from __future__ import annotations

import os
import re
import signal
import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from harness.backend.network_client import NetworkClient
from harness.domain.definition import Definition, Disk, Network
from harness.domain.domain import Domain
from harness.domain.life import DomainState
from harness.host.deadline import Deadline
from harness.host.errors import GuestError, HostError, UsageError
from harness.machine import loop
from tests.guest.conftest import named
from tests.guest.consoles import type_command
from tests.guest.disks import MIB, VERIFIED

TARGETS = {"hvm": "hda", "pv": "xvda", "virtio": "vda"}
PORT = 5000
SECONDS = 120.0
CLOCK_SECONDS = 3.0
FIO = [*VERIFIED, "--rw=randrw", "--bsrange=4k-64k", "--iodepth=16", "--fsync=32", "--size=32m", "--loops=12"]
WORK = """
echo busy >/tmp/how
"$@" >/tmp/fio 2>&1
echo "status $?" >/tmp/how
"""


@contextmanager
def restored(file: Path) -> Iterator[Domain]:
    with Domain.restore(file) as domain:
        domain.start()
        yield domain


def work_on(domain: Domain, target: str) -> None:
    """Have fio write and verify in the background."""
    domain.start_service(["sh", "-c", WORK, "sh", *FIO, f"--name={target}", f"--filename={domain.device(target)}"])
    domain.execute(["sh", "-c", "until [ -e /tmp/how ]; do sleep 0.02; done; sleep 1"]).check()


def require_working(domain: Domain) -> None:
    assert domain.read_file("/tmp/how") == b"busy\n", domain.read_file("/tmp/fio").decode()


def require_done(domain: Domain) -> None:
    """Wait for fio to end; it must have met no error, and read all that it wrote."""
    domain.execute(["sh", "-c", "while grep -q busy /tmp/how; do sleep 0.1; done"], timeout=SECONDS).check()
    assert domain.read_file("/tmp/how") == b"status 0\n", domain.read_file("/tmp/fio").decode()


def crashes(domain: Domain) -> list[str]:
    return re.findall(r".*(?:BUG|WARNING|Oops|I/O error|hung).*", domain.execute(["dmesg"]).check().text)


@pytest.mark.parametrize("kind", TARGETS)
def test_work_goes_on_where_it_was(kind: str, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    definition, target = named(kind, request), TARGETS[kind]
    with ExitStack() as stack:
        domain = stack.enter_context(Domain(definition))
        domain.start()
        booted, address = domain.read_file("/proc/sys/kernel/random/boot_id"), domain.addresses
        work_on(domain, target)
        for _ in range(2):
            before = domain.domid
            require_working(domain)
            domain.save(tmp_path / "saved")
            assert domain.state == DomainState.ENDED
            domain = stack.enter_context(restored(tmp_path / "saved"))
            assert domain.domid != before
            assert domain.addresses == address
            assert domain.read_file("/proc/sys/kernel/random/boot_id") == booted
            assert abs(time.time() - float(domain.execute(["date", "+%s"]).check().text)) < CLOCK_SECONDS
        require_done(domain)
        assert not crashes(domain)
        domain.execute(["ping", "-c", "1", "-W", "5", domain.network.host_address]).check()
        with domain.ssh() as ssh:
            assert ssh.run("echo over the network", Deadline(SECONDS, "an answer")).stdout == b"over the network\n"


def require_connection_survives(domain: Domain, file: Path) -> None:
    """Save and restore a domain while somebody is connected with it."""
    domain.start_service(["nc", "-ll", "-p", str(PORT), "-e", "cat"])
    domain.execute(["sh", "-c", f"until netstat -ltn | grep -q :{PORT}; do sleep 0.05; done"]).check()
    with domain.connect(PORT) as connection:
        exchange(connection, b"before\n")
        domain.save(file)
        connection.sendall(b"while it was away\n")
        with restored(file) as again:
            exchange(connection, b"after\n", b"while it was away\n")
            with again.connect(PORT) as another:
                exchange(another, b"another\n")


def test_a_connection_survives(request: pytest.FixtureRequest, tmp_path: Path) -> None:
    with NetworkClient.connect(), Domain(named("pv", request)) as domain:
        domain.start()
        require_connection_survives(domain, tmp_path / "saved")


def exchange(connection: socket.socket, sent: bytes, before: bytes = b"") -> None:
    """Send something to a guest that sends back whatever it gets."""
    connection.settimeout(SECONDS)
    connection.sendall(sent)
    received = b""
    while len(received) < len(before + sent):
        received += connection.recv(4096)
    assert received == before + sent


def test_everything_paravirtual_is_there_afterwards(request: pytest.FixtureRequest, tmp_path: Path) -> None:
    """Consoles, XenStore for programs in the guest, and devices that come and go."""
    disks = (Disk("xvda", "pv", None, 64 * MIB), Disk("xvdc", "pv", None, 32 * MIB, readonly=True))
    definition = named("pv", request, disks=disks, consoles=2, vcpus=2)
    image = tmp_path / "late.img"
    image.write_bytes(b"late" * (MIB // 4))
    with Domain(definition) as domain:
        domain.start()
        domain.execute(["mke2fs", "-q", "-t", "ext4", "/dev/xvda"]).check()
        domain.execute(["mount", "/dev/xvda", "/mnt"]).check()
        domain.write_file("/mnt/file", b"written before")
        domain.attach_disk(Disk("xvdb", "pv", image, MIB))
        domain.attach_network(Network("pv"))
        domain.detach_network("0")
        domain.save(tmp_path / "saved")
    with restored(tmp_path / "saved") as domain:
        assert domain.read_file("/mnt/file") == b"written before"
        assert domain.execute(["cmp", "-n", str(MIB), "/dev/xvdb", "/dev/xvdb"]).status == 0
        assert [one.number for one in domain.parts.cards] == [1]
        for console in domain.pv_consoles:
            # The shell's prompt was there before.
            loop.run(console.write(b"\n"))
            assert type_command(console, "echo here $((6 * 7))", r"here (42)")[1] == "42"
        assert domain.execute(["xenstore-read", "domid"]).check().text.strip() == str(domain.domid)
        domain.detach_disk("xvdb")
        domain.attach_disk(Disk("xvdb", "pv", image, MIB))
        assert domain.execute(["head", "-c", "4", "/dev/xvdb"]).check().stdout == b"late"
        domain.attach_network(Network("pv"))
        domain.detach_network("1")
        domain.write_file("/mnt/file", b"written after")
        domain.execute(["umount", "/mnt"]).check()
        domain.execute(["e2fsck", "-fn", "/dev/xvda"]).check()
        assert not crashes(domain)


@pytest.fixture
def small(request: pytest.FixtureRequest, tmp_path: Path) -> Definition:
    """With one disk, whose image outlives it."""
    image = tmp_path / "disk.img"
    image.write_bytes(bytes(MIB))
    return named("pv", request, disks=(Disk("xvda", "pv", image, MIB),), networks=())


def test_a_backend_dies_after_the_restore(small: Definition, tmp_path: Path) -> None:
    with Domain(small) as domain:
        domain.start()
        domain.save(tmp_path / "saved")
    with restored(tmp_path / "saved") as domain:
        os.kill(domain.parts.record.pids["backend"], signal.SIGKILL)
        domain.execute(["dd", "if=/dev/urandom", "of=/dev/xvda", "bs=64k", "count=16", "oflag=direct"]).check()
        assert not crashes(domain)


def test_what_has_changed_meanwhile_is_noticed(small: Definition, tmp_path: Path) -> None:
    file, image = tmp_path / "saved", small.disks[0].path
    assert image is not None
    with Domain(small) as domain:
        domain.start()
        domain.save(file)
    with restored(file) as domain, pytest.raises(UsageError, match="is running already"), restored(file):
        pass
    # The domain may have written to it.
    image.write_bytes(bytes(MIB))
    with (
        pytest.raises(UsageError, match=rf"{image} of disk xvda has changed since the domain was saved"),
        restored(file),
    ):
        pass
    image.unlink()
    with pytest.raises(UsageError, match=rf"{image} cannot be opened"):
        Domain.restore(file)


def test_a_domain_that_cannot_be_saved_goes_on(small: Definition, tmp_path: Path) -> None:
    with Domain(small) as domain:
        domain.start()
        with pytest.raises(HostError, match="No such file or directory"):
            domain.save(tmp_path / "no-such-directory" / "saved")
        (tmp_path / "taken").mkdir()
        with pytest.raises(HostError, match="Is a directory"):
            domain.save(tmp_path / "taken")
        assert list((tmp_path / "taken").iterdir()) == []
        assert not (tmp_path / "taken.new").exists()
        domain.execute(["dd", "if=/dev/urandom", "of=/dev/xvda", "bs=64k", "count=16", "oflag=direct"]).check()
        domain.pause()
        with pytest.raises(UsageError, match="paused, not running"):
            domain.save(tmp_path / "saved")
        domain.unpause()
        domain.execute(["rmmod", "pvblk"])
        with pytest.raises((HostError, GuestError), match="vbd 51712"):
            domain.save(tmp_path / "saved")
        assert domain.execute(["true"]).status == 0


def test_an_address_that_is_taken(request: pytest.FixtureRequest, tmp_path: Path) -> None:
    definition = named("virtio", request, disks=())
    with NetworkClient.connect() as other:
        with Domain(definition) as domain:
            domain.start()
            domain.save(tmp_path / "saved")
        with Domain.restore(tmp_path / "saved") as domain:
            saved = domain._saved
            assert saved is not None
            address = saved.cards[0].address
            taken = other.lease("00:16:3e:00:00:99", address)
            with pytest.raises(HostError, match=f"the address {address} is in use"):
                domain.start()
            other.release(taken)
