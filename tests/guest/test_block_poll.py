"""Requests whose answers are polled for by those who sent them: io_uring with a ring of its own, without events."""

from __future__ import annotations

import pytest

from harness.bus.features import BlockFeatures
from harness.domain.domain import Domain
from harness.pytest_plugin.plugin import StartDomain
from tests.guest.conftest import named
from tests.guest.disks import VERIFIED, disk, queue, statistics

POLLED, LIMITED, UNPOLLED = "xvda", "xvdb", "xvdc"
POLL_QUEUE = "queue-1"

HIPRI = [*VERIFIED, "--ioengine=io_uring", "--hipri", "--size=8m", "--name=job"]
JOBS = {
    "one at a time": ["--rw=randwrite", "--bs=4k", "--iodepth=1"],
    "16 at a time": ["--rw=randwrite", "--bs=4k", "--iodepth=16"],
    "random sizes": ["--rw=randwrite", "--bsrange=512-256k", "--iodepth=16"],
    # Not one of these fits into a request of the ring; the second are more than the block layer takes at once.
    "1 MiB": ["--rw=write", "--bs=1m", "--iodepth=4"],
    "4 MiB": ["--rw=write", "--bs=4m", "--iodepth=2"],
    "flushes between them": ["--rw=randwrite", "--bs=4k", "--iodepth=8", "--fsync=16"],
    "each write made durable": ["--rw=randwrite", "--bs=4k", "--iodepth=8", "--sync=dsync", "--size=1m"],
}
TRAPS = ("1 MiB", "4 MiB", "flushes between them")
SECONDS = 30.0
"""Far longer than any of them takes: the trap is that they never end."""


@pytest.fixture(scope="module")
def domain(request: pytest.FixtureRequest, start_domain_for_module: StartDomain) -> Domain:
    """A guest with a disk that can be polled, one that can be but takes only small requests, one that cannot."""
    disks = (
        disk(0),
        disk(1, features=BlockFeatures(indirect_segments=0, ring_page_order=0)),
        disk(2, features=BlockFeatures(poll_queues=0)),
    )
    return start_domain_for_module(named("pv", request, disks=disks, networks=()))


@pytest.mark.parametrize(
    ("target", "job"), [*((POLLED, job) for job in JOBS), *((one, job) for one in (LIMITED, UNPOLLED) for job in TRAPS)]
)
def test_data_survives(domain: Domain, target: str, job: str) -> None:
    domain.execute([*HIPRI, *JOBS[job], f"--filename=/dev/{target}"], timeout=SECONDS).check()


def test_polled_requests_have_a_ring_of_their_own_and_cause_no_events(domain: Domain) -> None:
    before = statistics(domain, POLLED)
    domain.execute([*HIPRI, *JOBS["16 at a time"], f"--filename=/dev/{POLLED}"]).check()
    counts = statistics(domain, POLLED)
    written_and_read = 2 * 8 * 256
    assert counts[f"{POLL_QUEUE}/requests"] - before[f"{POLL_QUEUE}/requests"] >= written_and_read
    # Events are for requests that nobody polls for. On a busy host the block layer has sent one of those there, once.
    assert counts[f"{POLL_QUEUE}/interrupts"] - before[f"{POLL_QUEUE}/interrupts"] <= written_and_read // 1000


def test_other_requests_do_not_use_it(domain: Domain) -> None:
    before = statistics(domain, POLLED)
    domain.execute([*VERIFIED, "--name=job", "--rw=randwrite", "--bs=4k", f"--filename=/dev/{POLLED}"]).check()
    assert statistics(domain, POLLED)[f"{POLL_QUEUE}/requests"] == before[f"{POLL_QUEUE}/requests"]


def test_polling_can_be_switched_off(domain: Domain) -> None:
    assert queue(domain, POLLED, "io_poll") == "1"
    assert queue(domain, UNPOLLED, "io_poll") == "0"
    assert not any(name.startswith(POLL_QUEUE) for name in statistics(domain, UNPOLLED))
