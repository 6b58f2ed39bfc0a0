"""Notices whatever goes wrong with a domain, once, in one place; that is the error which every waiting caller sees.

It hears QEMU's exit, QMP events, crashes that the console shows, and the end of other processes the domain depends on.
One trouble seldom comes alone: a panic ends QEMU, which breaks the connection to the agent. So the first report opens a
short window in which others may come in, and a crash beats everything else. All of this runs in the loop of
:mod:`harness.machine.loop`.
"""

from __future__ import annotations

import asyncio
import select
from collections.abc import Callable, Coroutine, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Protocol, TypeVar

from qemu.qmp import Message

from harness.host.deadline import Deadline
from harness.host.errors import DeadlineExpired, GuestCrashed, GuestError, GuestGone, GuestSilent, HostError
from harness.machine.loop import background
from harness.machine.qemu import QemuProcess
from harness.machine.reports import GUEST_ENDS, FailureKind, Report, end_text, first_line, look_further, status_text

T = TypeVar("T")

SETTLE_SECONDS = 1.0
"""How long after the first report others are waited for: the rest of an oops, the cause behind a lost connection."""

CONNECTION_ERRORS = (ConnectionError, EOFError, GuestGone)
"""What a caller meets when the other end has vanished: the monitor will soon know why."""


class Console(Protocol):
    """What the monitor wants of the console's log."""

    @property
    def log(self) -> Path:
        """The file that holds everything the console said."""

    @property
    def crash(self) -> GuestCrashed | None:
        """The kernel's crash, as far as the console has told it."""

    async def crashed(self) -> GuestCrashed:
        """Wait, perhaps for ever, for the kernel to crash."""

    def last_lines(self) -> list[str]:
        """The last lines, oldest first."""


class Monitor:
    """Watches one domain.

    :param qemu: its connected QEMU.
    :param console: its console's log.
    """

    def __init__(self, qemu: QemuProcess, console: Console) -> None:
        self._qemu = qemu
        self._console = console
        self._reports: list[Report] = []
        self._settled = asyncio.Event()
        self._shutdown_reason: str | None = None
        self._end_expected = False
        self._ended = asyncio.Event()
        self._console_closed = asyncio.Event()
        self._stop_watching: list[Callable[[], object]] = []
        for work in (self._watch_events(), self._watch_exit(), self._watch_console()):
            self._stop_watching.append(background(work, f"monitor of {qemu.name}").cancel)

    def close(self) -> None:
        """Stop watching."""
        for stop in self._stop_watching:
            stop()
        self._stop_watching.clear()

    def fail(self, text: str) -> None:
        """Count something else, such as the end of the domain's backend, as its failure; call this in the loop."""
        if not self._end_expected:
            self._report(HostError, text)

    def watch_service(self, name: str, connection: int, log: Path) -> None:
        """Count the end of a shared service as the domain's failure.

        :param connection: descriptor of a connection to it, on which others may talk.
        """
        loop = asyncio.get_running_loop()
        # This tells of the hang-up alone: what arrives on the connection is for others to read.
        hangup = select.epoll()
        hangup.register(connection, select.EPOLLRDHUP)

        def stop() -> None:
            loop.remove_reader(hangup)
            hangup.close()

        def ended() -> None:
            self._stop_watching.remove(stop)
            stop()
            self.fail(f"the {name} service ended unexpectedly; its output: {log}")

        loop.add_reader(hangup, ended)
        self._stop_watching.append(stop)

    def console_closed(self) -> None:
        """The console has been read to its end; call this in the loop."""
        self._console_closed.set()
        self._settle_if_over()

    def expect_end(self) -> None:
        """From now on QEMU's end and that of helpers is what we want; a crash still is a failure."""
        self._end_expected = True

    async def wait_end(self, deadline: Deadline | None = None) -> str:
        """Wait for QEMU to end, and say in words why it did.

        :raise GuestCrashed: the guest's kernel crashed.
        :raise DeadlineExpired: QEMU still runs.
        """
        try:
            async with asyncio.timeout(None if deadline is None else deadline.left):
                await self._ended.wait()
        except TimeoutError:
            if deadline is None:
                raise
            raise deadline.error() from None
        await self._wait_briefly(self._console_closed)
        if self._crashed:
            raise await self._failure()
        return self._end_text()

    async def wait_over(self) -> str:
        """Wait until QEMU ends or the domain fails; say in words why it ended if the guest, or we, wanted it to.

        :raise GuestCrashed, GuestGone, HostError: nobody wanted it.
        """
        waiting = {asyncio.ensure_future(event.wait()) for event in (self._ended, self._settled)}
        try:
            await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for one in waiting:
                one.cancel()
        if self._ended.is_set():
            await self._wait_briefly(self._console_closed)
            wanted = self._end_expected or self._shutdown_reason in GUEST_ENDS
            if wanted and not self._crashed:
                return self._end_text()
        raise await self._failure()

    async def wait_failure(self) -> None:
        """Wait, perhaps for ever, until the domain has failed; :meth:`explain` then tells how."""
        await self._settled.wait()

    async def guard(self, work: Coroutine[Any, Any, T], deadline: Deadline) -> T:
        """Await something the guest has to do, for as long as the guest is all right.

        :raise GuestCrashed, GuestGone, HostError: what the monitor noticed meanwhile, or had noticed before.
        :raise GuestSilent: the deadline, or one of the work's own, passed and nothing else is known to be wrong.
        """
        if self._reports:
            work.close()
            raise await self._failure()
        task = asyncio.ensure_future(work)
        settled = asyncio.ensure_future(self._settled.wait())
        try:
            await asyncio.wait({task, settled}, timeout=deadline.left, return_when=asyncio.FIRST_COMPLETED)
            if not task.done():
                raise await self._failure() if self._reports else self._silent(deadline.error())
            error = None if task.cancelled() else task.exception()
            if error is not None and (explanation := await self.explain(error)) is not None:
                raise explanation from error
            return task.result()
        finally:
            settled.cancel()
            task.cancel()
            await asyncio.wait({task})
            # Retrieved, so that the error of an abandoned task is not reported as lost.
            _ = task.cancelled() or task.exception()

    async def explain(self, error: BaseException) -> GuestError | HostError | None:
        """What to tell instead of an error that somebody met who needed the guest; None if it says all there is to say.

        That is a trouble the monitor knows of, or comes to know of within a moment. Without one, silence stays silence,
        but the caller gets to know where to look.
        """
        if isinstance(error, CONNECTION_ERRORS):
            await self._wait_briefly(self._settled)
        if self._reports:
            return await self._failure()
        # A subclass of GuestSilent knows of one thing in the guest that is late: the guest itself is not silent.
        if isinstance(error, DeadlineExpired) or type(error) is GuestSilent:
            return self._silent(error)
        return None

    async def _wait_briefly(self, event: asyncio.Event) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(SETTLE_SECONDS):
                await event.wait()

    async def _watch_events(self) -> None:
        async for event in self._qemu.events:
            self._on_event(event)

    def _on_event(self, event: Message) -> None:
        data = event.get("data")
        details = data if isinstance(data, dict) else {}
        if event["event"] == "SHUTDOWN":
            self._shutdown_reason = str(details.get("reason"))
        elif event["event"] == "GUEST_PANICKED":
            self._report(GuestCrashed, "the guest's kernel panicked")

    async def _watch_exit(self) -> None:
        status = await self._qemu.wait_disconnected()
        for event in self._qemu.events.clear():
            self._on_event(event)
        self._ended.set()
        if not self._end_expected:
            self._report(GuestGone, f"{self._end_text()} ({status_text(status)})")
        self._settle_if_over()

    async def _watch_console(self) -> None:
        self._report(GuestCrashed, first_line(await self._console.crashed()))

    def _report(self, kind: FailureKind, text: str) -> None:
        self._reports.append(Report(kind, text))
        if len(self._reports) == 1:
            asyncio.get_running_loop().call_later(SETTLE_SECONDS, self._settled.set)
        if self._console.crash is not None:
            self._settled.set()

    def _settle_if_over(self) -> None:
        """With QEMU gone and its console read to the end there is nothing more to hear."""
        if self._reports and self._ended.is_set() and self._console_closed.is_set():
            self._settled.set()

    @property
    def _crashed(self) -> bool:
        return self._console.crash is not None or any(report.kind is GuestCrashed for report in self._reports)

    def _end_text(self) -> str:
        return end_text(self._shutdown_reason)

    async def _failure(self) -> GuestError | HostError:
        """The error that says what is wrong; there must be a report. Waits until the reports have settled."""
        await self._settled.wait()
        crash = self._console.crash
        if crash is not None:
            return self._error(GuestCrashed, first_line(crash), crash.console)
        crashes = [report for report in self._reports if report.kind is GuestCrashed]
        # Of things that are no crash the first is the likeliest cause, but nobody can be sure: tell them all.
        told = crashes or self._reports
        return self._error(told[0].kind, "; ".join(dict.fromkeys(report.text for report in told)))

    def _silent(self, error: DeadlineExpired | GuestSilent) -> GuestError | HostError:
        return self._error(GuestSilent, error.what)

    def _error(
        self, kind: type[GuestError] | type[HostError], text: str, lines: Sequence[str] = ()
    ) -> GuestError | HostError:
        what = f"domain {self._qemu.name}: {text}"
        hint = look_further(self._qemu.child, self._console.log)
        if issubclass(kind, GuestError):
            return kind(what, console=lines or self._console.last_lines(), hint=hint)
        return kind(what, hint=hint)
