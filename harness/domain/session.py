"""What talks with the guest of a launched domain: its consoles, its monitor, its agent."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable, Coroutine, Mapping, Sequence
from concurrent.futures import Future
from contextlib import AbstractContextManager, suppress
from typing import Any, TypeVar

from qemu.qmp import QMPError

from harness.backend.network_client import SERVICE as NETWORK
from harness.backend.network_client import NetworkClient
from harness.domain.assembly import Parts
from harness.guest import tracefs
from harness.guest.agent import AgentClient
from harness.guest.completed import Completed
from harness.guest.console import ConsoleLog
from harness.host import service
from harness.host.deadline import Deadline
from harness.host.errors import GuestGone, HostError
from harness.machine import loop
from harness.machine.loop import background
from harness.machine.monitor import Monitor
from harness.machine.watched import watched
from harness.store.client import SERVICE as STORE

T = TypeVar("T")

EXECUTE_GRACE = 10.0
"""Seconds in which an agent may kill a command that was too slow, and tell so."""
QUIT_SECONDS = 5.0


class Session:
    """Made in the loop, once QEMU answers; what it has to say about the guest goes through its monitor.

    :param name: of the domain.
    """

    def __init__(self, name: str, parts: Parts) -> None:
        self._name = name
        self._parts = parts
        self.console = ConsoleLog(parts.logs / "console.log")
        self.monitor = Monitor(parts.qemu, self.console)
        self.agent = AgentClient(parts.agent)
        self.pv_consoles: list[ConsoleLog] = []
        self._pv_console_ends: set[asyncio.Task[None]] = set()
        background(self._read_console(parts.console), f"console of {name}")
        if parts.network is not None:
            self.watch_network(parts.network)
        if parts.paravirtual is not None:
            store = parts.paravirtual.store
            self.monitor.watch_service(STORE, store.connection, service.log_path(STORE))
            self._watch_backend(parts.paravirtual.backend.failure)
            for number, stream in enumerate(parts.paravirtual.consoles):
                self._read_pv_console(number, stream)

    def watch_network(self, client: NetworkClient) -> None:
        """Take the end of the private network for the domain's failure; call this in the loop."""
        self.monitor.watch_service(NETWORK, client.connection, service.log_path(NETWORK))

    def _watch_backend(self, failure: Future[HostError]) -> None:
        running = asyncio.get_running_loop()
        failure.add_done_callback(lambda known: running.call_soon_threadsafe(self.monitor.fail, str(known.result())))

    async def _read_console(self, connection: socket.socket) -> None:
        """Take in the console to its end, and tell the monitor that there is no more."""
        try:
            await self.console.run(connection)
        finally:
            self.monitor.console_closed()
            for console in self.pv_consoles:
                console.close()

    def _read_pv_console(self, number: int, stream: socket.socket) -> None:
        suffix = f"-{number}" if number else ""
        console = ConsoleLog(self._parts.logs / f"pv-console{suffix}.log")
        self.pv_consoles.append(console)
        self._pv_console_ends.add(background(console.run(stream), f"paravirtual console {number} of {self._name}"))

    async def end(self) -> None:
        """Have QEMU end at once; all else goes on, for those who wait to hear of the end."""
        self.monitor.expect_end()
        qemu = self._parts.qemu
        with suppress(GuestGone, QMPError, TimeoutError):
            async with asyncio.timeout(QUIT_SECONDS):
                await qemu.execute("quit")
                await qemu.wait_exit()
        qemu.child.kill()

    async def quit(self) -> None:
        """End QEMU and let go of everything; nothing here may be used any more."""
        self.monitor.expect_end()
        await self._parts.qemu.quit(Deadline(QUIT_SECONDS, f"the end of QEMU of domain {self._name}"))
        self.agent.close()
        self.console.close()
        if self._pv_console_ends and self._parts.paravirtual is not None:
            # The sockets may be closed only when nobody in the loop reads them any more.
            for stream in self._parts.paravirtual.consoles:
                stream.shutdown(socket.SHUT_RDWR)
            await asyncio.wait(self._pv_console_ends)
            self._pv_console_ends.clear()
        self.monitor.close()

    def trace_guest(self, connection: socket.socket, started: Callable[[], None]) -> None:
        """Send the frontends' trace to a connection; see :meth:`harness.domain.domain.Domain.trace_guest`."""
        connection.setblocking(False)
        deadline = Deadline(tracefs.FOREVER, f"the end of the trace of domain {self._name}")
        with suppress(HostError):
            # That whoever wanted it has gone, is how it ends.
            work = tracefs.follow(self.agent, connection, started)
            self.guarded(loop.while_connected(work, connection), deadline)

    # -- the monitor stands before everything that waits for the guest; these are for threads other than the loop's ---

    def guarded(self, work: Coroutine[Any, Any, T], deadline: Deadline, *, grace: float = 0.0) -> T:
        """Run something that needs the guest, until it is done or the guest is known to have failed.

        :param grace: seconds beyond the deadline for the work to clean up after itself and say more.
        """
        outer = Deadline(deadline.left + grace, deadline.waiting_for) if grace else deadline
        return loop.run(self.monitor.guard(work, outer))

    def watched(self, interrupt: Callable[[], object]) -> AbstractContextManager[None]:
        """The same for what blocks this thread; see :func:`watched`."""
        return watched(self.monitor, interrupt)

    def execute(
        self,
        argv: Sequence[str],
        *,
        stdin: bytes = b"",
        env: Mapping[str, str] | None = None,
        timeout: float,
        asker: socket.socket | None = None,
    ) -> Completed:
        """Run a command in the guest; see :meth:`harness.domain.domain.Domain.execute`."""
        deadline = Deadline(timeout, f"the end of {argv[0]} in domain {self._name}")
        work = self.agent.exec(argv, deadline, stdin=stdin, env=env)
        return self.guarded(loop.while_connected(work, asker) if asker else work, deadline, grace=EXECUTE_GRACE)
