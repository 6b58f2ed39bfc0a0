"""The agent's client, against guests that answer with what no agent would."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
from collections.abc import Awaitable, Callable
from typing import TypeVar

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.guest.agent import AgentClient
from harness.guest.qga import MAX_LINE
from harness.host.deadline import Deadline
from harness.host.errors import AgentError, GuestError, GuestGone, GuestSilent

T = TypeVar("T")


def soon(seconds: float = 20.0) -> Deadline:
    return Deadline(seconds, "the test")


class HostileAgent:
    """Answers synchronisation properly and everything else with what the test says."""

    def __init__(self, answers: Callable[[str], bytes | None]) -> None:
        self._answers = answers

    async def serve(self, sock: socket.socket) -> None:
        reader, writer = await asyncio.open_connection(sock=sock)
        while line := await reader.readline():
            message = json.loads(line.rpartition(b"\xff")[2])
            if message["execute"] == "guest-sync-delimited":
                answer: bytes | None = b'\xff{"return": %d}\n' % message["arguments"]["id"]
            else:
                answer = self._answers(message["execute"])
            if answer is None:
                break
            writer.write(answer)
        writer.close()


def against(answers: Callable[[str], bytes | None], body: Callable[[AgentClient], Awaitable[T]]) -> T:
    ours, theirs = socket.socketpair()

    async def main() -> T:
        server = asyncio.create_task(HostileAgent(answers).serve(theirs))
        try:
            return await body(AgentClient(ours))
        finally:
            server.cancel()

    with ours, theirs:
        return asyncio.run(main())


@pytest.mark.parametrize(
    "answer",
    [
        b"\n",
        b"nonsense\n",
        b"[]\n",
        b'{"return": 1, "error": {}}\n',
        b'{"error": "bare"}\n',
        b'{"return": []}\n',
        b'{"return": {"pid": "7"}}\n',
        b'{"return": {"pid": true}}\n',
        b'{"return": {"pid": -1}}\n',
        b'{"return": {"pid": 1}}\n',
        b'{"return": {"pid": 1e3}}\n',
        b'{"return": {"pid": %d}}\n' % (1 << 70),
        b'{"return": {"pid": ' + b"9" * 10000 + b"}}\n",
        b"[" * 100_000 + b"\n",
        b'{"return": [' + b"[]," * 400_000 + b"[]]}\n",
        b"\x80\xfe\n",
        b"x" * (MAX_LINE + 100_000) + b"\n",
    ],
    ids=lambda answer: repr(answer[:30]),
)
def test_nonsense_is_an_agent_error(answer: bytes) -> None:
    async def body(client: AgentClient) -> None:
        with pytest.raises(AgentError) as caught:
            await client.exec(["true"], soon())
        assert "agent" in str(caught.value)

    against(lambda _: answer, body)


@pytest.mark.parametrize(
    "status",
    [
        b"{}",
        b'{"exited": 1}',
        b'{"exited": true}',
        b'{"exited": true, "exitcode": 0, "signal": 9}',
        b'{"exited": true, "exitcode": "0"}',
        b'{"exited": true, "exitcode": 0, "out-data": "*"}',
        b'{"exited": true, "exitcode": 0, "out-data": 5}',
        b'{"exited": true, "exitcode": 0, "out-data": "\\u00e4AAA"}',
        b'{"exited": true, "exitcode": 0, "out-truncated": "yes"}',
    ],
)
def test_nonsense_status_is_an_agent_error(status: bytes) -> None:
    def answers(command: str) -> bytes:
        return b'{"return": %s}\n' % (status if command == "guest-exec-status" else b'{"pid": 50}')

    async def body(client: AgentClient) -> None:
        with pytest.raises(AgentError):
            await client.exec(["true"], soon())

    against(answers, body)


def test_control_characters_in_errors_are_defused() -> None:
    async def body(client: AgentClient) -> None:
        with pytest.raises(AgentError) as caught:
            await client.ping(soon())
        assert "\x1b" not in str(caught.value)
        assert "wicked" in str(caught.value)

    against(lambda _: b'{"error": {"class": "GenericError", "desc": "\\u001b]0;title\\u0007wicked\\r\\u0000"}}\n', body)


def test_silence_is_an_error_and_the_next_request_recovers() -> None:
    quiet = iter([b""])

    async def body(client: AgentClient) -> None:
        with pytest.raises(GuestSilent, match=r"guest-ping.* within 0.3 s"):
            await client.ping(soon(0.3))
        await client.ping(soon())

    against(lambda _: next(quiet, b'{"return": {}}\n'), body)


def test_file_read_that_never_advances_ends() -> None:
    def answers(command: str) -> bytes:
        return b'{"return": 5}\n' if "open" in command else b'{"return": {"count": 0, "buf-b64": "", "eof": false}}\n'

    async def body(client: AgentClient) -> None:
        with pytest.raises(AgentError, match="neither data nor its end"):
            await client.read_file("/file", soon())

    against(answers, body)


@pytest.mark.parametrize("count", [0, -1, 4, 1 << 40])
def test_file_write_count_is_not_believed(count: int) -> None:
    def answers(command: str) -> bytes:
        return b'{"return": 5}\n' if "open" in command else b'{"return": {"count": %d, "eof": false}}\n' % count

    async def body(client: AgentClient) -> None:
        with pytest.raises(AgentError, match="says it wrote"):
            await client.write_file("/file", b"abc", soon())

    against(answers, body)


def test_closed_port_is_gone() -> None:
    async def body(client: AgentClient) -> None:
        with pytest.raises(GuestGone):
            await client.ping(soon())

    against(lambda _: None, body)


@settings(max_examples=200, deadline=None)
@given(st.lists(st.binary(max_size=60), max_size=6))
def test_arbitrary_answers_never_give_another_kind_of_error(noise: list[bytes]) -> None:
    answers = iter(noise)

    async def body(client: AgentClient) -> None:
        for _ in range(3):
            with contextlib.suppress(GuestError):
                await client.exec(["true"], soon(0.05))

    against(lambda _: next(answers, b'{"return": {"pid": 50}}') + b"\n", body)
