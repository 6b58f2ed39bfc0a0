"""The agent's client, against the real agent, against QEMU's own where it is installed, and against hostile ones."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import shutil
import socket
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TypeVar

import pytest

from harness.guest import agent as agent_module
from harness.guest.agent import MAX_STDIN, AgentClient
from harness.guest.completed import CommandFailed, CommandTimeout, Completed
from harness.host.deadline import Deadline
from harness.host.errors import AgentError, CheckFailed, GuestGone, UsageError
from tests.unit.agent_process import compile_agent, running_agent, stock_agent

T = TypeVar("T")
Connect = Callable[[], AbstractContextManager[socket.socket]]
ALL_BYTES = bytes(range(256))


def soon(seconds: float = 20.0) -> Deadline:
    return Deadline(seconds, "the test")


@pytest.fixture(scope="module")
def binary(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return compile_agent(tmp_path_factory.mktemp("agent"))


@pytest.fixture(params=["ours", "stock"] if shutil.which("qemu-ga") else ["ours"])
def sock(request: pytest.FixtureRequest, binary: Path, tmp_path: Path) -> Iterator[socket.socket]:
    agent = running_agent(binary) if request.param == "ours" else stock_agent(tmp_path)
    with agent as connected:
        yield connected


@pytest.fixture
def ours(binary: Path) -> Iterator[socket.socket]:
    with running_agent(binary) as connected:
        yield connected


def using(sock: socket.socket, body: Callable[[AgentClient], Awaitable[T]]) -> T:
    """Run a test's coroutine with a client on the socket."""

    async def main() -> T:
        return await body(AgentClient(sock))

    return asyncio.run(main())


def execute(sock: socket.socket, *argv: str, stdin: bytes = b"", env: dict[str, str] | None = None) -> Completed:
    return using(sock, lambda client: client.exec(argv, soon(), stdin=stdin, env=env))


def test_info(sock: socket.socket) -> None:
    info = using(sock, lambda client: client.info(soon()))
    assert "guest-exec" in info.commands
    assert info.version


def test_interfaces(sock: socket.socket) -> None:
    interfaces = using(sock, lambda client: client.interfaces(soon()))
    (loopback,) = [one for one in interfaces if one.name == "lo"]
    assert ("127.0.0.1", 8) in loopback.addresses


def test_both_streams_and_status(sock: socket.socket) -> None:
    done = execute(sock, "sh", "-c", "cat; printf '\\377err' >&2; exit 3", stdin=ALL_BYTES)
    assert (done.status, done.signal, done.stdout, done.stderr) == (3, None, ALL_BYTES, b"\xfferr")


def test_killed_by_a_signal(sock: socket.socket) -> None:
    done = execute(sock, "sh", "-c", "kill -TERM $$")
    assert (done.status, done.signal) == (None, 15)
    with pytest.raises(CommandFailed, match="was killed by signal 15"):
        done.check()


def test_environment(sock: socket.socket) -> None:
    assert execute(sock, "sh", "-c", "echo $GREETING", env={"GREETING": "gr\u00fc\u00df"}).text == "gr\u00fc\u00df"


def test_missing_program(sock: socket.socket) -> None:
    with pytest.raises(AgentError, match="no-such-program"):
        execute(sock, "no-such-program")


def test_large_input(sock: socket.socket) -> None:
    data = os.urandom(MAX_STDIN)
    assert execute(sock, "cat", stdin=data).stdout == data


def test_too_large_input_is_refused_with_advice(ours: socket.socket) -> None:
    with pytest.raises(UsageError, match="write_file"):
        execute(ours, "cat", stdin=bytes(MAX_STDIN + 1))


def test_arguments_that_cannot_be_sent(ours: socket.socket) -> None:
    for argument in ("a\0b", "\udc80"):
        with pytest.raises(UsageError, match="cannot be sent"):
            execute(ours, "echo", argument)


def test_big_output_is_truncated_and_check_says_so(ours: socket.socket) -> None:
    done = execute(ours, "head", "-c", "17000000", "/dev/zero")
    assert done.truncated
    assert len(done.stdout) == 16 << 20
    with pytest.raises(CommandFailed, match="more than is kept"):
        done.check()


def test_many_commands_side_by_side(sock: socket.socket) -> None:
    async def body(client: AgentClient) -> list[Completed]:
        runs = [client.exec(["sh", "-c", f"sleep 0.5; echo {n}; exit {n}"], soon()) for n in range(20)]
        return await asyncio.gather(*runs)

    started = time.monotonic()
    results = using(sock, body)
    assert [(done.text, done.status) for done in results] == [(str(n), n) for n in range(20)]
    assert time.monotonic() - started < 0.5 * 20 / 2


def test_timeout_kills_the_whole_group_and_keeps_the_output(ours: socket.socket, tmp_path: Path) -> None:
    survivor = tmp_path / "survivor"
    script = f"(sleep 1.5; touch {survivor}) & echo before; echo odd >&2; wait"

    async def body(client: AgentClient) -> CommandTimeout:
        with pytest.raises(CommandTimeout) as caught:
            await client.exec(["sh", "-c", script], soon(0.5))
        assert (await client.exec(["echo", "next"], soon())).text == "next"
        await asyncio.sleep(1.5)
        return caught.value

    error = using(ours, body)
    assert not survivor.exists()
    assert (error.stdout, error.stderr) == (b"before\n", b"odd\n")
    assert error.argv == ("sh", "-c", script)
    for part in ("within 0.5 s", "it was killed", "sleep 1.5", "stdout: before", "stderr: odd"):
        assert part in str(error)


def test_timeout_with_the_stock_agent(sock: socket.socket) -> None:
    async def body(client: AgentClient) -> None:
        with pytest.raises(CommandTimeout, match="it was killed"):
            await client.exec(["sleep", "60"], soon(0.3))

    using(sock, body)


def test_output_held_open_by_a_stranger_does_not_hang_the_client(ours: socket.socket) -> None:
    async def body(client: AgentClient) -> None:
        with pytest.raises(CommandTimeout, match="still holds its output open"):
            await client.exec(["setsid", "-f", "sleep", "5"], soon(0.3))

    using(ours, body)


def test_cancelled_command_is_killed(ours: socket.socket, tmp_path: Path) -> None:
    started, survivor = tmp_path / "started", tmp_path / "survivor"
    script = f"touch {started}; sleep 1; touch {survivor}"

    async def body(client: AgentClient) -> None:
        task = asyncio.create_task(client.exec(["sh", "-c", script], soon()))
        while not started.exists():
            await client.ping(soon())
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await asyncio.sleep(1.2)
        assert not survivor.exists()

    using(ours, body)


def test_cancelled_request_does_not_shift_the_answers(ours: socket.socket) -> None:
    async def body(client: AgentClient) -> None:
        for turn in range(30):
            task = asyncio.create_task(client.request("guest-sync", {"id": turn}, soon()))
            for _ in range(turn % 7):
                await asyncio.sleep(0)
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task
            assert await client.request("guest-sync", {"id": 1000 + turn}, soon()) == 1000 + turn

    using(ours, body)


def test_files(sock: socket.socket, tmp_path: Path) -> None:
    data = os.urandom(300_000)
    path = tmp_path / "file"
    path.write_bytes(b"x" * 400_000)

    async def body(client: AgentClient) -> bytes:
        await client.write_file(str(path), data, soon())
        return await client.read_file(str(path), soon())

    assert using(sock, body) == data
    assert path.read_bytes() == data


def test_empty_and_endless_files(sock: socket.socket, tmp_path: Path) -> None:
    async def body(client: AgentClient) -> None:
        await client.write_file(str(tmp_path / "empty"), b"", soon())
        assert await client.read_file(str(tmp_path / "empty"), soon()) == b""
        assert await client.read_file("/proc/version", soon()) == Path("/proc/version").read_bytes()
        with pytest.raises(AgentError, match="longer than 1000000 bytes"):
            await client.read_file("/dev/zero", soon(), limit=1_000_000)

    using(sock, body)


def test_file_errors_name_the_file(sock: socket.socket, tmp_path: Path) -> None:
    async def body(client: AgentClient) -> None:
        with pytest.raises(AgentError, match="No such file"):
            await client.read_file(str(tmp_path / "none"), soon())
        with pytest.raises(AgentError, match="No space left"):
            await client.write_file("/dev/full", b"x", soon())

    using(sock, body)


def test_stale_bytes_from_both_sides_are_survived(ours: socket.socket) -> None:
    ours.sendall(b'{"execute": "guest-info"}\n{"execute": "guest-pi')
    assert execute(ours, "echo", "clean").text == "clean"


def test_waits_for_an_agent_that_starts_late(binary: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is sent before the agent has opened the port is lost, as it is on a serial line; its hello asks for more."""
    monkeypatch.setattr(agent_module, "_SYNC_AGAIN", 3600)
    outer, inner = socket.socketpair()

    async def body() -> None:
        ping = asyncio.create_task(AgentClient(outer).ping(soon()))
        await asyncio.sleep(0.1)
        assert b"guest-sync-delimited" in inner.recv(65536)
        with running_agent(binary) as agent:
            relays = [asyncio.create_task(relay(agent, inner)), asyncio.create_task(relay(inner, agent))]
            await ping
            for task in relays:
                task.cancel()

    async def relay(source: socket.socket, target: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        source.setblocking(False)
        while data := await loop.sock_recv(source, 65536):
            await loop.sock_sendall(target, data)

    with outer, inner:
        asyncio.run(body())


def test_asks_again_when_the_question_was_lost() -> None:
    """An agent that runs already says no hello."""
    outer, inner = socket.socketpair()

    async def body(client: AgentClient) -> None:
        server = asyncio.create_task(answer_the_second())
        await client.ping(soon())
        await server

    async def answer_the_second() -> None:
        reader, writer = await asyncio.open_connection(sock=inner)
        await reader.readline()
        number = json.loads((await reader.readline()).rpartition(b"\xff")[2])["arguments"]["id"]
        writer.write(b'garbage\xff{"return": %d}\n' % number)
        await reader.readline()
        writer.write(b'{"return": {}}\n')
        await writer.drain()

    with outer, inner:
        using(outer, body)


def test_end_of_the_agent_is_noticed(binary: Path) -> None:
    with running_agent(binary) as sock:

        async def body(client: AgentClient) -> None:
            await client.ping(soon())
            running = asyncio.create_task(client.exec(["sleep", "30"], soon()))
            # The agent kills itself: its parent is the command's.
            killer = client.exec(["sh", "-c", "kill -9 $PPID"], soon())
            with pytest.raises(GuestGone):
                await killer
            with pytest.raises(GuestGone):
                await running

        using(sock, body)


def test_shutdown_is_refused_here(ours: socket.socket) -> None:
    """The agent of these tests lacks the capability: its error must come through."""

    async def body(client: AgentClient) -> None:
        with pytest.raises(AgentError, match="cannot shut down"):
            await client.shutdown(soon())

    using(ours, body)


def test_check_shows_the_ends_of_both_streams() -> None:
    done = Completed(("sh", "-c", "a b"), 2, None, b"early\n" * 1000 + b"last out\x1b[2J", b"last err\r\n")
    with pytest.raises(CheckFailed) as caught:
        done.check()
    text = str(caught.value)
    assert caught.value.exit_code == 1
    for part in ("exited with status 2", "sh -c 'a b'", "last out", "stderr: last err"):
        assert part in text
    assert len(text) < 5000
    assert "\x1b" not in text
