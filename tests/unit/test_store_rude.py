"""Clients that misbehave on the socket of a store that runs as a process: it costs them alone."""

from __future__ import annotations

import resource
import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from harness.host.service import socket_path
from harness.store.client import StoreClient
from harness.store.wire import HEADER, Message, Op, strings
from tests.unit.live_store import event, store_pid

SECONDS = 20.0


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


@pytest.mark.parametrize("length", [4097, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF])
def test_a_length_that_cannot_be_costs_its_sender_the_connection(
    client: StoreClient, rude: socket.socket, length: int
) -> None:
    rude.sendall(HEADER.pack(Op.WRITE, 1, 0, length) + b"x" * 100)
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


def test_a_flood_of_small_requests_is_not_taken_in_faster_than_it_is_answered(
    store_runtime: Path, client: StoreClient, rude: socket.socket
) -> None:
    client.write("/tool", "")
    memory = Path(f"/proc/{store_pid(store_runtime)}/statm")

    def resident() -> int:
        return int(memory.read_text().split()[1]) * resource.getpagesize()

    ask = Message(Op.READ, 1, 0, strings("/")).pack() * 1000
    answer = Message(Op.READ, 1, 0, b"").pack() * 1000
    before = resident()
    with ThreadPoolExecutor(1) as pool:
        sending = pool.submit(rude.sendall, ask * 50)
        left = len(answer) * 50
        while left:
            left -= len(rude.recv(min(left, 1 << 16)))
        sending.result(SECONDS)
    assert resident() - before < 1 << 20


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
