"""A backend process dies under load and another one takes its place: the guest sees a pause, and nothing else."""

from __future__ import annotations

import hashlib
import os
import random
import re
import signal
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import pytest

from harness.domain import records
from harness.domain.domain import Domain
from harness.guest.completed import Completed
from harness.host.deadline import Deadline
from harness.pytest_plugin.plugin import AttachDisk, AttachNetwork
from harness.store.client import StoreClient

SECONDS = 60.0
KILLS = 4
LOAD_BEFORE_A_KILL = (0.2, 0.9)
"""Seconds, at random: requests are in every state when the process dies."""

FIO = (
    *("fio", "--name=restart", "--filename=/dev/xvda", "--rw=randwrite", "--bsrange=4k-256k", "--size=192m"),
    *("--direct=1", "--ioengine=libaio", "--iodepth=16", "--verify=crc32c", "--verify_fatal=1"),
    # Reads come in between: each 512 writes are read back before there are more.
    *("--verify_backlog=512", "--randrepeat=0", "--loops=100", "--time_based", "--runtime=6"),
)
ALARMING = re.compile(r"error|timed? ?out|BUG|WARNING|Call Trace|failed|I/O", re.IGNORECASE)
DATA = 4 << 20
"""Bytes of each piece of data that goes over the network."""


def backend(domain: Domain) -> int:
    return domain.parts.record.pids["backend"]


def wait_for(what: str, condition: Callable[[], bool]) -> None:
    """Wait for something that another process does in its own good time."""
    deadline, pause = Deadline(SECONDS, what), threading.Event()
    while not condition():
        pause.wait(min(0.01, deadline.check()))


def kill_backend(domain: Domain) -> None:
    """Kill it and wait until there is another one."""
    before = backend(domain)
    os.kill(before, signal.SIGKILL)
    wait_for("another backend process", lambda: backend(domain) != before)


@pytest.fixture
def quiet_kernel(pv: Domain) -> Iterator[None]:
    """Nothing that the guest's kernel says during a test is alarming."""
    pv.execute(["dmesg", "-c"]).check()
    yield
    said = pv.execute(["dmesg"]).check().text
    assert not ALARMING.search(said), said


@contextmanager
def transferring(domain: Domain) -> Iterator[Callable[[], int]]:
    """Data goes over one TCP connection all the time, checked by SSH, whose checksums end it for a single bit.

    Gives what tells how many pieces have come.
    """
    done = threading.Event()
    arrived = 0

    def transfer() -> None:
        nonlocal arrived
        with domain.ssh() as client:
            while not done.is_set():
                answer = client.run(f"head -c {DATA} /dev/zero", Deadline(SECONDS, "a piece of data"))
                assert answer.check().stdout == bytes(DATA)
                arrived += 1

    with ThreadPoolExecutor() as pool:
        transfers = pool.submit(transfer)
        try:
            yield lambda: arrived
        finally:
            done.set()
        transfers.result(SECONDS)


def test_neither_disk_nor_network_lose_anything(pv: Domain, quiet_kernel: None) -> None:
    before = pv.parts.record.restarts
    with ThreadPoolExecutor() as pool, transferring(pv) as arrived:
        wait_for("the first data", lambda: arrived() > 0)
        fio = pool.submit(partial(pv.execute, FIO, timeout=SECONDS))
        for _ in range(KILLS):
            wait_under_load(fio)
            kill_backend(pv)
        pieces = arrived()
        done = fio.result(SECONDS)
        # The connection that was there at first still carries data.
        wait_for("more data", lambda: arrived() > pieces + 1)
    assert done.status == 0, done.stdout + done.stderr
    assert "err= 0" in done.text
    assert pv.parts.record.restarts == before + KILLS


def wait_under_load(load: Future[Completed]) -> None:
    """Let a load go on for a random while; it must still be there then."""
    with pytest.raises(TimeoutError):
        load.result(random.uniform(*LOAD_BEFORE_A_KILL))


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
