"""One disk of a driver domain is split among several domains, with what its kernel and LVM have for that."""

from __future__ import annotations

import shlex
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest

from harness.domain import records
from harness.domain.definition_settings import disk_of
from harness.domain.domain import Domain
from harness.domain.life import DomainState
from harness.host.errors import HarnessError, UsageError
from harness.pytest_plugin.plugin import AttachDisk, StartDomain
from tests.guest.disks import VERIFIED
from tests.guest.driven import SECONDS, driver_definition, kill, served_definition, until

VOLUMES = ("one", "two")
SPLIT = """
vgcreate -q vg0 /dev/vda && for name in one two; do lvcreate -q --yes --size 4M --name $name vg0 || exit; done
"""
FILL = 'yes "$2" | head -c 4194304 | dd of="$1" bs=64k iflag=fullblock oflag=direct conv=fsync status=none'


@pytest.fixture
def driver(request: pytest.FixtureRequest, start_domain: StartDomain) -> Domain:
    driver = start_domain(driver_definition(request))
    driver.execute(["sh", "-c", SPLIT]).check()
    return driver


def fill(guest: Domain, word: str) -> None:
    guest.execute(["sh", "-c", FILL, "sh", "/dev/xvda", word]).check()


def content(domain: Domain, device: str) -> set[str]:
    """The different lines on a device."""
    read = 'dd if="$1" bs=64k iflag=direct status=none | sort -u'
    return set(domain.execute(["sh", "-c", read, "sh", device], timeout=SECONDS).check().text.split())


def write_and_verify(guest: Domain) -> None:
    jobs = ["--rw=randrw", "--bsrange=4k-256k", "--iodepth=16", "--loops=8", "--name=x", "--filename=/dev/xvda"]
    guest.execute([*VERIFIED, *jobs], timeout=SECONDS).check()


def test_logical_volumes_of_one_disk_are_disks_of_two_domains(
    request: pytest.FixtureRequest, driver: Domain, start_domain: StartDomain
) -> None:
    guests = [
        start_domain(served_definition(request, driver, [f"/dev/vg0/{name}"], suffix=f"-{name}")) for name in VOLUMES
    ]
    for guest in guests:
        assert guest.read_file("/sys/block/xvda/size").strip() == str((4 << 20) // 512).encode()
    with ThreadPoolExecutor() as pool:
        list(pool.map(write_and_verify, guests))
    for guest, name in zip(guests, VOLUMES, strict=True):
        fill(guest, name)
    assert {name: content(driver, f"/dev/vg0/{name}") for name in VOLUMES} == {name: {name} for name in VOLUMES}
    # They are found again by a driver domain that has started anew.
    kill(driver)
    until("its return", lambda: driver.parts.record.restarts == 1 and driver.state == DomainState.RUNNING)
    until("the guests' disks", lambda: not any(records.find(guest.name).waits_for for guest in guests))
    for guest, name in zip(guests, VOLUMES, strict=True):
        assert content(guest, "/dev/xvda") == {name}
    with ThreadPoolExecutor() as pool:
        list(pool.map(write_and_verify, guests))


# ---- nobody gets what somebody else writes to ----------------------------------------------------------------------


@pytest.fixture(scope="module")
def shared(request: pytest.FixtureRequest, start_domain_for_module: StartDomain) -> Domain:
    definition = driver_definition(request, disks=6)
    return start_domain_for_module(replace(definition, name=f"{definition.name}-shared"))


@pytest.fixture(scope="module")
def guests(
    request: pytest.FixtureRequest, shared: Domain, start_domain_for_module: StartDomain
) -> tuple[Domain, Domain]:
    one, two = (start_domain_for_module(served_definition(request, shared, suffix=f"-{name}")) for name in VOLUMES)
    return one, two


def run(driver: Domain, script: str) -> None:
    driver.execute(["sh", "-e", "-c", script]).check()


def refused(driver: Domain, guest: Domain, path: str, why: str, *, readonly: bool = False) -> str:
    """Check that a path is not given out, and for that reason; returns what the user is told to do."""
    disk = disk_of({"target": "xvdp", "path": path, "backend": driver.name, "readonly": str(readonly).lower()})
    with pytest.raises(UsageError) as caught:
        guest.attach_disk(disk)
    assert f"{path} of driver domain {driver.name} {why}" in caught.value.what
    assert caught.value.hint is not None
    return caught.value.hint


def follow(driver: Domain, hint: str) -> None:
    """Type what a hint says."""
    command = hint.partition(f"harness exec {driver.name} -- ")[2].partition(";")[0]
    driver.execute(shlex.split(command)).check()


PARTITIONS = r"printf 'n\np\n1\n\n+4M\nn\np\n2\n\n\nw\n' | fdisk /dev/vda"


def test_a_disk_and_its_partitions(shared: Domain, guests: tuple[Domain, Domain], attach_disk: AttachDisk) -> None:
    run(shared, PARTITIONS)
    one, two = guests
    attach_disk(one, "xvdb", path="/dev/vda1", backend=shared.name)
    why = f"is in use by domain {one.name}, which has /dev/vda1"
    for readonly in (False, True):
        refused(shared, two, "/dev/vda", why, readonly=readonly)
    attach_disk(two, "xvdb", path="/dev/vda2", backend=shared.name)
    one.detach_disk("xvdb")
    two.detach_disk("xvdb")
    # Readers may be many.
    attach_disk(one, "xvdb", path="/dev/vda", backend=shared.name, readonly="true")
    attach_disk(two, "xvdb", path="/dev/vda2", backend=shared.name, readonly="true")
    refused(shared, two, "/dev/vda1", f"is in use by domain {one.name}, which has /dev/vda")


def test_what_is_mounted_there(shared: Domain, guests: tuple[Domain, Domain], attach_disk: AttachDisk) -> None:
    one, _ = guests
    run(shared, "mkfs.ext4 -q /dev/vdb; mkdir /tmp/vdb; mount /dev/vdb /tmp/vdb; truncate -s 4M /tmp/vdb/file")
    refused(shared, one, "/dev/vdb", "is mounted there on /tmp/vdb", readonly=True)
    hint = refused(shared, one, "/dev/vdb", "is mounted there on /tmp/vdb")
    attach_disk(one, "xvdb", path="/tmp/vdb/file", backend=shared.name)
    one.detach_disk("xvdb")
    run(shared, "mount -o remount,ro /tmp/vdb")
    attach_disk(one, "xvdb", path="/dev/vdb", backend=shared.name, readonly="true")
    one.detach_disk("xvdb")
    refused(shared, one, "/dev/vdb", "is mounted there on /tmp/vdb")
    follow(shared, hint)
    attach_disk(one, "xvdb", path="/dev/vdb", backend=shared.name)
    # Nor can it be mounted now.
    assert shared.execute(["mount", "/dev/vdb", "/tmp/vdb"]).status != 0


def test_what_is_swapped_to_there(shared: Domain, guests: tuple[Domain, Domain], attach_disk: AttachDisk) -> None:
    run(shared, "mkswap /dev/vdc; swapon /dev/vdc")
    follow(shared, refused(shared, guests[0], "/dev/vdc", "is swapped to there"))
    attach_disk(guests[0], "xvdb", path="/dev/vdc", backend=shared.name)


def test_two_loop_devices_on_one_file(shared: Domain, guests: tuple[Domain, Domain], attach_disk: AttachDisk) -> None:
    one, two = guests
    run(shared, "modprobe loop; truncate -s 4M /tmp/file; losetup /dev/loop5 /tmp/file; losetup /dev/loop6 /tmp/file")
    refused(shared, one, "/tmp/file", "is in use there by /dev/loop")
    follow(shared, refused(shared, one, "/dev/loop5", "is in use there by /dev/loop6"))
    attach_disk(one, "xvdb", path="/dev/loop5", backend=shared.name)
    refused(shared, two, "/tmp/file", f"is in use by domain {one.name}, which has /dev/loop5")
    one.detach_disk("xvdb")
    run(shared, "losetup -d /dev/loop5")
    attach_disk(one, "xvdb", path="/tmp/file", backend=shared.name)
    device = shared.execute(["sh", "-c", "losetup -a | cut -d: -f1"]).check().text.strip()
    refused(shared, two, device, f"is in use by domain {one.name}, which has /tmp/file")


def test_a_disk_with_logical_volumes(shared: Domain, guests: tuple[Domain, Domain], attach_disk: AttachDisk) -> None:
    one, two = guests
    run(shared, SPLIT.replace("vda", "vdd"))
    refused(shared, one, "/dev/vdd", "is in use there by /dev/mapper/vg0-one")
    attach_disk(one, "xvdb", path="/dev/vg0/one", backend=shared.name)
    refused(shared, two, "/dev/mapper/vg0-one", f"is in use by domain {one.name}, which has /dev/vg0/one")
    refused(shared, two, "/dev/vdd", f"is in use by domain {one.name}, which has /dev/vg0/one", readonly=True)
    attach_disk(two, "xvdb", path="/dev/vg0/two", backend=shared.name)
    one.detach_disk("xvdb")
    two.detach_disk("xvdb")
    for _ in VOLUMES:
        follow(shared, refused(shared, one, "/dev/vdd", "is in use there by /dev/mapper/vg0-"))
    attach_disk(one, "xvdb", path="/dev/vdd", backend=shared.name)


def test_what_holds_a_device_without_our_knowing_it(shared: Domain, guests: tuple[Domain, Domain]) -> None:
    """The kernel lets one writer at a time have a device; the reason reaches the user."""
    run(shared, "modprobe ext4; mkfs.ext4 -q /dev/vde; mkdir -p /tmp/vde")
    shared.start_service(["unshare", "-m", "sh", "-c", "mount /dev/vde /tmp/vde; touch /tmp/hidden; exec sleep 600"])
    until("the mount", lambda: shared.execute(["test", "-e", "/tmp/hidden"]).status == 0)
    with pytest.raises(HarnessError, match="cannot open /dev/vde"):
        guests[0].attach_disk(disk_of({"target": "xvdp", "path": "/dev/vde", "backend": shared.name}))
