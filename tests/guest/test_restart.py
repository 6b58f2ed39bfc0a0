"""A backend process dies under load and another one takes its place: the guest sees a pause, and nothing else."""

from __future__ import annotations

import hashlib
import os
import signal
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import pytest

from harness.domain import records
from harness.domain.domain import Domain
from harness.host.deadline import Deadline
from harness.pytest_plugin.plugin import AttachDisk, AttachNetwork, StartDomain
from harness.store.client import StoreClient
from tests.guest import load
from tests.guest.conftest import named
from tests.guest.load import SECONDS, living, transferring, verifying, wait_for, wait_under_load

KILLS = 20
LOAD_BEFORE_A_KILL = (0.1, 0.7)
"""Seconds, at random: requests are in every state when the process dies."""
RUN_SECONDS = 25.0


def backend(domain: Domain) -> int:
    return domain.parts.record.pids["backend"]


def kill_backend(domain: Domain) -> None:
    """Kill it and wait until there is another one."""
    before = backend(domain)
    os.kill(before, signal.SIGKILL)
    wait_for("another backend process", lambda: backend(domain) != before)


@pytest.fixture
def quiet_kernel(pv: Domain) -> Iterator[None]:
    """Nothing that the guest's kernel says during a test is alarming."""
    with load.quiet_kernel(pv):
        yield


def test_neither_disks_nor_network_lose_anything(
    request: pytest.FixtureRequest, start_domain: StartDomain, attach_disk: AttachDisk
) -> None:
    # One of its own, since it has used up then how many deaths are borne in half a minute.
    domain = start_domain(named("pv", request))
    files = attach_disk(domain, "xvdb", size="64MiB")
    with load.quiet_kernel(domain), ThreadPoolExecutor() as pool, transferring(domain) as arrived:
        wait_for("the first data", lambda: arrived() > 0)
        with living(domain, files):
            fio = pool.submit(partial(domain.execute, verifying("/dev/xvda", RUN_SECONDS), timeout=SECONDS))
            for _ in range(KILLS):
                wait_under_load(fio, LOAD_BEFORE_A_KILL)
                kill_backend(domain)
            pieces = arrived()
            done = fio.result(SECONDS)
        # The connection that was there at first still carries data.
        wait_for("more data", lambda: arrived() > pieces + 1)
    assert done.status == 0, done.stdout + done.stderr
    assert "err= 0" in done.text
    assert domain.parts.record.restarts == KILLS


def test_a_death_while_nothing_happens_is_mended_by_itself(pv: Domain, quiet_kernel: None) -> None:
    write = "dd if=/dev/urandom of=/tmp/data bs=64k count=16 && dd if=/tmp/data of=/dev/xvda bs=64k oflag=direct"
    pv.execute(["sh", "-c", write]).check()
    kill_backend(pv)
    pv.execute(["sh", "-c", "dd if=/dev/xvda bs=64k count=16 iflag=direct | cmp - /tmp/data"]).check()
    pv.execute(["ping", "-c", "1", "-W", "5", pv.network.host_address]).check()


def test_two_deaths_at_once_are_mended_as_one(pv: Domain, quiet_kernel: None) -> None:
    """The second process dies before the guest has connected to it."""
    kill_backend(pv)
    kill_backend(pv)
    pv.execute(["dd", "if=/dev/xvda", "of=/dev/null", "count=1", "iflag=direct", "status=none"]).check()
    pv.execute(["ping", "-c", "1", "-W", "5", pv.network.host_address]).check()


def test_whoever_looks_sees_the_new_process(pv: Domain) -> None:
    kill_backend(pv)
    # Whoever has the domain knows first; the record is written right after that.
    deadline = Deadline(SECONDS, "the record of the new process")
    while (record := records.find(pv.name)).restarts != pv.parts.record.restarts:
        deadline.check()
    assert record.pids["backend"] == backend(pv)
    assert Path(f"/proc/{backend(pv)}").exists()
    assert "has died; process" in (pv.logs / "backend.log").read_text()


def test_devices_that_were_attached_while_it_ran_come_back_too(
    pv: Domain, quiet_kernel: None, attach_disk: AttachDisk, attach_network: AttachNetwork, tmp_path: Path
) -> None:
    data = os.urandom(1 << 20)
    image = tmp_path / "data.img"
    image.write_bytes(data)
    device = attach_disk(pv, "xvdb", path=str(image), readonly="true")
    card = attach_network(pv)
    kill_backend(pv)
    assert pv.execute(["sha256sum", device]).check().text.split()[0] == hashlib.sha256(data).hexdigest()
    pv.execute(["ping", "-c", "1", "-W", "5", "-I", card.lease.address, pv.network.host_address]).check()


def test_the_new_process_closes_what_the_old_one_had_opened(pv: Domain, attach_disk: AttachDisk) -> None:
    attach_disk(pv, "xvdb", size="1MiB")
    kill_backend(pv)
    pv.detach_disk("xvdb")
    with StoreClient.connect() as store:
        assert store.directory(f"/local/domain/0/backend/vbd/{pv.domid}") == ["51712"]
