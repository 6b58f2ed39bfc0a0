"""A driver domain serves others with its disks and its network card: all of it is there, and nobody sees more."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from harness.domain.definition_settings import disk_of, network_of
from harness.domain.domain import Domain
from harness.host.deadline import Deadline
from harness.host.errors import GuestError, UsageError
from harness.pytest_plugin.plugin import AttachDisk, StartDomain
from harness.store.client import StoreClient
from tests.guest.disks import VERIFIED
from tests.guest.driven import (
    MIB,
    SECONDS,
    driver_definition,
    image,
    linked_domains,
    make_file,
    served_definition,
    until,
    wait_for_links,
)

WRITE = """
head -c "$2" /dev/urandom >/tmp/data && dd if=/tmp/data of="$1" bs=64k conv=fsync status=none && sha256sum /tmp/data
"""


@pytest.fixture(scope="module")
def driver(request: pytest.FixtureRequest, start_domain_for_module: StartDomain) -> Domain:
    return start_domain_for_module(driver_definition(request, disks=3))


@pytest.fixture(scope="module")
def guest(request: pytest.FixtureRequest, driver: Domain, start_domain_for_module: StartDomain) -> Domain:
    return start_domain_for_module(served_definition(request, driver, ["/dev/vda"], cards=1))


@pytest.fixture(scope="module")
def other(request: pytest.FixtureRequest, driver: Domain, start_domain_for_module: StartDomain) -> Domain:
    return start_domain_for_module(served_definition(request, driver, ["/dev/vdb"], cards=1, suffix="-other"))


def write(domain: Domain, device: str, size: int) -> str:
    """Have a guest write something and wait until it is durable; returns its SHA-256."""
    return domain.execute(["sh", "-c", WRITE, "sh", device, str(size)], timeout=SECONDS).check().text.split()[0]


def sha256(path: Path, size: int) -> str:
    with path.open("rb") as file:
        return hashlib.sha256(file.read(size)).hexdigest()


def test_what_is_written_is_on_the_driver_domains_disk(driver: Domain, guest: Domain, other: Domain) -> None:
    written = {"vda": write(guest, "/dev/xvda", 8 * MIB), "vdb": write(other, "/dev/xvda", 8 * MIB)}
    assert {target: sha256(image(driver, target), 8 * MIB) for target in written} == written


def test_everything_that_is_written_can_be_read_again(guest: Domain) -> None:
    jobs = ["--rw=randrw", "--bsrange=4k-256k", "--iodepth=16", "--loops=2", "--name=x", "--filename=/dev/xvda"]
    guest.execute([*VERIFIED, *jobs], timeout=SECONDS).check()


def test_a_disk_has_the_size_that_it_has_there(driver: Domain, guest: Domain) -> None:
    size = guest.read_file("/sys/block/xvda/size")
    assert size == driver.read_file("/sys/block/vda/size")
    with pytest.raises(UsageError, match="has the size that its driver domain gives it"):
        guest.resize_disk("xvda", 32 * MIB)


def test_a_file_there_is_a_disk_here(driver: Domain, guest: Domain, attach_disk: AttachDisk) -> None:
    content = make_file(driver, "/tmp/data.img")
    device = attach_disk(guest, "xvdb", path="/tmp/data.img", backend=driver.name)
    read = guest.execute(["sha256sum", device]).check().text.split()[0]
    assert read == content
    written = write(guest, device, MIB)
    assert driver.execute(["sha256sum", "/tmp/data.img"]).check().text.split()[0] == written
    guest.detach_disk("xvdb")
    assert driver.execute(["losetup", "-a"]).check().text == ""


def test_a_read_only_disk_is_that_in_the_driver_domain_too(
    driver: Domain, guest: Domain, other: Domain, attach_disk: AttachDisk
) -> None:
    make_file(driver, "/tmp/shared.img")
    for domain in (guest, other):
        attach_disk(domain, "xvdb", path="/tmp/shared.img", backend=driver.name, readonly="true")
        assert domain.read_file("/sys/block/xvdb/ro").strip() == b"1"


def test_nobody_gets_what_another_one_writes_to(driver: Domain, guest: Domain, other: Domain) -> None:
    driver.execute(["ln", "-s", "/dev/vda", "/tmp/another-name"]).check()
    for path in ("/dev/vda", "/tmp/another-name"):
        with pytest.raises(UsageError, match="is in use by domain"):
            other.attach_disk(disk_of({"target": "xvdc", "path": path, "backend": driver.name}))


def test_what_is_not_there_is_refused_with_its_name(driver: Domain, guest: Domain) -> None:
    with pytest.raises(GuestError, match="there is no block device or file /tmp/nothing"):
        guest.attach_disk(disk_of({"target": "xvdc", "path": "/tmp/nothing", "backend": driver.name}))
    with pytest.raises(UsageError, match="has nobody as a back end, and no driver domain of that name runs"):
        guest.attach_disk(disk_of({"target": "xvdc", "path": "/dev/vda", "backend": "nobody"}))
    with pytest.raises(UsageError, match="runs but is no driver domain"):
        driver.attach_disk(disk_of({"target": "xvdc", "path": "/dev/vda", "backend": guest.name}))
    with StoreClient.connect() as store:
        assert store.directory(f"/libxl/{guest.domid}/device/vbd") == ["51712"]
        assert store.directory(f"/local/domain/{driver.domid}/backend/vbd/{guest.domid}") == ["51712"]


def ping(domain: Domain, address: str, *options: str) -> None:
    domain.execute(["ping", "-c", "3", "-W", "5", *options, address], timeout=SECONDS).check()


def test_the_bridge_leads_to_the_host_and_to_each_other(driver: Domain, guest: Domain, other: Domain) -> None:
    for address in (guest.network.host_address, driver.addresses[0], other.addresses[0]):
        ping(guest, address)
        ping(guest, address, "-s", "1472")
    ports = set(driver.execute(["ls", "/sys/class/net/br0/brif"]).check().text.split())
    assert ports == {"eth0", f"vif{guest.domid}.0", f"vif{other.domid}.0"}


def test_data_cross_the_bridge_whole(guest: Domain) -> None:
    with guest.ssh() as client:
        guest.execute(["sh", "-c", "head -c 4194304 /dev/urandom >/tmp/sent"]).check()
        expected = guest.execute(["sha256sum", "/tmp/sent"]).check().text.split()[0]
        done = client.run("cat /tmp/sent", Deadline(SECONDS, "a file over SSH"))
    assert hashlib.sha256(done.stdout).hexdigest() == expected


def interfaces(domain: Domain) -> list[str]:
    # Not with ls, which looks at each and fails when one goes meanwhile.
    found = domain.execute(["sh", "-c", "echo /sys/class/net/*"]).check().text.split()
    return [Path(path).name for path in found]


def test_a_card_comes_and_goes(driver: Domain, guest: Domain) -> None:
    card = guest.attach_network(network_of({"backend": driver.name}))
    ping(guest, guest.network.host_address, "-I", card.lease.address)
    guest.detach_network(str(card.number))
    assert f"vif{guest.domid}.{card.number}" not in interfaces(driver)


def test_a_driver_domain_has_links_to_those_that_it_serves_and_to_nobody_else(
    request: pytest.FixtureRequest, driver: Domain, guest: Domain, other: Domain, start_domain: StartDomain
) -> None:
    bystander = start_domain(served_definition(request, driver, suffix="-bystander"))
    assert linked_domains(driver) == {0, guest.domid, other.domid}
    assert linked_domains(guest) == linked_domains(other) == {0, driver.domid}
    assert linked_domains(bystander) == {0}


@pytest.mark.parametrize("how", ["destroy", "shutdown"])
def test_nothing_is_left_of_one_that_ends(
    how: str, request: pytest.FixtureRequest, driver: Domain, start_domain: StartDomain
) -> None:
    before = linked_domains(driver)
    make_file(driver, "/tmp/leaving.img")
    paths = ["/tmp/leaving.img", "/dev/vdc"]
    domain = start_domain(served_definition(request, driver, paths, cards=1, suffix="-leaving"))
    domid = domain.domid
    assert linked_domains(driver) == {*before, domid}
    domain.start_service(["dd", "if=/dev/zero", "of=/dev/xvda", "bs=4k", "count=1000000"])
    getattr(domain, how)()
    wait_for_links(driver, before)
    assert f"vif{domid}.0" not in interfaces(driver)
    # When the link has gone, nobody has it open any more, and it is let go of.
    until("the end of the loop device", lambda: "leaving" not in driver.execute(["losetup", "-a"]).check().text)
    with StoreClient.connect() as store:
        assert not store.exists(f"/local/domain/{driver.domid}/backend/vbd/{domid}")
    # And its disks are free.
    start_domain(served_definition(request, driver, ["/dev/vdc"], suffix="-next"))
