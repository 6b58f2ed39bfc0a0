"""A domain that a driver domain serves is killed in the middle of I/O: what was flushed stays, and all is let go of."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest

from harness.domain import records
from harness.domain.definition_settings import disk_of
from harness.domain.domain import Domain
from harness.domain.life import DomainState
from harness.host.deadline import Deadline
from harness.host.errors import GuestError
from harness.pytest_plugin.plugin import StartDomain
from harness.store.client import StoreClient
from tests.guest.cachestat import CLEAN, require_cachestat, unwritten
from tests.guest.disks import VERIFIED
from tests.guest.driven import (
    SECONDS,
    driver_definition,
    image,
    kill,
    panic,
    served_definition,
    until,
)
from tests.guest.load import quiet_kernel

AT_ONCE = 10.0
"""Seconds; a guest of which a device is taken without it letting go of that has 20."""
BLOCK = 4096
ENOUGH = 50
"""Blocks of each disk that are known to be durable when the domain dies."""

# Writes numbered blocks, and tells of each when the disk has answered that it is durable.
WRITE = """
number=0
while [ $number -lt 2048 ]; do
    yes "block $number of $1" | head -c 4096 |
        dd of="/dev/$1" bs=4k seek=$number iflag=fullblock oflag=direct conv=fsync,notrunc status=none || exit
    echo "durable: $1 $number" >/dev/ttyS0
    number=$((number + 1))
done
"""

# Behind those blocks: requests of all kinds, sixteen at a time.
BESIDES = ("--rw=randrw", "--bsrange=4k-128k", "--iodepth=16", "--offset=8m", "--size=4m", "--time_based")


def block(number: int, target: str) -> bytes:
    line = f"block {number} of {target}\n".encode()
    return (line * (BLOCK // len(line) + 1))[:BLOCK]


def durable(guest: Domain, target: str) -> int:
    """How many blocks of a disk the guest has said to be durable."""
    said = (guest.logs / "console.log").read_text()
    return len(re.findall(rf"durable: {target} \d+$", said, re.MULTILINE))


def keep_writing(guest: Domain, *targets: str) -> None:
    for target in targets:
        guest.start_service(["sh", "-c", WRITE, "sh", target])
        load = ["fio", "--name=x", "--direct=1", "--ioengine=libaio", "--runtime=600", f"--filename=/dev/{target}"]
        guest.start_service([*load, *BESIDES])
    until("blocks on each", lambda: all(durable(guest, target) >= ENOUGH for target in targets))


def lost(content: bytes, target: str, count: int) -> list[int]:
    """Which of a disk's first blocks are not what was written."""
    return [
        number for number in range(count) if content[number * BLOCK : (number + 1) * BLOCK] != block(number, target)
    ]


def end(guest: Domain) -> None:
    """Take a killed domain apart, as its supervisor does."""
    with pytest.raises(GuestError):
        guest.wait_end()
    guest.destroy()


FILE = """
mkfs.ext4 -q /dev/vdb && mkdir /tmp/mnt && mount /dev/vdb /tmp/mnt && truncate -s 12M /tmp/mnt/data.img
"""
READ_FILE = """
mkdir /tmp/mnt && mount /dev/vdb /tmp/mnt && dd if=/tmp/mnt/data.img of=/dev/vda bs=1M conv=fsync status=none
"""


def test_what_was_flushed_stays_when_both_die(request: pytest.FixtureRequest, start_domain: StartDomain) -> None:
    """Also when the driver domain had it in a cache of its own, as it has files."""
    driver = start_domain(driver_definition(request))
    driver.execute(["sh", "-c", FILE]).check()
    guest = start_domain(served_definition(request, driver, ["/dev/vda", "/tmp/mnt/data.img"]))
    keep_writing(guest, "xvda", "xvdb")
    for domain in (guest, driver):
        kill(domain)
    end(guest)
    count = {target: durable(guest, target) for target in ("xvda", "xvdb")}
    assert lost(image(driver, "vda").read_bytes(), "xvda", count["xvda"]) == []
    until("its return", lambda: driver.parts.record.restarts == 1 and driver.state == DomainState.RUNNING)
    driver.execute(["sh", "-c", READ_FILE]).check()
    assert lost(image(driver, "vda").read_bytes(), "xvdb", count["xvdb"]) == []


def test_a_flush_goes_through_to_the_hosts_disk(request: pytest.FixtureRequest, start_domain: StartDomain) -> None:
    driver = start_domain(driver_definition(request))
    require_cachestat(image(driver, "vda"))
    guest = start_domain(served_definition(request, driver, ["/dev/vda"]))
    before = []
    for number in range(5):
        place = f"seek={number}"
        write = ["dd", "if=/dev/urandom", "of=/dev/xvda", "bs=64k", "count=8", "oflag=direct", place]
        guest.execute(write).check()
        before.append(unwritten(image(driver, "vda")))
        guest.execute(["sync", "-d", "/dev/xvda"]).check()
        assert unwritten(image(driver, "vda")) == CLEAN
    # Or nothing is proven.
    assert any(state != CLEAN for state in before)


# Not with ls, which looks at each and fails when one goes meanwhile.
LIST = """
printf '%s\\n' /sys/bus/pvbus/devices/backend-* /sys/class/net/* /sys/class/net/br0/brif/* /sys/bus/pci/drivers/pvbus/*
losetup -a
"""


def traces(driver: Domain, domid: int) -> dict[str, list[str]]:
    """What a driver domain, its QEMU and XenStore still have of a domain that it has served."""
    own = driver.execute(["sh", "-c", LIST]).check().text
    maps = Path(f"/proc/{driver.parts.record.pids['qemu']}/maps").read_text()
    home = f"/local/domain/{driver.domid}"
    with StoreClient.connect() as store:
        links = [store.read(f"{home}/link/{slot}").decode() for slot in store.directory(f"{home}/link")]
        nodes = [kind for kind in ("vbd", "vif") if store.exists(f"{home}/backend/{kind}/{domid}")]
    return {
        "devices": re.findall(rf"backend-\w+-{domid}-\d+|vif{domid}\.\d+|leaving", own),
        "links": re.findall(r"/0000:\S+$", own, re.MULTILINE),
        "memory": re.findall(rf"harness-link-{domid}-\d+", maps),
        "nodes": nodes + [link for link in links if link == f"grantee {domid}"],
    }


@contextmanager
def served_all_the_time(guest: Domain) -> Iterator[None]:
    """A domain writes and reads back meanwhile, and never waits long for an answer."""
    argv = [*VERIFIED, "--rw=randrw", "--bs=4k", "--iodepth=16", "--loops=100000", "--name=x", "--filename=/dev/xvda"]
    with ThreadPoolExecutor(1) as pool, quiet_kernel(guest):
        fio = pool.submit(guest.execute, [*argv, f"--max_latency={AT_ONCE:.0f}s"], timeout=2 * SECONDS)
        until("writes", lambda: written(guest) > 0)
        try:
            yield
            before = written(guest)
            until("more writes", lambda: written(guest) > before + 300)
            # An error, wrong data or a long wait would have ended it.
            assert not fio.done(), fio.result()
        finally:
            # Asked to end while it reads back, it sometimes waits for itself, with nothing under way.
            guest.execute(["killall", "-KILL", "fio"])


def written(guest: Domain) -> int:
    return int(guest.read_file("/sys/block/xvda/stat").split()[4])


@pytest.mark.parametrize("die", [kill, panic])
@pytest.mark.parametrize("on_crash", ["destroy", "preserve"])
def test_all_that_it_had_is_let_go_of_at_once(
    on_crash: str, die: Callable[[Domain], None], request: pytest.FixtureRequest, start_domain: StartDomain
) -> None:
    driver = start_domain(driver_definition(request, disks=3))
    driver.execute(["truncate", "-s", "12M", "/tmp/leaving.img"]).check()
    other = start_domain(served_definition(request, driver, ["/dev/vdb"], cards=1, suffix="-other"))
    before = traces(driver, other.domid + 1)
    paths = ["/dev/vda", "/tmp/leaving.img"]
    guest = start_domain(served_definition(request, driver, paths, cards=1, on_crash=on_crash))
    domid = guest.domid
    with quiet_kernel(driver), served_all_the_time(other):
        keep_writing(guest, "xvda", "xvdb")
        guest.start_service(["iperf3", "-s"])
        driver.start_service(["iperf3", "-c", guest.addresses[0], "-t", "600"])
        assert all(traces(driver, domid)[kind] != before[kind] for kind in before)
        die(guest)
        deadline = Deadline(AT_ONCE, "the end of all that it had")
        if on_crash == "preserve":
            until("the crash", lambda: records.find(guest.name).state == "crashed")
        else:
            end(guest)
        while traces(driver, domid) != before:
            deadline.check()
        # Its disks are free: another domain may write to them, and finds there what was flushed.
        other.attach_disk(disk_of({"target": "xvdb", "path": "/dev/vda", "backend": driver.name}))
        other.attach_disk(disk_of({"target": "xvdc", "path": "/tmp/leaving.img", "backend": driver.name}))
        for device, target in (("xvdb", "xvda"), ("xvdc", "xvdb")):
            count = durable(guest, target)
            read = ["dd", f"if=/dev/{device}", "bs=4k", f"count={count}", "iflag=direct", "status=none"]
            assert lost(other.execute(read).check().stdout, target, count) == []
    if on_crash == "preserve":
        guest.end()
        end(guest)
