"""The owner's side of a domain's control socket, by which other processes use the domain.

Who connects sends one request and gets one answer; see :class:`harness.domain.remote.RemoteDomain`. A console's
connection then is the console; after ``shutdown`` and ``destroy`` it closes when the owner has removed everything. The
socket is in the domain's record, a directory that only its user can enter.
"""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

from harness.backend import observe
from harness.domain import messages
from harness.domain.definition_settings import disk_of, network_of
from harness.domain.domain import SSH_PORT, Domain
from harness.domain.life import DomainState
from harness.domain.messages import Message
from harness.guest.console import ConsoleLog, Viewer
from harness.host.errors import GuestError, HarnessError, UsageError
from harness.machine import loop

CONSOLES = ("serial", "pv")
BACKLOG = 16
CHUNK = 4096


class ControlServer:
    """Takes requests for a launched domain, each connection in a thread of its own, until this process ends.

    Commands in the guest run side by side; what changes the domain's state is done one after the other, except that
    ``destroy`` waits for nothing. The thread that launched the domain is the one that destroys it: it waits in
    :meth:`Domain.wait_end`, which ends when somebody here has asked for the end.

    :ivar end_requested: somebody has asked for the end at once.
    """

    def __init__(self, domain: Domain) -> None:
        self._domain = domain
        self._turn = threading.Lock()
        self.end_requested = False
        self._operations: dict[str, Callable[[Message, socket.socket], None]] = {
            "execute": self._execute,
            "pause": self._pause,
            "unpause": self._unpause,
            "save": self._save,
            "shutdown": self._shutdown,
            "destroy": self._destroy,
            "console": self._console,
            "ssh": self._ssh,
            "attach-disk": self._attach_disk,
            "detach-disk": self._detach_disk,
            "resize-disk": self._resize_disk,
            "attach-network": self._attach_network,
            "detach-network": self._detach_network,
            "observe": self._observe,
            "trace-guest": self._trace_guest,
        }
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._listener.bind(str(domain.parts.record.control_socket))
        self._listener.listen(BACKLOG)
        threading.Thread(target=self._accept, name=f"control of {domain.name}", daemon=True).start()

    def close(self) -> None:
        """Take no more connections; those that are open go on."""
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def _accept(self) -> None:
        # Ends when the listener is shut down.
        with suppress(OSError):
            while True:
                connection, _ = self._listener.accept()
                threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        # Whoever asked may go at any time.
        with connection, suppress(OSError):
            try:
                request = messages.receive(connection, messages.MAX_REQUEST)
                if request is None:
                    return
                request.close()
                name = request.get("op", str)
                if name not in self._operations:
                    raise UsageError(f"the owner of domain {self._domain.name} knows no request {name!r}")
                self._operations[name](request, connection)
            except HarnessError as error:
                messages.send(connection, messages.error_fields(error))

    @contextmanager
    def _alone(self) -> Iterator[None]:
        if not self._turn.acquire(blocking=False):
            raise UsageError(f"domain {self._domain.name} is being paused, unpaused, saved or shut down already")
        try:
            yield
        finally:
            self._turn.release()

    def _execute(self, request: Message, connection: socket.socket) -> None:
        done = self._domain.execute(
            request.strings("argv"),
            stdin=request.data("stdin"),
            timeout=request.seconds("timeout"),
            asker=connection,
        )
        answer: dict[str, Any] = {
            "status": done.status,
            "signal": done.signal,
            "stdout": messages.encoded(done.stdout),
            "stderr": messages.encoded(done.stderr),
            "truncated": done.truncated,
        }
        messages.send(connection, answer)

    def _pause(self, _request: Message, connection: socket.socket) -> None:
        with self._alone():
            self._domain.pause()
        messages.send(connection, {})

    def _unpause(self, _request: Message, connection: socket.socket) -> None:
        with self._alone():
            self._domain.unpause()
        messages.send(connection, {})

    def _save(self, request: Message, connection: socket.socket) -> None:
        with self._alone():
            self._domain.suspend(Path(request.get("file", str)))
        messages.send(connection, {})
        _wait_for_hang_up(connection)

    def _shutdown(self, request: Message, connection: socket.socket) -> None:
        with self._alone():
            self._domain.power_off(request.seconds("timeout"))
        messages.send(connection, {})
        _wait_for_hang_up(connection)

    def _destroy(self, _request: Message, connection: socket.socket) -> None:
        self.end_requested = True
        self._domain.end()
        messages.send(connection, {})
        _wait_for_hang_up(connection)

    def _console(self, request: Message, connection: socket.socket) -> None:
        which = request.get("which", str)
        if which not in CONSOLES:
            raise UsageError(f"there is no console {which!r}; expected one of {', '.join(CONSOLES)}")
        console = self._domain.console if which == "serial" else self._pv_console(request.get("number", int))
        messages.send(connection, {})
        loop.run(serve_console(console, connection))

    def _pv_console(self, number: int) -> ConsoleLog:
        consoles = self._domain.pv_consoles
        if not 0 <= number < len(consoles):
            raise UsageError(
                f"domain {self._domain.name} has no console {number}", hint=f"its last one is {len(consoles) - 1}"
            )
        return consoles[number]

    def _attach_disk(self, request: Message, connection: socket.socket) -> None:
        self._domain.attach_disk(disk_of(request.texts("settings")), asker=connection)
        messages.send(connection, {})

    def _detach_disk(self, request: Message, connection: socket.socket) -> None:
        timeout, force = request.seconds("timeout"), request.get("force", bool)
        self._domain.detach_disk(request.get("target", str), force=force, timeout=timeout)
        messages.send(connection, {})

    def _resize_disk(self, request: Message, connection: socket.socket) -> None:
        size = None if request.fields.get("size") is None else request.get("size", int)
        size = self._domain.resize_disk(request.get("target", str), size, asker=connection)
        messages.send(connection, {"size": size})

    def _attach_network(self, request: Message, connection: socket.socket) -> None:
        card = self._domain.attach_network(network_of(request.texts("settings")), asker=connection)
        messages.send(connection, {"number": card.number, "mac": card.lease.mac, "address": card.lease.address})

    def _detach_network(self, request: Message, connection: socket.socket) -> None:
        timeout, force = request.seconds("timeout"), request.get("force", bool)
        self._domain.detach_network(request.get("which", str), force=force, timeout=timeout)
        messages.send(connection, {})

    def _observe(self, request: Message, connection: socket.socket) -> None:
        word = request.get("word", str).encode()
        if word not in observe.WORDS:
            raise UsageError(f"nobody can observe {word!r} of domain {self._domain.name}")
        with self._domain.observe(word) as stream:
            messages.send(connection, {}, [stream.fileno()])

    def _trace_guest(self, _request: Message, connection: socket.socket) -> None:
        self._domain.trace_guest(connection, partial(messages.send, connection, {}))

    def _ssh(self, request: Message, connection: socket.socket) -> None:
        if self._domain.state is not DomainState.RUNNING:
            raise UsageError(f"domain {self._domain.name} is {self._domain.state}, not running")
        try:
            guest = self._domain.connect(SSH_PORT, timeout=request.seconds("timeout"))
        except OSError as error:
            raise GuestError(f"the SSH server of domain {self._domain.name} cannot be reached: {error}") from error
        with guest:
            image = self._domain.image
            answer = {"host_key": image.ssh_host_key, "client_key": str(image.ssh_client_key)}
            messages.send(connection, answer, [guest.fileno()])


def _wait_for_hang_up(connection: socket.socket) -> None:
    """Hold the connection until the other end closes it, or this process has done its last and ends."""
    connection.recv(1)


async def serve_console(console: ConsoleLog, connection: socket.socket, *, typing: asyncio.Event | None = None) -> None:
    """Show a console to the other end of a connection and type what comes from there, until either ends.

    :param typing: what is typed waits until this is set; default: it does not.
    """
    connection.setblocking(False)
    with console.viewer() as viewer:
        tasks = {
            asyncio.create_task(_show(viewer, connection)),
            asyncio.create_task(_type(console, connection, typing)),
        }
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _show(viewer: Viewer, connection: socket.socket) -> None:
    with suppress(OSError):
        async for data in viewer:
            await asyncio.get_running_loop().sock_sendall(connection, data)


async def _type(console: ConsoleLog, connection: socket.socket, typing: asyncio.Event | None) -> None:
    if typing is not None:
        await typing.wait()
    with suppress(OSError, GuestError):
        while data := await asyncio.get_running_loop().sock_recv(connection, CHUNK):
            await console.write(data)
