"""The block driver uses what its backend offers and nothing else, and data survives either way."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest

from harness.bus.features import BlockFeatures, Notification, Notifications
from harness.domain.domain import Domain
from harness.pytest_plugin.plugin import StartDomain
from tests.guest.conftest import named
from tests.guest.disks import FIO, MIB, NOTHING, VERIFIED, disk, frontend, image, queue, requests, statistics

VCPUS = 2

ALL, LESS, BARRIER, LARGE, ODD, EVENT, POLL, CDROM = (f"xvd{letter}" for letter in "abcdefgh")


def both(strategy: Notification) -> Notifications:
    return Notifications(strategy, strategy)


DISKS = (
    disk(0),
    disk(1, features=NOTHING),
    disk(2, features=replace(NOTHING, barrier=True)),
    disk(3, sector_size=4096),
    disk(4, features=BlockFeatures(indirect_segments=12, ring_page_order=1, queues=2)),
    disk(5, notifications=both(Notification.EVENT)),
    disk(6, notifications=both(Notification.POLL)),
    disk(7, readonly=True, cdrom=True, size=MIB),
    # No more, or the link's room would be less for some.
)
WRITABLE = [one.target for one in DISKS if not one.readonly]

JOBS = {
    "random sizes": ["--rw=randwrite", "--bsrange=4k-128k", "--iodepth=16"],
    "as large as can be": ["--rw=write", "--bs=1m", "--iodepth=4"],
    "from two processors": ["--rw=randwrite", "--bs=4k", "--iodepth=32", "--numjobs=2", "--offset_increment=4m"],
}
TCG_BUSY = 120.0


@pytest.fixture(scope="module")
def domain(request: pytest.FixtureRequest, start_domain_for_module: StartDomain) -> Domain:
    """A guest with two processors, and a disk for each set of features."""
    return start_domain_for_module(named("pv", request, vcpus=VCPUS, disks=DISKS, networks=()))


@pytest.mark.parametrize("job", JOBS)
def test_data_survives_on_every_disk(domain: Domain, job: str) -> None:
    argv = [*VERIFIED]
    # One after the other, as they would else hide from each other what a disk does on its own.
    for target in WRITABLE:
        argv += [f"--name={target}", "--stonewall", f"--filename=/dev/{target}", *JOBS[job]]
    domain.execute(argv, timeout=TCG_BUSY).check()


def test_a_queue_for_each_processor_and_one_that_is_polled(domain: Domain) -> None:
    assert frontend(domain, ALL, "multi-queue-num-queues") == str(VCPUS + 1)
    assert frontend(domain, ALL, "ring-ref") is None
    assert queue(domain, ALL, "io_poll") == "1"
    counts = statistics(domain, ALL)
    assert all(counts[f"queue-{number}/requests"] > 0 for number in range(VCPUS))
    assert counts[f"queue-{VCPUS}/requests"] == 0


def test_more_queues_than_the_backend_has_are_not_used(domain: Domain) -> None:
    assert frontend(domain, ODD, "multi-queue-num-queues") == "2"
    assert queue(domain, ODD, "io_poll") == "0"
    assert frontend(domain, LESS, "multi-queue-num-queues") is None
    assert frontend(domain, LESS, "event-channel") is not None


def test_a_ring_has_several_pages_if_the_backend_takes_them(domain: Domain) -> None:
    assert frontend(domain, ALL, "ring-page-order") == "2"
    assert frontend(domain, ALL, "queue-0/ring-ref3") is not None
    assert frontend(domain, ODD, "ring-page-order") == "1"
    assert frontend(domain, LESS, "ring-page-order") is None
    assert frontend(domain, LESS, "ring-ref") is not None
    slots = {target: int(queue(domain, target, "nr_requests")) for target in (ALL, ODD, LESS)}
    assert slots == {ALL: 128, ODD: 64, LESS: 32}


def test_persistent_grants_are_agreed_upon_only_when_offered(domain: Domain) -> None:
    assert frontend(domain, ALL, "feature-persistent") == "1"
    assert frontend(domain, LESS, "feature-persistent") is None


@pytest.mark.parametrize("target", [ALL, BARRIER])
def test_there_is_a_cache_if_it_can_be_flushed_in_one_way_or_the_other(domain: Domain, target: str) -> None:
    assert queue(domain, target, "write_cache") == "write back"
    before = requests(domain, target)
    domain.execute(["sync", "-d", f"/dev/{target}"]).check()
    assert requests(domain, target) > before


def test_there_is_no_cache_if_it_cannot_be_flushed(domain: Domain) -> None:
    assert queue(domain, LESS, "write_cache") == "write through"
    domain.execute(["dd", "if=/dev/urandom", f"of=/dev/{LESS}", "bs=64k", "count=4", "conv=fsync"]).check()


def test_a_large_request_is_one_or_several_in_the_ring(domain: Domain) -> None:
    def took(target: str) -> int:
        before = requests(domain, target)
        domain.execute(["dd", f"if=/dev/{target}", "of=/dev/null", "bs=1M", "count=1", "iflag=direct"]).check()
        return requests(domain, target) - before

    # Alone in the ring, it goes in parts of 32 frames, or of what the backend takes at once.
    assert took(ALL) == 256 // 32
    assert took(ODD) == -(-256 // 12)
    assert took(LESS) == -(-256 // 11)


def test_what_is_discarded_is_no_longer_in_the_image(domain: Domain) -> None:
    write = "dd if=/dev/urandom of=/dev/$0 bs=1M count=4 oflag=direct && blkdiscard -o 1M -l 2M /dev/$0"
    domain.execute(["sh", "-c", write, ALL]).check()
    content = image(domain, ALL).read_bytes()
    assert content[MIB : 3 * MIB] == bytes(2 * MIB)
    assert content[:MIB].count(0) < MIB // 16
    assert content[3 * MIB : 4 * MIB].count(0) < MIB // 16
    assert int(queue(domain, ALL, "discard_granularity")) > 0


def test_nothing_is_discarded_if_the_backend_cannot(domain: Domain) -> None:
    assert queue(domain, LESS, "discard_max_bytes") == "0"
    assert not domain.execute(["blkdiscard", f"/dev/{LESS}"]).ok


def test_a_disk_may_have_large_sectors(domain: Domain) -> None:
    assert queue(domain, LARGE, "logical_block_size") == "4096"
    half = domain.execute([*FIO, "--name=half", "--rw=read", "--bs=512", f"--filename=/dev/{LARGE}"])
    assert b"Invalid argument" in half.stdout + half.stderr
    content = random.Random(1).randbytes(4096)
    domain.write_file("/tmp/sector", content)
    domain.execute(["dd", "if=/tmp/sector", f"of=/dev/{LARGE}", "bs=4096", "seek=3", "oflag=direct"]).check()
    assert image(domain, LARGE).read_bytes()[3 * 4096 : 4 * 4096] == content


def test_a_cdrom_is_known_as_such(domain: Domain) -> None:
    assert domain.read_file(f"/sys/block/{CDROM}/ro").decode().strip() == "1"
    assert not domain.execute(["dd", "if=/dev/zero", f"of=/dev/{CDROM}", "count=1", "conv=fsync"]).ok


def test_without_polling_every_answer_comes_with_an_event(domain: Domain) -> None:
    job = ["--rw=randread", "--bs=4k", "--iodepth=1", "--number_ios=200", "--name=reads"]
    domain.execute([*FIO, *job, f"--filename=/dev/{EVENT}"]).check()
    counts = statistics(domain, EVENT)
    default = range(VCPUS)
    assert sum(counts[f"queue-{number}/spins"] + counts[f"queue-{number}/polls-found"] for number in default) == 0
    assert sum(counts[f"queue-{number}/interrupts"] for number in default) >= 200


def test_with_polling_hardly_any_does(domain: Domain) -> None:
    def events() -> int:
        counts = statistics(domain, POLL)
        return sum(counts[f"queue-{number}/interrupts"] for number in range(VCPUS))

    before = events(), requests(domain, POLL)
    job = ["--rw=randread", "--bs=4k", "--iodepth=16", "--number_ios=2000", "--name=reads", "--cpus_allowed=0"]
    domain.execute([*FIO, *job, f"--filename=/dev/{POLL}"]).check()
    done = requests(domain, POLL) - before[1]
    assert done >= 1000
    assert events() - before[0] < done / 4


def test_with_many_disks_there_is_less_room_for_each_but_enough(domain: Domain) -> None:
    more = [disk(number) for number in range(len(DISKS), 16)]
    argv = [*VERIFIED, "--rw=write", "--bs=1m", "--iodepth=2", "--ioengine=io_uring", "--hipri"]
    for one in more:
        domain.attach_disk(one)
        argv += [f"--name={one.target}", "--stonewall", f"--filename=/dev/{one.target}"]
    domain.execute(argv, timeout=TCG_BUSY).check()
    queues = [queue(domain, one.target, "max_hw_sectors_kb") for one in more]
    assert queues == ["1024"] * len(more)
    # Fewer queues than the others have, the polled one is the first to be missed.
    assert frontend(domain, more[-1].target, "multi-queue-num-queues") is None
