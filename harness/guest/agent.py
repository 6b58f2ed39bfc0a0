"""A client of QEMU's guest agent protocol: drives our agent in minimal guests and a stock ``qemu-ga`` in any other."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import secrets
import socket
from collections.abc import AsyncGenerator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from harness.guest.completed import CommandTimeout, Completed
from harness.guest.port import AgentPort
from harness.guest.qga import SENTINEL, ExecStatus, Fields, integer, objects, parse_answer, request
from harness.host.deadline import Deadline
from harness.host.errors import AgentError, GuestGone, GuestSilent, HarnessError, UsageError

MAX_STDIN = 256 << 10
"""Bytes of standard input of a command. It travels in one request, which the guest's serial driver must buffer."""

_FILE_CHUNK = 48 << 10
_SYNC_AGAIN = 0.5
_FIRST_POLL, _LAST_POLL, _POLL_GROWTH = 0.002, 0.050, 1.5
_KILL_GRACE = 2.0
_REFUSAL_GRACE = 0.5
_DEFAULT_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_KILL = "kill -9 -$0 2>/dev/null || kill -9 $0"
"""Our agent gives each command a process group of its own; where there is none, at least the command dies."""


@dataclass(frozen=True, slots=True)
class AgentInfo:
    """What an agent says about itself."""

    version: str
    commands: frozenset[str]


@dataclass(frozen=True, slots=True)
class Interface:
    """A network interface of the guest.

    :param mac: lower case with colons, None if it has none.
    :param addresses: ``(address, prefix length)``, IPv4 and IPv6.
    """

    name: str
    mac: str | None
    addresses: tuple[tuple[str, int], ...]


class AgentClient:
    """Talks to one agent over a connected socket, for any number of tasks of one event loop.

    Requests take turns; commands run side by side. Every method takes a deadline and raises, besides what it says:

    :raise GuestSilent: the agent did not answer in time.
    :raise GuestGone: the port was closed.
    :raise AgentError: the agent refused, or answered with nonsense.
    """

    def __init__(self, sock: socket.socket) -> None:
        self._port = AgentPort(sock)
        self._turn = asyncio.Lock()
        self._in_sync = False

    def close(self) -> None:
        """Close the socket. Commands in the guest go on."""
        self._port.close()

    async def request(self, command: str, arguments: Mapping[str, object] | None, deadline: Deadline) -> object:
        """Carry out one command of the protocol and return its result, of whatever type the guest chose."""
        try:
            async with asyncio.timeout(deadline.left), self._turn:
                await self._synchronise()
                # Until the answer is here (we may be cancelled) nobody knows what the next line belongs to.
                self._in_sync = False
                await self._port.send(request(command, arguments))
                line = await self._port.line()
                if not line:
                    raise AgentError(f"the guest's agent ended during {command} and was started again")
                self._in_sync = True
        except TimeoutError:
            raise GuestSilent(
                f"the guest's agent did not answer {command}: {deadline.waiting_for} did not happen "
                f"within {deadline.seconds:g} s"
            ) from None
        return parse_answer(command, line)

    async def _synchronise(self) -> None:
        """Make the next line the answer to the next request, whatever has been sent in either direction before."""
        while not self._in_sync:
            # From zero to 2^53: every JSON library gives that back unharmed.
            number = secrets.randbits(53)
            await self._port.send(SENTINEL + request("guest-sync-delimited", {"id": number}))
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_SYNC_AGAIN):
                    self._in_sync = await self._sync_answered(number)

    async def _sync_answered(self, number: int) -> bool:
        """Skip lines up to the answer. False if an agent has just started, which may have missed the question."""
        while True:
            try:
                line = await self._port.line()
                if not line:
                    return False
                if parse_answer("guest-sync-delimited", line) == number:
                    return True
            except AgentError:
                continue

    async def ping(self, deadline: Deadline) -> None:
        """Return once the agent answers; waits for an agent that is still to be started."""
        await self.request("guest-ping", None, deadline)

    async def info(self, deadline: Deadline) -> AgentInfo:
        """The agent's version and the commands it knows."""
        fields = Fields("guest-info", await self.request("guest-info", None, deadline))
        commands = fields.objects("supported_commands")
        return AgentInfo(fields.text("version"), frozenset(command.text("name") for command in commands))

    async def interfaces(self, deadline: Deadline) -> list[Interface]:
        """The guest's network interfaces."""
        command = "guest-network-get-interfaces"
        found = objects(command, await self.request(command, None, deadline))
        return [
            Interface(
                name=one.text("name"),
                mac=one.text("hardware-address", otherwise="").lower() or None,
                addresses=tuple((a.text("ip-address"), a.integer("prefix")) for a in one.objects("ip-addresses")),
            )
            for one in found
        ]

    async def exec(
        self,
        argv: Sequence[str],
        deadline: Deadline,
        *,
        stdin: bytes = b"",
        env: Mapping[str, str] | None = None,
    ) -> Completed:
        """Run a program in the guest to its end.

        The end is when the program has exited and nobody holds its output open any more.

        :param argv: the program, looked up in the guest's PATH, and its arguments; no shell is involved.
        :param stdin: what it reads, at most ``MAX_STDIN`` bytes.
        :param env: its whole environment (PATH is added when missing); None: the agent's own.
        :raise CommandTimeout: it was still running and has been killed, with all of its process group.
        :raise GuestSilent: it was still running, and the agent no longer answers.
        :raise AgentError: it could not be started.
        """
        pid = await self._start(argv, stdin, env, deadline)
        try:
            status = await self._end_of(pid, deadline)
        except asyncio.CancelledError:
            with contextlib.suppress(HarnessError):
                await self._kill(pid)
            raise
        if status is not None:
            return Completed(
                tuple(argv), status.status, status.signal, status.stdout, status.stderr, truncated=status.truncated
            )
        try:
            last, fate = await self._kill(pid)
        except HarnessError as error:
            timeout = CommandTimeout(argv, deadline.seconds, fate=f"killing it failed: {error.what}")
            # An agent that says nothing at all is not the command's fault.
            raise (GuestSilent(timeout.what) if isinstance(error, GuestSilent) else timeout) from error
        raise CommandTimeout(argv, deadline.seconds, stdout=last.stdout, stderr=last.stderr, fate=fate)

    async def _start(self, argv: Sequence[str], stdin: bytes, env: Mapping[str, str] | None, deadline: Deadline) -> int:
        arguments: dict[str, object] = {"path": argv[0], "arg": list(argv[1:]), "capture-output": True}
        variables = [] if env is None else [f"{name}={value}" for name, value in {"PATH": _DEFAULT_PATH, **env}.items()]
        _check_strings([*argv, *variables])
        if len(stdin) > MAX_STDIN:
            raise UsageError(
                f"standard input of {argv[0]} in the guest has {len(stdin)} bytes, more than {MAX_STDIN}",
                hint="write it into a file in the guest first (write_file) and have the command read that",
            )
        if env is not None:
            arguments["env"] = variables
        if stdin:
            arguments["input-data"] = base64.b64encode(stdin).decode()
        pid = Fields("guest-exec", await self.request("guest-exec", arguments, deadline)).integer("pid")
        # 0, 1 and -1 mean something else to kill.
        if pid <= 1:
            raise AgentError(f"the guest's agent answered guest-exec with the PID {pid}")
        return pid

    async def _end_of(self, pid: int, deadline: Deadline) -> ExecStatus | None:
        """Wait for the end of a command; None when the deadline comes first."""
        interval = _FIRST_POLL
        with contextlib.suppress(GuestSilent):
            while not deadline.expired:
                status = ExecStatus.parse(await self.request("guest-exec-status", {"pid": pid}, deadline))
                if status.exited:
                    return status
                await asyncio.sleep(min(interval, deadline.left))
                interval = min(interval * _POLL_GROWTH, _LAST_POLL)
        return None

    async def _kill(self, pid: int) -> tuple[ExecStatus, str]:
        """Kill a command's process group. Returns what it left, and in words what became of it."""
        grace = Deadline(_KILL_GRACE, "the end of a killed command")
        killer = await self._start(["/bin/sh", "-c", _KILL, str(pid)], b"", None, grace)
        await self._end_of(killer, grace)
        last = await self._end_of(pid, grace)
        if last is None:
            return ExecStatus(exited=False), "it was killed, but something still holds its output open"
        return last, "it was killed"

    async def read_file(self, path: str, deadline: Deadline, *, limit: int = 64 << 20) -> bytes:
        """A file's content, of any kind of file that has an end.

        :param limit: bytes; a longer file is refused, since its size is the guest's choice.
        """
        content = bytearray()
        handle = await self._open(path, "r", deadline)
        try:
            while True:
                wanted: dict[str, object] = {"handle": handle, "count": _FILE_CHUNK}
                fields = Fields("guest-file-read", await self.request("guest-file-read", wanted, deadline))
                data, at_end = fields.data("buf-b64"), fields.boolean("eof")
                content += data
                if len(content) > limit:
                    raise AgentError(f"{path} in the guest is longer than {limit} bytes")
                if at_end:
                    return bytes(content)
                if not data:
                    raise AgentError(f"reading {path} in the guest gives neither data nor its end")
        finally:
            await self._abandon(handle)

    async def follow_file(self, path: str, deadline: Deadline) -> AsyncGenerator[bytes, None]:
        """What comes out of a file that has no end, such as a trace; empty when there is nothing just now."""
        handle = await self._open(path, "r", deadline)
        try:
            while True:
                wanted: dict[str, object] = {"handle": handle, "count": _FILE_CHUNK}
                yield Fields("guest-file-read", await self.request("guest-file-read", wanted, deadline)).data("buf-b64")
        finally:
            await self._abandon(handle)

    async def write_file(self, path: str, content: bytes, deadline: Deadline) -> None:
        """Create a file, or replace the content of one. It is then in the guest's page cache."""
        handle = await self._open(path, "w", deadline)
        try:
            done = 0
            while done < len(content):
                chunk = content[done : done + _FILE_CHUNK]
                arguments = {"handle": handle, "buf-b64": base64.b64encode(chunk).decode()}
                answer = await self.request("guest-file-write", arguments, deadline)
                count = Fields("guest-file-write", answer).integer("count")
                if not 0 < count <= len(chunk):
                    raise AgentError(f"the guest's agent says it wrote {count} of {len(chunk)} bytes to {path}")
                done += count
        except BaseException:
            await self._abandon(handle)
            raise
        # With a stock agent, this is where buffered data is written and an error shows.
        await self.request("guest-file-close", {"handle": handle}, deadline)

    async def _open(self, path: str, mode: str, deadline: Deadline) -> int:
        _check_strings([path])
        answer = await self.request("guest-file-open", {"path": path, "mode": mode}, deadline)
        return integer("guest-file-open", answer)

    async def _abandon(self, handle: int) -> None:
        """Close a file whose outcome is known already."""
        with contextlib.suppress(HarnessError):
            await self.request("guest-file-close", {"handle": handle}, Deadline(_KILL_GRACE, "closing a file"))

    async def shutdown(self, deadline: Deadline, mode: Literal["powerdown", "reboot", "halt"] = "powerdown") -> None:
        """Ask the guest to shut down. It has been asked when this returns; only QEMU tells when it has obeyed."""
        await self.ping(deadline)
        # Success has no answer: silence is what is hoped for.
        with contextlib.suppress(GuestSilent, GuestGone):
            await self.request("guest-shutdown", {"mode": mode}, Deadline(_REFUSAL_GRACE, "a refusal to shut down"))


def _check_strings(strings: Sequence[str]) -> None:
    for string in strings:
        try:
            string.encode()
        except UnicodeEncodeError:
            raise UsageError(f"{string!r} cannot be sent to the guest: it is not valid Unicode") from None
        if "\0" in string:
            raise UsageError(f"{string!r} cannot be sent to the guest: it holds a NUL")
