"""The store as a process: its life, Debian's own tools, several threads, and clients that misbehave."""

from __future__ import annotations

import os
import select
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from threading import Thread

import pytest

from harness.host.deadline import Deadline
from harness.host.errors import DeadlineExpired, HostError
from harness.host.process import spawn
from harness.host.service import socket_path
from harness.hypervisor.layout import GUEST_STORE_PORT
from harness.store import server
from harness.store.client import StoreClient, Transaction
from harness.store.errors import StoreError
from harness.store.wire import HEADER, Message, Op, strings
from tests.unit.linkends import DOMID, ends_of_a_link
from tests.unit.live_store import store_pid
from tests.unit.test_store_ring import Guest, request

SECONDS = 20.0


@pytest.fixture
def runtime(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HARNESS_RUNTIME", str(tmp_path))
    monkeypatch.setenv("XENSTORED_PATH", str(tmp_path / "store.sock"))
    return tmp_path


@pytest.fixture
def client(runtime: Path) -> Iterator[StoreClient]:
    with StoreClient.connect() as it:
        yield it


def event(client: StoreClient) -> tuple[str, str]:
    return client.read_event(Deadline(SECONDS, "a watch event"))


def wait_for_end(pid: int, runtime: Path) -> None:
    """Wait until a process that is not our child has ended, and see that it left nothing."""
    with suppress(ProcessLookupError):
        descriptor = os.pidfd_open(pid)
        ended, _, _ = select.select([descriptor], [], [], SECONDS)
        os.close(descriptor)
        assert ended, "the store still runs"
    assert [path.name for path in runtime.iterdir() if path.name.startswith("store")] == []


def xenstore(verb: str, *arguments: str) -> str:
    """What one of Debian's tools prints."""
    done = subprocess.run([f"xenstore-{verb}", *arguments], capture_output=True, text=True, timeout=SECONDS, check=True)
    assert done.stderr == ""
    return done.stdout


# ---- life ----


def test_it_starts_with_the_first_client_and_ends_with_the_last(runtime: Path) -> None:
    assert StoreClient.connect_if_running() is None
    with StoreClient.connect() as first:
        first.write("/kept", "while somebody is there")
        pid = store_pid(runtime)
        second = StoreClient.connect_if_running()
        assert second is not None
    assert second.read("/kept") == b"while somebody is there"
    second.close()
    wait_for_end(pid, runtime)
    with StoreClient.connect() as again:
        assert not again.exists("/kept")
        pid = store_pid(runtime)
    wait_for_end(pid, runtime)


def test_it_ends_also_when_its_client_is_killed(runtime: Path) -> None:
    ready, report = os.pipe()
    program = (
        "import os, signal; from harness.store.client import StoreClient\n"
        f"client = StoreClient.connect(); client.write('/a', '1'); os.write({report}, b'.'); signal.pause()"
    )
    child = spawn("a client", [sys.executable, "-c", program], log=runtime / "client.log", pass_fds=[report])
    os.close(report)
    assert os.read(ready, 1) == b".", child.output_tail()
    os.close(ready)
    pid = store_pid(runtime)
    assert child.kill() == -signal.SIGKILL
    wait_for_end(pid, runtime)


def test_a_server_that_nobody_ever_connects_to_ends(runtime: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "FIRST_CLIENT_SECONDS", 0.01)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(socket_path("store")))
        listener.listen()
        server.serve(listener, "store")
    assert list(runtime.iterdir()) == []


# ---- Debian's tools ----


def test_debians_tools_find_their_way(client: StoreClient) -> None:
    xenstore("write", "/a/b", "value", "rel/x", "mine")
    assert xenstore("read", "/a/b", "rel/x") == "value\nmine\n"
    assert client.read("/local/domain/0/rel/x") == b"mine"
    assert xenstore("list", "/a") == "b\n"
    xenstore("exists", "/a/b")
    xenstore("chmod", "/a/b", "n0", "r5")
    assert client.get_perms("/a/b") == ["n0", "r5"]
    xenstore("rm", "/a")
    assert subprocess.run(["xenstore-exists", "/a/b"], check=False, timeout=SECONDS).returncode == 1
    assert subprocess.run(["xenstore-read", "/a"], capture_output=True, check=False, timeout=SECONDS).returncode == 1


def test_a_live_tree_is_listed_as_xen_lists_its_own(client: StoreClient) -> None:
    client.write("/local/domain/1/name", "domU")
    client.set_perms("/local/domain/1", ["n0", "r1"])
    client.set_perms("/local/domain/1/name", ["n0", "r1"])
    client.write("/local/domain/1/data", "")
    client.set_perms("/local/domain/1/data", ["n1"])
    listing = xenstore("ls", "-fp")
    assert listing.splitlines() == [
        '/tool = ""   (n0)',
        '/tool/xenstored = ""   (n0)',
        '/local = ""   (n0)',
        '/local/domain = ""   (n0)',
        '/local/domain/0 = ""   (n0)',
        '/local/domain/0/control = ""   (n0)',
        '/local/domain/0/control/feature-poweroff = "1"   (n0)',
        '/local/domain/0/control/feature-reboot = "1"   (n0)',
        '/local/domain/0/control/feature-suspend = "1"   (n0)',
        '/local/domain/0/domid = "0"   (n0)',
        '/local/domain/0/name = "Domain-0"   (n0)',
        '/local/domain/1 = ""   (n0,r1)',
        '/local/domain/1/name = "domU"   (n0,r1)',
        '/local/domain/1/data = ""   (n1)',
        '/local/pool = ""   (n0)',
        '/local/pool/0 = ""   (n0)',
        '/local/pool/0/name = "Pool-0"   (n0)',
    ]


def test_a_long_directory_is_listed_by_everybody(client: StoreClient) -> None:
    names = [f"a-rather-long-name-{number}" for number in range(400)]
    for name in names:
        client.write(f"/long/{name}", "")
    assert client.directory("/long") == names
    assert xenstore("list", "/long").split() == names


def test_xenstore_watch_prints_what_changes(client: StoreClient) -> None:
    with subprocess.Popen(["xenstore-watch", "-n", "3", "/w"], stdout=subprocess.PIPE, text=True) as watching:
        assert watching.stdout is not None
        assert watching.stdout.readline() == "/w\n"
        client.write("/w/a", "1")
        assert watching.stdout.readline() == "/w/a\n"
        client.rm("/w")
        assert watching.stdout.readline() == "/w\n"
        assert watching.wait(SECONDS) == 0


# ---- our client ----


def test_errors_name_the_request_and_the_path(client: StoreClient) -> None:
    with pytest.raises(StoreError, match="READ /no/such: ENOENT") as refused:
        client.read("/no/such")
    assert (refused.value.name, refused.value.path, refused.value.errno) == ("ENOENT", "/no/such", 2)
    for act in (lambda: client.write("/a", "x" * 4096), lambda: client.read("/" + "x" * 5000)):
        with pytest.raises(StoreError, match="E2BIG"):
            act()
    with pytest.raises(StoreError, match="EINVAL"):
        client.write("/a\0b", "")
    assert client.exists("/tool")


def test_a_descriptor_tells_of_events_also_of_those_that_came_with_an_answer(client: StoreClient) -> None:
    def readable() -> bool:
        return bool(select.select([client], [], [], 0)[0])

    client.watch("/a", "t")
    assert event(client) == ("/a", "t")
    assert (client.poll_event(), readable()) == (None, False)
    client.write("/a", "1")
    assert readable()
    assert client.poll_event() == ("/a", "t")
    assert (client.poll_event(), readable()) == (None, False)
    client.unwatch("/a", "t")
    client.write("/a", "2")
    with pytest.raises(DeadlineExpired):
        client.read_event(Deadline(0.05, "an event"))


def test_a_transaction_is_all_or_nothing(client: StoreClient) -> None:
    with client.transaction() as nodes:
        nodes.write("/a/b", "1")
        nodes.mkdir("/a/c")
        assert (nodes.directory("/a"), client.exists("/a")) == (["b", "c"], False)
    assert client.read("/a/b") == b"1"
    with pytest.raises(StoreError, match="ENOENT"), client.transaction() as nodes:
        _remove_and_fail(nodes)
    assert client.exists("/a/b")


def _remove_and_fail(nodes: Transaction) -> None:
    nodes.rm("/a")
    nodes.read("/a")


def test_transact_does_it_again_until_nobody_interferes(client: StoreClient) -> None:
    client.write("/n", "0")
    attempts: list[int] = []

    def add_one(nodes: Transaction) -> int:
        value = int(nodes.read("/n")) + 1
        if not attempts:
            client.write("/n", "10")
        attempts.append(value)
        nodes.write("/n", str(value))
        return value

    assert client.transact(add_one) == 11
    assert (attempts, client.read("/n")) == ([1, 11], b"11")


def test_threads_and_clients_count_together_without_losing_one(client: StoreClient) -> None:
    client.write("/counter", "0")

    def add_one(nodes: Transaction) -> None:
        nodes.write("/counter", str(int(nodes.read("/counter")) + 1))

    def count(connection: StoreClient) -> None:
        for number in range(25):
            connection.transact(add_one)
            connection.write(f"/own/{number}", "x" * number)
            assert connection.read(f"/own/{number}") == b"x" * number

    with StoreClient.connect() as other, ThreadPoolExecutor(4) as pool:
        for done in [pool.submit(count, connection) for connection in (client, client, other, other)]:
            done.result(SECONDS)
    assert client.read("/counter") == b"100"


def test_one_thread_waits_for_events_while_others_ask(client: StoreClient) -> None:
    client.watch("/events", "t", depth=1)
    heard: list[str] = []

    def listen() -> None:
        while "/events/last" not in heard:
            heard.append(event(client)[0])

    listener = Thread(target=listen)
    listener.start()
    for number in range(50):
        client.write(f"/events/{number}", "")
        assert client.exists(f"/events/{number}")
    client.write("/events/last", "")
    listener.join(SECONDS)
    assert heard == ["/events", *(f"/events/{number}" for number in range(50)), "/events/last"]


def test_closing_ends_the_waiting_of_other_threads(client: StoreClient) -> None:
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(event, client)
        client.write("/a", "")
        client.close()
        with pytest.raises(HostError, match="is gone"):
            waiting.result(SECONDS)
    with pytest.raises(HostError):
        client.read("/a")
    client.close()


# ---- clients that misbehave ----


@pytest.fixture
def rude(client: StoreClient) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX) as it:
        it.settimeout(SECONDS)
        it.connect(str(socket_path("store")))
        yield it


def until_closed(connection: socket.socket) -> None:
    """Read until the server has closed the connection."""
    try:
        while connection.recv(65536):
            pass
    except ConnectionResetError:
        return


def test_a_payload_that_is_too_long_costs_its_sender_the_connection(client: StoreClient, rude: socket.socket) -> None:
    rude.sendall(HEADER.pack(Op.WRITE, 1, 0, 4097) + b"x" * 100)
    until_closed(rude)
    assert client.exists("/tool")


def test_who_takes_no_answers_is_no_longer_read_from(client: StoreClient, rude: socket.socket) -> None:
    client.write("/big", "x" * 4000)
    rude.settimeout(1)
    ask = Message(Op.READ, 1, 0, strings("/big")).pack()
    with pytest.raises(TimeoutError):
        rude.sendall(ask * 100_000)
    assert client.read("/big") == b"x" * 4000


def test_who_takes_no_events_is_disconnected_and_nobody_waits_for_it(client: StoreClient, rude: socket.socket) -> None:
    rude.sendall(Message(Op.WATCH, 1, 0, strings("/", "t" * 3000)).pack())
    for number in range(2000):
        client.write(f"/flood/{number}", "")
    until_closed(rude)
    assert client.exists("/flood/0")


def test_half_a_message_stops_nobody(client: StoreClient, rude: socket.socket) -> None:
    rude.sendall(Message(Op.READ, 1, 0, strings("/tool")).pack()[:17])
    assert client.exists("/tool")


def test_requests_sent_before_leaving_are_done(client: StoreClient, rude: socket.socket) -> None:
    client.watch("/last", "t")
    assert event(client) == ("/last", "t")
    writes = [Message(Op.WRITE, number, 0, strings(f"/many/{number}")).pack() for number in range(700)]
    rude.sendall(b"".join(writes) + Message(Op.WRITE, 1, 0, strings("/last")).pack())
    rude.shutdown(socket.SHUT_WR)
    until_closed(rude)
    assert event(client) == ("/last", "t")
    assert client.exists("/many/699")


# ---- domains ----


def introduce(client: StoreClient, fds: list[int], frame: int) -> None:
    client.introduce(DOMID, frame, GUEST_STORE_PORT, fds)


def test_a_domain_on_a_link_is_served_until_its_owner_goes(client: StoreClient) -> None:
    with ends_of_a_link() as ends, StoreClient.connect() as owner:
        frame = ends.guest.layout.store_frame
        guest = Guest(ends.guest.frame(frame))
        client.watch("@releaseDomain", "gone", depth=1)
        event(client)
        introduce(owner, ends.link.store_fds(), frame)
        owner.write(f"/local/domain/{DOMID}/name", "guest")
        owner.set_perms(f"/local/domain/{DOMID}/name", ["n0", f"r{DOMID}"])
        assert client.is_introduced(DOMID)
        guest.send(request(Op.READ, "name"))
        ends.guest.events.send(GUEST_STORE_PORT)
        answers: list[Message] = []
        while not answers:
            assert select.select([ends.guest.wait_fd], [], [], SECONDS)[0], "no event from the store"
            ends.guest.events.acknowledge()
            ends.guest.events.pending()
            answers = guest.messages()
        assert answers[0].payload == b"guest"
        owner.close()
        assert event(client) == (f"@releaseDomain/{DOMID}", "gone")
        assert not client.exists(f"/local/domain/{DOMID}")


def test_a_request_is_found_even_if_its_event_was_lost(client: StoreClient) -> None:
    with ends_of_a_link() as ends:
        frame = ends.guest.layout.store_frame
        guest = Guest(ends.guest.frame(frame))
        introduce(client, ends.link.store_fds(), frame)
        ends.guest.events.acknowledge()
        guest.send(request(Op.GET_DOMAIN_PATH, "1"))
        answers: list[Message] = []
        while not answers:
            assert select.select([ends.guest.wait_fd], [], [], SECONDS)[0], "the store overlooks the request"
            ends.guest.events.acknowledge()
            answers = guest.messages()
        assert answers[0].payload == b"/local/domain/1\0"


@pytest.mark.parametrize("spoil", ["nothing", "frame", "port", "kind", "few"])
def test_an_introduction_without_a_good_link_is_refused_and_leaks_nothing(
    runtime: Path, client: StoreClient, spoil: str
) -> None:
    assert client.exists("/tool")
    descriptors = Path(f"/proc/{store_pid(runtime)}/fd")
    open_before = len(list(descriptors.iterdir()))
    with ends_of_a_link() as ends:
        fds, frame, port = ends.link.store_fds(), ends.guest.layout.store_frame, GUEST_STORE_PORT
        if spoil == "nothing":
            fds = []
        elif spoil == "frame":
            frame = 1 << 20
        elif spoil == "port":
            port = 77
        elif spoil == "kind":
            fds = fds[1:]
        else:
            fds = fds[:3]
        for _ in range(3):
            with pytest.raises(StoreError, match=f"INTRODUCE domain {DOMID}: EINVAL"):
                client.introduce(DOMID, frame, port, fds)
        assert len(list(descriptors.iterdir())) == open_before
        client.introduce(DOMID, ends.guest.layout.store_frame, GUEST_STORE_PORT, ends.link.store_fds())
        client.release(DOMID)
        client.introduce(DOMID, ends.guest.layout.store_frame, GUEST_STORE_PORT, ends.link.store_fds())
        assert client.is_introduced(DOMID)
