"""Clients of a driver domain come, ask, hear of its death and return, and go; what is in the guest is played here."""

from __future__ import annotations

import multiprocessing
import os
import queue
import signal
import socket
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing
from pathlib import Path

import pytest

from harness.bus.toolstack import Storage
from harness.domain import driver, records
from harness.domain.definition import Definition, Network
from harness.domain.driver import DriverDomain
from harness.domain.identity import Identity
from harness.domain.records import Claim
from harness.domain.serving import ATTACH_LOOP, Serving
from harness.guest.completed import Completed
from harness.host.errors import GuestError, HostError, UsageError

SECONDS = 20.0
CLIENT_DOMID = 7
DIGEST = "0a" * 32
FILES = {"/srv/a.img": "file 42:7", "/srv/same.img": "file 42:7", "/dev/vda": "device fe:0", "/dev/vdb": "device fe:10"}


class PlayedGuest:
    """A driver domain's guest: says what it has, and notes what is done to it.

    :ivar done: a line for each thing.
    """

    def __init__(self) -> None:
        self.done: queue.Queue[str] = queue.Queue()

    def plug_link(self, name: str, link: socket.socket, vectors: int, domid: int) -> None:
        self.done.put(f"plug {name} {vectors} {domid} {link.recv(16).decode()}")

    def unplug_link(self, name: str, seconds: float) -> None:
        self.done.put(f"unplug {name}")

    def run(self, argv: Sequence[str], seconds: float) -> Completed:
        if argv[0] == "losetup":
            self.done.put(" ".join(argv))
            return Completed(tuple(argv), 0, None, b"", b"")
        path = argv[4]
        if "getsize64" in argv[2]:
            self.done.put(f"settle {path} {argv[5]}")
            told = "7 1 1970-01-01 00:00:01.5 +0000" if FILES[path].startswith("file") else f"512 {DIGEST}"
            return Completed(tuple(argv), 0, None, f"{told}\n".encode(), b"")
        if argv[2] == ATTACH_LOOP:
            return Completed(tuple(argv), 0, None, b"/dev/loop3 7:3\n", b"")
        if path in FILES:
            return Completed(tuple(argv), 0, None, f"wanted {FILES[path]}\n".encode(), b"")
        return Completed(tuple(argv), 1, None, b"", f"there is no block device or file {path}\n".encode())

    def next(self) -> str:
        return self.done.get(timeout=SECONDS)


@pytest.fixture
def guest() -> PlayedGuest:
    return PlayedGuest()


@pytest.fixture
def claim(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Claim]:
    """The record of a driver domain."""
    with ExitStack() as stack:
        monkeypatch.setenv("HARNESS_RUNTIME", str(tmp_path))
        found = records.claim("driver", "pv", tmp_path, driver_domain=True)
        stack.callback(found.release)
        yield found


@pytest.fixture
def serving(claim: Claim, guest: PlayedGuest, tmp_path: Path) -> Iterator[Serving]:
    record = claim.record
    made = Serving("driver", record.domid, guest, record.driver_socket, tmp_path / "clients.log")
    made.up()
    with closing(made):
        yield made


def plug(client: DriverDomain) -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.send(b"a link")
        client.plug(theirs, 8, CLIENT_DOMID)


def test_what_a_client_has_goes_with_its_connection(serving: Serving, guest: PlayedGuest, claim: Claim) -> None:
    client = DriverDomain.find("driver", "guest")
    assert client.domid == claim.record.domid
    plug(client)
    assert guest.next() == f"plug client1 8 {CLIENT_DOMID} a link"
    assert client.prepare_disk(1, "/srv/a.img", readonly=False) == Storage(client.domid, "/dev/loop3", (7, 3))
    assert client.prepare_disk(2, "/dev/vda", readonly=False) == Storage(client.domid, "/dev/vda", (254, 0))
    client.close()
    assert [guest.next(), guest.next()] == ["unplug client1", "losetup -d /dev/loop3"]


def test_it_goes_too_when_the_client_is_killed(serving: Serving, guest: PlayedGuest) -> None:
    def live() -> None:
        client = DriverDomain.find("driver", "guest")
        plug(client)
        signal.pause()

    process = multiprocessing.get_context("fork").Process(target=live)
    process.start()
    assert guest.next().startswith("plug")
    assert process.pid is not None
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    assert guest.next() == "unplug client1"


def test_one_writer_or_any_number_of_readers(serving: Serving, guest: PlayedGuest) -> None:
    with closing(DriverDomain.find("driver", "a")) as a, closing(DriverDomain.find("driver", "b")) as b:
        a.prepare_disk(1, "/srv/a.img", readonly=False)
        for client, readonly in ((b, False), (b, True), (a, False)):
            with pytest.raises(UsageError, match="of driver domain driver is in use by domain a"):
                client.prepare_disk(2, "/srv/same.img", readonly=readonly)
        a.release_disk(1)
        assert guest.next() == "losetup -d /dev/loop3"
        for client in (a, b):
            client.prepare_disk(3, "/srv/same.img", readonly=True)
        a.prepare_disk(4, "/dev/vda", readonly=False)
        b.prepare_disk(4, "/dev/vdb", readonly=False)


def test_a_disk_can_be_prepared_once_more(serving: Serving, guest: PlayedGuest) -> None:
    with closing(DriverDomain.find("driver", "guest")) as client:
        client.prepare_disk(1, "/srv/a.img", readonly=False)
        assert client.prepare_disk(1, "/srv/same.img", readonly=False).device == "/dev/loop3"
        assert guest.next() == "losetup -d /dev/loop3"


def test_what_is_not_there_is_named(serving: Serving) -> None:
    with closing(DriverDomain.find("driver", "guest")) as client, pytest.raises(GuestError, match="file /nothing"):
        client.prepare_disk(1, "/nothing", readonly=False)


def test_a_link_can_be_plugged_in_once_more(serving: Serving, guest: PlayedGuest) -> None:
    with closing(DriverDomain.find("driver", "guest")) as client:
        for _ in range(2):
            plug(client)
            assert guest.next().startswith("plug client1")
            with pytest.raises(UsageError, match="gave no link to driver domain driver, or another one"):
                plug(client)
            for _ in range(2):
                client.unplug()
            assert guest.next() == "unplug client1"
            assert guest.done.empty()
    # There is none to be unplugged at the end.
    with closing(DriverDomain.find("driver", "another")):
        pass
    assert guest.done.empty()


def test_disks_are_written_and_known_again(serving: Serving, guest: PlayedGuest) -> None:
    with closing(DriverDomain.find("driver", "guest")) as client:
        client.prepare_disk(1, "/srv/a.img", readonly=False)
        client.prepare_disk(2, "/dev/vda", readonly=False)
        assert client.identify_disk(1) == Identity(7, 1_500000000, "")
        assert client.identify_disk(2) == Identity(512, 0, DIGEST)
        assert [guest.next(), guest.next()] == ["settle /srv/a.img /dev/loop3", "settle /dev/vda /dev/vda"]
        client.release_disk(2)
        with pytest.raises(UsageError, match="has no such disk"):
            client.identify_disk(2)


def follow(client: DriverDomain) -> queue.Queue[str]:
    news: queue.Queue[str] = queue.Queue()
    client.follow(lambda: news.put("gone"), lambda: news.put("back"), lambda: news.put("ended"))
    return news


def test_clients_hear_of_death_return_and_end(serving: Serving, guest: PlayedGuest) -> None:
    client = DriverDomain.find("driver", "guest")
    news = follow(client)
    plug(client)
    client.prepare_disk(1, "/dev/vda", readonly=False)
    assert guest.next().startswith("plug")
    serving.down()
    assert news.get(timeout=SECONDS) == "gone"
    for ask in (lambda: plug(client), lambda: DriverDomain.find("driver", "another")):
        with pytest.raises(UsageError, match="not ready to serve anybody"):
            ask()
    serving.up()
    assert news.get(timeout=SECONDS) == "back"
    # All of that went with the dead one, so that it can be had once more.
    plug(client)
    client.prepare_disk(1, "/dev/vda", readonly=False)
    assert guest.next().startswith("plug")
    serving.close()
    assert news.get(timeout=SECONDS) == "ended"
    assert guest.done.empty()


def test_who_leaves_a_dead_one_asks_nothing_of_it(serving: Serving, guest: PlayedGuest) -> None:
    client = DriverDomain.find("driver", "guest")
    news = follow(client)
    plug(client)
    assert guest.next().startswith("plug")
    serving.down()
    client.close()
    assert [news.get(timeout=SECONDS) for _ in range(2)] == ["gone", "ended"]
    serving.up()
    assert guest.done.empty()


def test_nobody_is_served_by_what_is_no_driver_domain(claim: Claim, tmp_path: Path) -> None:
    other = records.claim("other", "pv", tmp_path)
    try:
        assert driver.running() == ["driver"]
        with pytest.raises(UsageError, match="a has other as a back end, which runs but is no driver domain"):
            DriverDomain.find("other", "a")
        with pytest.raises(UsageError, match="a has nobody as a back end, and no driver domain of that name runs"):
            DriverDomain.find("nobody", "a")
        # It is being started, or taken apart.
        with pytest.raises(UsageError, match="not ready to serve anybody"):
            DriverDomain.find("driver", "a")
    finally:
        other.release()


def test_a_domain_can_be_checked_before_it_starts(claim: Claim) -> None:
    def definition(backend: str) -> Definition:
        return Definition("a", "pv", "minimal", 256, 1, (), (Network("pv", backend=backend),), Path("a.yaml"))

    driver.require(definition("driver"))
    for saved, typed in ((None, "harness create nobody.yaml a.yaml"), (Path("a.saved"), "harness restore a.saved")):
        with pytest.raises(UsageError, match="no driver domain of that name runs") as error:
            driver.require(definition("nobody"), saved)
        assert typed in str(error.value)


def test_requests_that_make_no_sense_are_refused(serving: Serving, claim: Claim) -> None:
    with closing(DriverDomain.find("driver", "guest")) as client:
        with pytest.raises(UsageError, match="knows no request 'burn'"):
            client._ask("burn")
        with pytest.raises(UsageError, match="devid is missing"):
            client._ask("release-disk")
        with pytest.raises(UsageError, match="gave no link"):
            client._ask("plug", vectors=8)
        client._number += 1
        with pytest.raises(UsageError, match="has no such client"):
            client._ask("release-disk", devid=1)


def test_an_owner_that_has_died_is_a_fault_of_the_host(serving: Serving, claim: Claim) -> None:
    client = DriverDomain.find("driver", "guest")
    serving.close()
    with pytest.raises((HostError, UsageError)):
        client.prepare_disk(1, "/dev/vda", readonly=False)
