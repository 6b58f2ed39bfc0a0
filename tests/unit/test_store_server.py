"""The store as a process: its life, and our client in several threads."""

from __future__ import annotations

import os
import select
import signal
import sys
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from threading import Thread

import pytest

from harness.host.deadline import Deadline
from harness.host.errors import DeadlineExpired, HostError
from harness.host.process import spawn
from harness.store.client import StoreClient, Transaction
from harness.store.errors import StoreError
from tests.leftovers import leftovers
from tests.unit.live_store import event, store_pid

SECONDS = 20.0


def wait_for_end(pid: int, store_runtime: Path) -> None:
    """Wait until a process that is not our child has ended, and see that it left nothing."""
    with suppress(ProcessLookupError):
        descriptor = os.pidfd_open(pid)
        ended, _, _ = select.select([descriptor], [], [], SECONDS)
        os.close(descriptor)
        assert ended, "the store still runs"
    assert [path.name for path in store_runtime.iterdir() if path.name.startswith("store")] == []


# ---- life ----


def test_it_starts_with_the_first_client_and_ends_with_the_last(store_runtime: Path) -> None:
    assert StoreClient.connect_if_running() is None
    with StoreClient.connect() as first:
        first.write("/kept", "while somebody is there")
        pid = store_pid(store_runtime)
        second = StoreClient.connect_if_running()
        assert second is not None
    assert second.read("/kept") == b"while somebody is there"
    second.close()
    wait_for_end(pid, store_runtime)
    with StoreClient.connect() as again:
        assert not again.exists("/kept")
        pid = store_pid(store_runtime)
    wait_for_end(pid, store_runtime)


def test_it_ends_also_when_its_client_is_killed(store_runtime: Path) -> None:
    ready, report = os.pipe()
    program = (
        "import os, signal; from harness.store.client import StoreClient\n"
        f"client = StoreClient.connect(); client.write('/a', '1'); os.write({report}, b'.'); signal.pause()"
    )
    child = spawn("a client", [sys.executable, "-c", program], log=store_runtime / "client.log", pass_fds=[report])
    os.close(report)
    assert os.read(ready, 1) == b".", child.output_tail()
    os.close(ready)
    pid = store_pid(store_runtime)
    assert child.kill() == -signal.SIGKILL
    wait_for_end(pid, store_runtime)


@pytest.mark.parametrize("service", ["harness.store.server", "harness.backend.network"])
def test_a_service_whose_first_client_is_killed_while_it_starts_leaves_nothing(
    service: str, store_runtime: Path
) -> None:
    """The client goes at whatever moment: before, while and after the service makes its files."""
    for delay in (0.0, 0.02, 0.05, 0.1, 0.2, 0.4):
        program = f"import signal, harness.host.service as s; client = s.connect('it', {service!r}); signal.pause()"
        output = store_runtime.parent / "client.log"
        client = spawn("a client", [sys.executable, "-c", program], log=output)
        with suppress(DeadlineExpired):
            client.wait(Deadline(delay, "nothing"))
        client.kill()
    assert leftovers(store_runtime) == []


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
