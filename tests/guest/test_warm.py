"""Domains that go on from a guest that has booted before: each is a domain of its own."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from harness.domain import warm
from harness.domain.definition import Definition, Disk, Network
from harness.domain.domain import Domain
from harness.host.deadline import Deadline
from harness.host.errors import UsageError
from tests.guest.conftest import named
from tests.guest.disks import MIB, VERIFIED
from tests.guest.driven import driver_definition

CLOCK_SECONDS = 3.0
RANDOM = ["sh", "-c", "head -c 32 /dev/urandom | od -An -tx1"]


@pytest.fixture(scope="module")
def cached(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A directory of our own for the guests that have booted."""
    directory = tmp_path_factory.mktemp("warm")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(warm, "cache", lambda *_: directory)
        yield directory


@pytest.fixture
def definition(request: pytest.FixtureRequest) -> Definition:
    disks = (Disk("xvda", "pv", None, 64 * MIB), Disk("xvdb", "pv", None, MIB, readonly=True))
    return named("pv", request, disks=disks, networks=(Network("pv"), Network("pv")), consoles=2)


def test_two_from_one_guest(definition: Definition, cached: Path) -> None:
    other = replace(definition, name=f"{definition.name}-2")
    with Domain(definition) as first, Domain(other) as second:
        first.start(warm=True)
        (file,) = cached.glob(f"*{warm.SUFFIX}")
        made = file.stat().st_ino
        second.start(warm=True)
        assert file.stat().st_ino == made
        assert file.stat().st_mode & 0o077 == 0
        # The times in it are no less than the finger print of a boot.
        boots = {one.execute(["sh", "-c", "dmesg | head -n 100"]).check().text for one in (first, second)}
        assert len(boots) == 1
        assert first.execute(RANDOM).check().text != second.execute(RANDOM).check().text
        assert not set(first.addresses) & set(second.addresses)
        for one in (first, second):
            check(one)


def check(domain: Domain) -> None:
    """Disks, cards, consoles, XenStore and clock are as after any boot."""
    assert abs(time.time() - float(domain.execute(["date", "+%s"]).check().text)) < CLOCK_SECONDS
    domain.execute([*VERIFIED, "--rw=randrw", "--bs=4k", "--iodepth=16", "--name=a", "--filename=/dev/xvda"]).check()
    assert domain.execute(["xenstore-read", "domid"]).check().text.strip() == str(domain.domid)
    for card in range(2):
        with domain.ssh(card=card) as ssh:
            assert ssh.run("echo here", Deadline(30, "an answer")).stdout == b"here\n"
    assert len(domain.pv_consoles) == 2
    names = domain.execute(["ls", "/sys/bus/pvbus/devices"]).check().text.split()
    assert {name.split("-")[1] for name in names} == {str(domain.domid)}


def test_it_can_be_saved_and_attached_to(definition: Definition, cached: Path, tmp_path: Path) -> None:
    with Domain(definition) as domain:
        domain.start(warm=True)
        domain.detach_disk("xvdb")
        domain.attach_disk(Disk("xvdc", "pv", None, MIB))
        domain.write_file("/tmp/word", b"from before")
        domain.save(tmp_path / "saved")
    with Domain.restore(tmp_path / "saved") as domain:
        domain.start()
        assert domain.read_file("/tmp/word") == b"from before"
        domain.detach_disk("xvdc")
        domain.attach_disk(Disk("xvdb", "pv", None, MIB))
        domain.execute([*VERIFIED, "--rw=randrw", "--bs=4k", "--name=a", "--filename=/dev/xvda"]).check()


def test_a_driver_domain_can_be_saved(request: pytest.FixtureRequest, cached: Path, tmp_path: Path) -> None:
    """What was plugged in has the place on the bus then at which the guest has found it."""
    definition = driver_definition(request, disks=2)
    with Domain(definition) as domain:
        domain.start(warm=True)
        device = domain.device("vdb")
        domain.execute(["sh", "-c", f"mke2fs -q {device} && mount {device} /mnt && echo kept >/mnt/word"]).check()
        domain.save(tmp_path / "saved")
    with Domain.restore(tmp_path / "saved") as domain:
        domain.start()
        assert domain.device("vdb") == device
        read = f"umount /mnt && e2fsck -f -n {device} >/dev/null && mount {device} /mnt && cat /mnt/word"
        assert domain.execute(["sh", "-c", read]).check().text == "kept"
        domain.connect(22).close()


def test_other_guests_are_booted_for_other_domains(definition: Definition, cached: Path) -> None:
    larger = replace(definition, memory=320, vcpus=2, disks=(), networks=())
    with Domain(larger) as domain:
        domain.start(warm=True)
        assert domain.execute(["nproc"]).check().text.strip() == "2"


def test_a_damaged_one_is_no_secret(definition: Definition, cached: Path) -> None:
    small = replace(definition, disks=(), networks=())
    with Domain(small) as domain:
        domain.start(warm=True)
    for file in cached.glob(f"*{warm.SUFFIX}"):
        content = bytearray(file.read_bytes())
        content[len(content) // 2] ^= 1
        file.write_bytes(content)
    with Domain(small) as domain:
        domain.start(warm=True)
        assert domain.execute(["true"]).status == 0


def test_emulated_devices_want_a_boot(request: pytest.FixtureRequest) -> None:
    for kind in ("hvm", "virtio"):
        with Domain(named(kind, request)) as domain, pytest.raises(UsageError, match="cannot start warm"):
            domain.start(warm=True)
