"""A backend that breaks the block protocol: it loses its disk, and the guest and its other disks go on."""

from __future__ import annotations

import mmap
import os
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path

import pytest

from harness.bus import toolstack
from harness.bus.devices import Device
from harness.bus.features import ALL_BLOCK, BlockFeatures
from harness.bus.hotplug import forget, reported, resize, take_away
from harness.bus.xenbus import XenbusState, read_state, wait_for_state
from harness.domain.domain import Domain
from harness.host.deadline import Deadline
from harness.hypervisor.layout import FRAME_SIZE, LinkLayout
from harness.pytest_plugin.plugin import StartDomain
from harness.store.client import StoreClient
from tests.guest.conftest import named
from tests.guest.disks import FIO, MIB, VERIFIED, disk
from tests.guest.hostile_block import MODULE, TRIGGER

SECONDS = 30.0
GOOD = "xvda"

CRIMES = {
    "two answers": "more responses than requests",
    "answer to nobody": "a response to no request",
    "answer to an id of 64 bits": "a response to no request",
    "answer to another operation": "a response to another operation",
    "more answers than the ring holds": "more responses than requests",
}
NO_DISKS = (
    "no sectors",
    "more sectors than can be",
    "a negative number of sectors",
    "sectors in words",
    "sectors of no bytes",
    "sectors of odd size",
    "sectors larger than a page",
    "half a sector too much",
)
numbers = count(1)


@pytest.fixture(scope="module")
def guest(request: pytest.FixtureRequest, start_domain_for_module: StartDomain) -> Iterator[Domain]:
    definition = named("pv", request, disks=(disk(0),), networks=())
    domain = start_domain_for_module(definition, backend=MODULE)
    yield domain
    assert not domain.execute(["sh", "-c", "dmesg | grep 'Call Trace\\|BUG:\\|WARNING:'"]).text


@pytest.fixture
def store() -> Iterator[StoreClient]:
    with StoreClient.connect() as client:
        yield client


def wait(store: StoreClient, path: str, *states: XenbusState) -> XenbusState:
    return wait_for_state(store, path, states, Deadline(SECONDS, f"{path} to be {' or '.join(s.name for s in states)}"))


@contextmanager
def plugged(
    guest: Domain, store: StoreClient, directory: Path, crime: str, features: BlockFeatures
) -> Iterator[tuple[Device, str]]:
    """A disk that commits a crime, and its name in the guest; in the end it is taken away, and the good disk works."""
    image = directory / crime
    image.write_bytes(bytes(16 * MIB))
    target = f"xvd{chr(ord('a') + next(numbers))}"
    device = toolstack.add_vbd(store, guest.domid, target, image, features=features)
    yield device, target
    take_away(store, device)
    wait(store, device.backend, XenbusState.CLOSED, XenbusState.UNKNOWN)
    forget(store, device)
    guest.execute(["sh", "-c", f"while [ -e /dev/{target} ]; do usleep 10000; done"], timeout=SECONDS).check()
    job = ["--name=others", "--rw=randwrite", "--bs=4k", "--iodepth=8", "--size=256k", f"--filename=/dev/{GOOD}"]
    guest.execute([*VERIFIED, *job]).check()
    assert read_state(store, Device("vbd", guest.domid, 51712).frontend) == XenbusState.CONNECTED


@contextmanager
def connected(
    guest: Domain, store: StoreClient, directory: Path, crime: str, features: BlockFeatures = ALL_BLOCK
) -> Iterator[tuple[Device, str]]:
    """The same, once the guest has it."""
    with plugged(guest, store, directory, crime, features) as (device, target):
        wait(store, device.frontend, XenbusState.CONNECTED)
        guest.execute(["sh", "-c", f"until [ -b /dev/{target} ]; do usleep 10000; done"]).check()
        yield device, target


def read(guest: Domain, target: str, sector: int) -> bool:
    """Read a sector, not from the page cache; whether that worked."""
    argv = ["dd", f"if=/dev/{target}", "of=/dev/null", f"skip={sector}", "count=8", "bs=512", "iflag=direct"]
    return guest.execute(["timeout", "20", *argv]).ok


@pytest.mark.parametrize("crime", CRIMES)
def test_an_impossible_response_costs_the_disk(guest: Domain, store: StoreClient, tmp_path: Path, crime: str) -> None:
    with connected(guest, store, tmp_path, crime) as (device, target):
        assert read(guest, target, 0)
        read(guest, target, TRIGGER)
        wait(store, device.frontend, XenbusState.CLOSING, XenbusState.CLOSED)
        assert CRIMES[crime] in (reported(store, device.frontend) or "")
        assert not read(guest, target, 0)


@pytest.mark.parametrize("what", NO_DISKS)
def test_a_disk_that_cannot_be_is_refused(guest: Domain, store: StoreClient, tmp_path: Path, what: str) -> None:
    with plugged(guest, store, tmp_path, what, ALL_BLOCK) as (device, target):
        wait(store, device.frontend, XenbusState.CLOSING, XenbusState.CLOSED)
        assert "making the disk" in (reported(store, device.frontend) or "")
        assert not guest.execute(["test", "-e", f"/dev/{target}"]).ok


@pytest.mark.parametrize("what", ["absurd features", "no features"])
def test_features_that_cannot_be_are_brought_into_range(
    guest: Domain, store: StoreClient, tmp_path: Path, what: str
) -> None:
    with connected(guest, store, tmp_path, what) as (_, target):
        job = ["--name=job", "--rw=randwrite", "--bsrange=4k-1m", "--iodepth=8", f"--filename=/dev/{target}"]
        guest.execute([*VERIFIED, *job]).check()


def test_an_unknown_status_is_an_error_of_that_request_alone(guest: Domain, store: StoreClient, tmp_path: Path) -> None:
    with connected(guest, store, tmp_path, "a status that does not exist") as (device, target):
        assert not read(guest, target, TRIGGER)
        assert read(guest, target, 0)
        assert read_state(store, device.frontend) == XenbusState.CONNECTED


def test_a_cache_that_cannot_be_flushed_is_not_asked_to_again(
    guest: Domain, store: StoreClient, tmp_path: Path
) -> None:
    with connected(guest, store, tmp_path, "a flush that is not supported") as (_, target):
        cache = f"/sys/block/{target}/queue/write_cache"
        assert guest.read_file(cache) == b"write back\n"
        guest.execute(["sync", "-d", f"/dev/{target}"]).check()
        assert guest.read_file(cache) == b"write through\n"


def test_a_size_that_cannot_be_is_not_taken_over(guest: Domain, store: StoreClient, tmp_path: Path) -> None:
    with connected(guest, store, tmp_path, "no such size") as (device, target):
        resize(store, device, Deadline(SECONDS, "the resize"))
        job = ["--name=job", "--rw=write", "--bs=128k", f"--filename=/dev/{target}"]
        guest.execute([*VERIFIED, *job]).check()
        assert guest.read_file(f"/sys/block/{target}/size") == b"32768\n"
        assert "size" in (reported(store, device.frontend) or "")


def test_a_disk_whose_backend_never_answers_can_be_taken_away(
    guest: Domain, store: StoreClient, tmp_path: Path
) -> None:
    with connected(guest, store, tmp_path, "no answer") as (_, target):
        # Past the page cache, which would ask once more and then find that the disk has no sectors any more; dd goes
        # through it all the same, whatever it is told, where its buffer happens not to be aligned.
        argv = [*FIO, "--name=job", "--rw=read", f"--filename=/dev/{target}", f"--offset={512 * TRIGGER}", "--size=4k"]
        guest.start_service(["sh", "-c", '"$@"; echo $? >/tmp/ended', "sh", *argv])
        guest.execute(["sh", "-c", f"until grep -q ' [1-9]' /sys/block/{target}/inflight; do usleep 10000; done"])
    guest.execute(["sh", "-c", "until [ -s /tmp/ended ]; do usleep 10000; done"]).check()
    assert guest.read_file("/tmp/ended") != b"0\n"


@contextmanager
def memory(guest: Domain) -> Iterator[tuple[memoryview, LinkLayout]]:
    """The guest's link, as its owner could see it."""
    assert guest.parts.paravirtual is not None
    link = guest.parts.paravirtual.link
    descriptor = link.backend_fds()[0]
    size = os.fstat(descriptor).st_size
    with mmap.mmap(descriptor, size, prot=mmap.PROT_READ) as mapping, memoryview(mapping) as view:
        yield view, link.layout


def kept(memory: memoryview, layout: LinkLayout) -> dict[int, bytes]:
    """The frames that are mapped though they are granted no more, and what is in them."""
    found = {}
    for ref in range(layout.first_free_frame, layout.nr_frames):
        entry = layout.grant_frame * FRAME_SIZE + 8 * ref
        if memory[layout.status_frame * FRAME_SIZE + ref] and not memory[entry]:
            found[ref] = bytes(memory[ref * FRAME_SIZE : (ref + 1) * FRAME_SIZE])
    return found


def test_a_page_that_the_backend_keeps_is_not_used_again(guest: Domain, store: StoreClient, tmp_path: Path) -> None:
    features = BlockFeatures(persistent=False)
    with plugged(guest, store, tmp_path, "greedy", features) as (device, _):
        # It keeps the pages of the very first request.
        wait(store, device.frontend, XenbusState.CLOSING, XenbusState.CLOSED)
        assert "still in use after the response" in (reported(store, device.frontend) or "")
    with memory(guest) as (frames, layout):
        before = kept(frames, layout)
        assert before
        with connected(guest, store, tmp_path, "innocent") as (_, target):
            job = ["--name=job", "--rw=write", "--bs=1m", "--iodepth=4", f"--filename=/dev/{target}"]
            guest.execute([*VERIFIED, *job]).check()
        after = kept(frames, layout)
        assert {ref: after.get(ref) for ref in before} == before
