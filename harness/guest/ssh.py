"""SSH into a guest, over whatever network device is under test. Blocking; one client may be used by several threads.

paramiko waits without limit in several places: for the answer to a request, for room in a full socket, for an exit
status before the output has been read. Here every wait is for an event of the channel and ends with the deadline, and
as a last resort the connection is cut.
"""

from __future__ import annotations

import logging
import select
import shlex
import socket
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Self

import paramiko

from harness.guest.completed import CommandTimeout, Completed
from harness.host.closing import Closing
from harness.host.deadline import Deadline
from harness.host.errors import GuestError, GuestGone, GuestSilent, HostError
from harness.host.interruption import Guard, cut, unguarded

MAX_OUTPUT = 256 << 20
"""Bytes kept of both streams of a command together; a guest that prints more is stopped."""

SESSION_SECONDS = 30.0

_CHUNK = 1 << 16
_LAST_RESORT = 2.0
_LOST = (paramiko.SSHException, EOFError, OSError)

# Without a handler of its own, Python prints the library's complaints on standard error; they reach callers as errors.
logging.getLogger("paramiko").addHandler(logging.NullHandler())


class SshError(GuestError):
    """The guest's SSH server is not the guest's, or refused us."""


@dataclass(frozen=True)
class TerminalSize:
    """A terminal: its kind, as in ``$TERM``, and its size in characters."""

    kind: str
    width: int
    height: int


class SshClient(Closing):
    """A connection to a guest's SSH server, logged in by key.

    :param guard: knows what else may happen to the guest: every wait for it happens inside.
    """

    def __init__(self, transport: paramiko.Transport, guard: Guard = unguarded) -> None:
        self._transport = transport
        self._guard = guard

    @classmethod
    def connect(
        cls,
        sock: socket.socket,
        deadline: Deadline,
        *,
        host_key: str,
        client_key: Path,
        user: str = "root",
        guard: Guard = unguarded,
    ) -> Self:
        """Log in over a connected socket, which belongs to the client from here on.

        :param host_key: the only public key the server may have, ``ssh-ed25519 AAAA…``.
        :param client_key: file of our private key.
        :param guard: of the login and of all that follows.
        :raise SshError: the server has another key, or does not accept ours.
        :raise GuestSilent: no answer in time.
        :raise GuestGone: the connection was closed.
        :raise HostError: our key cannot be read.
        """
        try:
            key = paramiko.PKey.from_path(client_key)
        except (OSError, ValueError, paramiko.SSHException) as error:
            sock.close()
            raise HostError(f"cannot read the SSH key {client_key}: {error}") from error
        if sock.family in (socket.AF_INET, socket.AF_INET6):
            # Requests are small and wait for answers: Nagle's algorithm would delay each.
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        transport = paramiko.Transport(sock)
        try:
            with guard(partial(cut, sock)):
                _negotiate(transport, host_key, deadline)
                _log_in(transport, user, key, deadline)
        except BaseException:
            transport.close()
            raise
        return cls(transport, guard)

    def close(self) -> None:
        """Close the connection; commands that are running lose their output."""
        self._transport.close()

    def run(self, command: str | Sequence[str], deadline: Deadline, *, stdin: bytes = b"") -> Completed:
        """Run a command in the guest to its end.

        A command that a signal has killed has neither status nor signal: paramiko does not tell which one it was.

        :param command: for the user's shell; a sequence is quoted so that the shell passes it on unchanged.
        :raise CommandTimeout: it was still running; nobody has killed it.
        :raise GuestGone: the connection was lost.
        :raise SshError: the server does not run commands.
        :raise GuestError: it printed more than ``MAX_OUTPUT`` bytes.
        """
        with self._guard(self._cut):
            return self._run(command, deadline, stdin)

    def _run(self, command: str | Sequence[str], deadline: Deadline, stdin: bytes) -> Completed:
        argv = (command,) if isinstance(command, str) else tuple(command)
        exchange = _Exchange(stdin)
        try:
            with self._cut_after(deadline):
                channel = self._transport.open_session(timeout=deadline.left)
                try:
                    channel.exec_command(command if isinstance(command, str) else shlex.join(command))
                    status = exchange.run(channel, deadline)
                finally:
                    channel.close()
        except _LOST as error:
            if deadline.expired:
                raise self._timeout(argv, deadline, exchange) from error
            if self._transport.is_active():
                raise SshError(f"the guest's SSH server refused to run {shlex.join(argv)}: {error}") from error
            raise GuestGone(f"the SSH connection was lost while {shlex.join(argv)} ran: {error}") from error
        if status is None:
            raise self._timeout(argv, deadline, exchange)
        if status < 0 and not self._transport.is_active():
            raise GuestGone(f"the SSH connection was lost while {shlex.join(argv)} ran")
        return Completed(argv, status if status >= 0 else None, None, bytes(exchange.stdout), bytes(exchange.stderr))

    def session(
        self, command: str | None, terminal: TerminalSize | None, *, timeout: float = SESSION_SECONDS
    ) -> paramiko.Channel:
        """A channel to a command that the caller talks to himself, for instance at a terminal.

        :param command: for the user's shell; None: the shell itself.
        :param terminal: give it a terminal; None: three streams.
        :param timeout: seconds for it to start.
        :raise GuestGone: the connection was lost.
        :raise SshError: the server does not run commands, or has no terminals.
        """
        try:
            channel = self._transport.open_session(timeout=timeout)
            if terminal is not None:
                channel.get_pty(terminal.kind, terminal.width, terminal.height)
            if command is None:
                channel.invoke_shell()
            else:
                channel.exec_command(command)
        except _LOST as error:
            kind = SshError if self._transport.is_active() else GuestGone
            raise kind(f"the guest's SSH server did not start {command or 'a shell'}: {error}") from error
        return channel

    def put(self, path: str, content: bytes, deadline: Deadline) -> None:
        """Create a file in the guest, or replace its content.

        :raise CommandFailed: the guest cannot.
        """
        self.run(f"cat > {shlex.quote(path)}", deadline, stdin=content).check()

    def get(self, path: str, deadline: Deadline) -> bytes:
        """The content of a file in the guest.

        :raise CommandFailed: the guest cannot.
        """
        return self.run(f"cat < {shlex.quote(path)}", deadline).check().stdout

    @staticmethod
    def _timeout(argv: Sequence[str], deadline: Deadline, exchange: _Exchange) -> CommandTimeout:
        return CommandTimeout(
            argv,
            deadline.seconds,
            stdout=bytes(exchange.stdout),
            stderr=bytes(exchange.stderr),
            fate="its SSH channel was closed",
        )

    def _cut(self) -> None:
        cut(self._transport.sock)

    @contextmanager
    def _cut_after(self, deadline: Deadline) -> Iterator[None]:
        """Close the connection some time after the deadline, which wakes whatever paramiko waits for."""
        timer = threading.Timer(deadline.left + _LAST_RESORT, self._transport.close)
        timer.daemon = True
        timer.start()
        try:
            yield
        finally:
            timer.cancel()


def _negotiate(transport: paramiko.Transport, host_key: str, deadline: Deadline) -> None:
    key_type, expected = host_key.split()[:2]
    # A server may have several keys; the one we know is the one it shall prove.
    transport.get_security_options().key_types = (
        ("rsa-sha2-512", "rsa-sha2-256") if key_type == "ssh-rsa" else (key_type,)
    )
    # Ours is the deadline that counts.
    transport.banner_timeout = transport.handshake_timeout = deadline.left + _LAST_RESORT
    done = threading.Event()
    transport.start_client(done)
    _await(transport, done, deadline)
    if not transport.is_active():
        error = transport.get_exception()
        if isinstance(error, paramiko.ssh_exception.IncompatiblePeer):
            raise SshError(f"the guest's SSH server has no {key_type} host key, or is too old: {error}") from error
        raise GuestGone(f"the SSH connection to the guest ended before login: {error or 'no reason given'}")
    offered = transport.get_remote_server_key()
    if offered.get_base64() != expected:
        raise SshError(
            f"the SSH server that answered has the host key {offered.get_name()} {offered.get_base64()}, "
            f"not the image's own: {host_key}",
            hint="something else answers at the guest's address; was the image rebuilt while the guest ran?",
        )


def _log_in(transport: paramiko.Transport, user: str, key: paramiko.PKey, deadline: Deadline) -> None:
    done = threading.Event()
    try:
        transport.auth_publickey(user, key, done)
    except paramiko.SSHException as error:
        raise GuestGone(f"the guest closed the SSH connection before login: {error}") from error
    _await(transport, done, deadline)
    if not transport.is_authenticated():
        raise SshError(f"the guest's SSH server does not accept our key for {user}: {transport.get_exception()}")


def _await(transport: paramiko.Transport, done: threading.Event, deadline: Deadline) -> None:
    if not done.wait(deadline.left):
        transport.close()
        raise _silent(deadline)


def _silent(deadline: Deadline) -> GuestSilent:
    return GuestSilent(f"the guest's SSH server did not answer: {deadline.waiting_for}, within {deadline.seconds:g} s")


class _Exchange:
    """The streams of one command: feeds one, drains two, so that none of them ever waits for another."""

    def __init__(self, stdin: bytes) -> None:
        self.stdout, self.stderr = bytearray(), bytearray()
        self._stdin = stdin

    def run(self, channel: paramiko.Channel, deadline: Deadline) -> int | None:
        """Go on until the end. Returns the exit status, negative if there is none, or None at the deadline."""
        poll = select.poll()
        poll.register(channel.fileno(), select.POLLIN)
        # Room for more input makes no descriptor ready, so that waiting for it needs a thread; closing the channel
        # ends it.
        threading.Thread(target=self._feed, args=(channel,), daemon=True).start()
        while True:
            # Look at this first: what comes after it is known to be the last.
            over = channel.closed or (channel.eof_received and channel.exit_status_ready())
            moved = self._read(channel)
            if over and not moved:
                return channel.recv_exit_status()
            if deadline.expired:
                return None
            if moved:
                continue
            # After the end of the output the descriptor stays readable for ever.
            if channel.eof_received:
                channel.status_event.wait(deadline.left)
            else:
                poll.poll(deadline.left * 1000)

    def _read(self, channel: paramiko.Channel) -> bool:
        moved = False
        if channel.recv_ready():
            self.stdout += channel.recv(_CHUNK)
            moved = True
        if channel.recv_stderr_ready():
            self.stderr += channel.recv_stderr(_CHUNK)
            moved = True
        if len(self.stdout) + len(self.stderr) > MAX_OUTPUT:
            raise GuestError(f"a command in the guest printed more than {MAX_OUTPUT} bytes")
        return moved

    def _feed(self, channel: paramiko.Channel) -> None:
        # The command may end at any time, without having read everything; how it ended is told elsewhere.
        with suppress(*_LOST):
            channel.sendall(self._stdin)
            channel.shutdown_write()
