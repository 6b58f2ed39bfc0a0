"""The backend dies while disks are in use: the guest sees a pause, no error, and nothing is lost.

And a backend that is only stopped: what becomes of a disk that is taken away under it.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import pytest

from harness.bus.hotplug import close_device
from harness.bus.xenbus import XenbusState, read_state, wait_for_state
from harness.domain.domain import Domain
from harness.host.deadline import Deadline
from harness.pytest_plugin.plugin import StartDomain
from harness.store.client import StoreClient
from tests.guest.conftest import named
from tests.guest.disks import NOTHING, VERIFIED, device, disk, frontend, requests

SECONDS = 60.0
DEATHS = 2
PROGRESS = 300
"""Requests after a death: more than twice what a ring holds, so another backend has answered some."""

FULL, PLAIN = "xvda", "xvdb"
# Each loop reads all that it has written. They end by themselves: fio, when interrupted, may wait for ever.
JOBS = {
    "many small ones": ["--rw=randrw", "--bs=4k", "--iodepth=32", "--loops=10"],
    "large ones": ["--rw=randrw", "--bsrange=64k-512k", "--iodepth=8", "--size=8m", "--loops=24"],
    "polled ones": ["--rw=randrw", "--bsrange=4k-256k", "--iodepth=8", "--loops=24", "--ioengine=io_uring", "--hipri"],
    "flushes": ["--rw=randrw", "--bs=4k", "--iodepth=16", "--fsync=4", "--loops=5"],
}


@pytest.fixture(scope="module")
def domain(request: pytest.FixtureRequest, start_domain_for_module: StartDomain) -> Domain:
    return start_domain_for_module(named("pv", request, disks=(disk(0), disk(1, features=NOTHING)), networks=()))


def backend(domain: Domain) -> int:
    return domain.parts.record.pids["backend"]


@contextmanager
def working(domain: Domain, target: str, job: str) -> Iterator[None]:
    """Have fio write and verify; it must not end before the block has, nor meet an error."""
    argv = [*VERIFIED, *JOBS[job], f"--name={target}", f"--filename=/dev/{target}"]
    with ThreadPoolExecutor(1) as pool:
        fio = pool.submit(domain.execute, argv, timeout=2 * SECONDS)
        yield
        assert not fio.done(), fio.result()
        fio.result().check()


def wait_for_progress(domain: Domain, target: str) -> None:
    """Wait until there have been so many more requests that no ring can hold them all."""
    deadline = Deadline(SECONDS, f"{PROGRESS} requests to {target}")
    start = requests(domain, target)
    while requests(domain, target) < start + PROGRESS:
        deadline.check()


@pytest.mark.parametrize(("target", "job"), [*((FULL, job) for job in JOBS), (PLAIN, "large ones")])
def test_nothing_is_lost_when_the_backend_dies(domain: Domain, target: str, job: str) -> None:
    with working(domain, target, job):
        for _ in range(DEATHS):
            wait_for_progress(domain, target)
            os.kill(backend(domain), signal.SIGKILL)
        wait_for_progress(domain, target)


def test_one_that_offers_less_is_good_enough(domain: Domain) -> None:
    limits = dict.fromkeys(("ring-page-order-limit", "indirect-segments-limit", "persistent-enable"), "0")
    limits["queues-limit"] = "1"
    assert frontend(domain, FULL, "multi-queue-num-queues") == "2"
    with StoreClient.connect() as store, working(domain, FULL, "polled ones"):
        wait_for_progress(domain, FULL)
        for node, value in limits.items():
            store.write(f"{device(domain, FULL).backend}/{node}", value)
        os.kill(backend(domain), signal.SIGKILL)
        wait_for_progress(domain, FULL)
        for node in ("multi-queue-num-queues", "ring-page-order", "feature-persistent", "queue-0"):
            assert frontend(domain, FULL, node) is None
        for node in limits:
            store.rm(f"{device(domain, FULL).backend}/{node}")
        os.kill(backend(domain), signal.SIGKILL)
        wait_for_progress(domain, FULL)
    assert frontend(domain, FULL, "multi-queue-num-queues") == "2"


def test_a_disk_in_use_closes_when_its_last_user_has_gone(domain: Domain) -> None:
    plain = device(domain, PLAIN)
    # fio closes its file now and then.
    domain.start_service(["sh", "-c", f"exec sleep 1000 9</dev/{PLAIN}"])
    with StoreClient.connect() as store:
        with working(domain, PLAIN, "many small ones"):
            wait_for_progress(domain, PLAIN)
            close_device(store, plain)
            wait_for_state(store, plain.frontend, {XenbusState.CLOSING}, Deadline(SECONDS, "closing"))
        assert read_state(store, plain.backend) != XenbusState.CLOSED
        domain.execute(["killall", "sleep"]).check()
        wait_for_state(store, plain.backend, {XenbusState.CLOSED}, Deadline(SECONDS, "closed"))
    assert not domain.execute(["test", "-e", f"/dev/{PLAIN}"]).ok


def test_a_disk_can_be_taken_from_a_backend_that_does_not_answer(domain: Domain) -> None:
    name = device(domain, FULL)
    name_on_bus = f"vbd-{domain.domid}-{name.devid}"
    driver = "/sys/bus/pvbus/drivers/pvblk"
    with ThreadPoolExecutor(1) as pool:
        argv = [*VERIFIED, *JOBS["many small ones"], "--time_based", "--runtime=60", "--name=job"]
        fio = pool.submit(domain.execute, [*argv, f"--filename=/dev/{FULL}"], timeout=2 * SECONDS)
        wait_for_progress(domain, FULL)
        os.kill(backend(domain), signal.SIGSTOP)
        try:
            domain.execute(["sh", "-c", f"echo {name_on_bus} >{driver}/unbind"], timeout=SECONDS).check()
            assert b"Input/output error" in fio.result().stdout + fio.result().stderr
            assert not domain.execute(["test", "-e", f"/dev/{FULL}"]).ok
        finally:
            # It answers what it had been asked, and finds nobody there.
            os.kill(backend(domain), signal.SIGCONT)
    with StoreClient.connect() as store:
        wait_for_state(store, name.backend, {XenbusState.CLOSED}, Deadline(SECONDS, "closed"))
        domain.execute(["sh", "-c", f"echo {name_on_bus} >{driver}/bind"]).check()
        for end in (name.backend, name.frontend):
            wait_for_state(store, end, {XenbusState.CONNECTED}, Deadline(SECONDS, "connected again"))
    job = ["--rw=randwrite", "--bs=4k", "--iodepth=16", "--name=job", f"--filename=/dev/{FULL}"]
    domain.execute([*VERIFIED, *job], timeout=SECONDS).check()
