"""Watching a domain: its rings as both ends see them, and every request of a workload from one end to the other."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from harness.backend import observe
from harness.domain import remote, rings
from harness.domain.control import ControlServer
from harness.domain.domain import Domain
from harness.domain.remote import RemoteDomain
from harness.guest.tracefs import INSTANCE
from harness.host.deadline import Deadline
from harness.host.errors import UsageError
from harness.trace.events import Event, Header
from harness.trace.journey import journeys
from harness.trace.live import Live

TARGET, QUEUE = "vbd/51712", "vbd/51712/queue-0"
SECTORS = 8
BLOCKS = 64
SECONDS = 30.0
WRITE = (
    "dd if=/dev/urandom of=/tmp/data bs=4096 count=64 2>/dev/null; dd if=/tmp/data of=/dev/xvda oflag=direct bs=4096"
)
READ = "dd if=/dev/xvda iflag=direct bs=4096 count=64 2>/dev/null | sha256sum"


@pytest.fixture(scope="module")
def domain(pv: Domain) -> Iterator[RemoteDomain]:
    """As the command line has it."""
    with closing(ControlServer(pv)):
        yield remote.find(pv.name)


def shell(domain: RemoteDomain, script: str) -> str:
    done = domain.execute(["sh", "-c", script], timeout=SECONDS)
    assert done.status == 0, done.stderr
    return done.stdout.decode()


def traced(domain: RemoteDomain, script: str, requests: int) -> tuple[list[Event], str]:
    """What happens to the disk while a script runs, and what that prints."""
    printed = []
    with Live(domain, TARGET) as live:
        worker = threading.Thread(target=lambda: printed.append(shell(domain, script)))
        worker.start()
        events: list[Event] = []
        deadline = Deadline(SECONDS, "the last completion")
        for batch in live.batches(SECONDS):
            events += batch
            # The guest's events come late: wait for the answer to the last that was taken.
            seen = Counter(event.what for event in events)
            if not worker.is_alive() and seen["taken"] == seen["completed"] >= requests:
                break
            deadline.check()
        worker.join()
    return events, printed[0]


def test_both_ends_count_the_same(domain: RemoteDomain) -> None:
    before = ring(domain, QUEUE)
    shell(domain, READ)
    after = ring(domain, QUEUE)
    assert after["req_prod"] - before["req_prod"] == BLOCKS
    for state in (before, after):
        assert state["req_prod"] == state["req_cons"] == state["rsp_prod"] == state["frontend"]["requests"]
        assert state["outstanding"] == 0
        assert state["notified"] + state["held_off"] == state["rsp_prod"]
        assert state["channel"]["sent"] == state["notified"]
        assert state["channel"]["received"] <= state["frontend"]["doorbells"] + 1
        assert state["grants"]["persistent"] > 0


def ring(domain: RemoteDomain, name: str) -> rings.Fields:
    found: list[rings.Fields] = [ring for ring in rings.look(domain)["rings"] if ring["name"] == name]
    return found[0]


def test_the_rings_of_all_devices_are_there(domain: RemoteDomain) -> None:
    state = rings.look(domain)
    assert {"vbd/51712/queue-0", "vif/0/rx-0", "vif/0/tx-0"} <= {ring["name"] for ring in state["rings"]}
    pages = {page["name"]: page for page in state["pages"]}
    assert pages["store"]["rings"]["req"]["prod"] > 0
    assert pages["console 0"]["rings"]["out"]["prod"] > 0
    assert {idle["name"].split("-")[0] for idle in state["idle"]} == {"vbd", "vif"}


def test_every_request_is_seen_once_on_its_whole_way(domain: RemoteDomain) -> None:
    shell(domain, WRITE)
    before = ring(domain, QUEUE)["req_prod"]
    events, printed = traced(domain, READ, BLOCKS)
    assert printed == shell(domain, "sha256sum </tmp/data"), "the trace has disturbed what it has traced"
    found, offset = journeys(events)
    assert [journey.index for journey in found] == list(range(before, before + BLOCKS))
    assert [journey.events["submitted"].sector for journey in found] == [SECTORS * block for block in range(BLOCKS)]
    assert not {event.what for event in events} & {"lost", "dropped"}
    for journey in found:
        assert journey.complete
        shift = journey.offset(offset)
        times = [
            journey.events["submitted"].time + shift,
            journey.events["taken"].time,
            journey.events["disk-begins"].time,
            journey.events["disk-ends"].time,
            journey.events["answered"].time,
            journey.events["completed"].time + shift,
        ]
        assert times == sorted(times)
        # No request needs more correction than what is said to be unknown.
        assert abs(shift - (offset.host(journey.events["submitted"].time) - journey.events["submitted"].time)) <= (
            2 * offset.uncertainty + 1000
        )


def test_the_command_writes_a_file_and_leaves_nothing_when_it_is_killed(domain: RemoteDomain, tmp_path: Path) -> None:
    file = tmp_path / "some.trace"
    command = [sys.executable, "-m", "harness.cli.main", "trace", domain.name, "--output", str(file)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as tracer:
        assert tracer.stdout is not None
        shell(domain, "dd if=/dev/xvda of=/dev/null bs=4096 count=1 iflag=direct")
        while "read of 4096 bytes at sector 0" not in (line := tracer.stdout.readline()):
            assert line
            shell(domain, "dd if=/dev/xvda of=/dev/null bs=4096 count=1 iflag=direct")
        tracer.send_signal(signal.SIGKILL)
    header = json.loads(file.read_text().splitlines()[0])
    assert Header(header["domain"], header["domid"], tuple(header["devices"])).devices == ("vbd/51712", "vif/0")
    shell(domain, f"until [ ! -e {INSTANCE} ]; do usleep 10000; done")
    # Nobody traces any more, or this would be refused.
    events, _ = traced(domain, "dd if=/dev/xvda of=/dev/null bs=4096 count=1 iflag=direct", 1)
    assert len(journeys(events)[0]) == 1


def test_a_domain_without_rings_says_so(hvm: Domain) -> None:
    with closing(ControlServer(hvm)), pytest.raises(UsageError, match="its devices are emulated"):
        rings.look(remote.find(hvm.name))


def test_a_reader_that_stops_reading_stops_nobody(domain: RemoteDomain) -> None:
    with domain.observe(observe.TRACE) as idle_reader:
        shell(domain, "dd if=/dev/xvda of=/dev/null bs=4096 count=4000 iflag=direct")
        assert idle_reader.recv(1)
