"""The one asyncio loop of this process: every domain's QMP, console and agent traffic runs in it, in one daemon thread.

Callers stay plain synchronous code and come in through :func:`run`. Child processes are *not* started here: their death
signal is tied to the thread that starts them, see :mod:`harness.host.process`.
"""

from __future__ import annotations

import asyncio
import signal
import socket
import threading
from collections.abc import Callable, Coroutine, Iterator
from concurrent import futures
from contextlib import contextmanager
from types import FrameType
from typing import Any, Generic, TypeVar

from harness.host.deadline import Deadline
from harness.host.errors import HostError

T = TypeVar("T")

CANCEL_SECONDS = 5.0
"""How long an interrupted :func:`run` waits for the clean-up code of what it was running."""

INTERRUPTING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
"""Signals that may have been told to raise KeyboardInterrupt."""

_start_lock = threading.Lock()
_loop: asyncio.AbstractEventLoop | None = None
_background: set[asyncio.Task[None]] = set()


def _report(_loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    """Send an exception nobody caught where exceptions of threads go: standard error, or a failed test under pytest."""
    error = context.get("exception") or RuntimeError(context.get("message", "unknown trouble in the asyncio loop"))
    hook_arguments = (type(error), error, error.__traceback__, threading.current_thread())
    threading.excepthook(threading.ExceptHookArgs(hook_arguments))


def get() -> asyncio.AbstractEventLoop:
    """The loop; the first call starts its thread."""
    global _loop  # noqa: PLW0603 - "one per process" is the point of this module
    with _start_lock:
        if _loop is None:
            fresh = asyncio.new_event_loop()
            fresh.set_exception_handler(_report)
            threading.Thread(target=fresh.run_forever, name="harness-loop", daemon=True).start()
            # Only now: a signal may come between any two of these lines, and whoever found a loop that no thread runs
            # would wait for it for ever.
            _loop = fresh
        return _loop


async def bounded(work: Coroutine[Any, Any, T], deadline: Deadline) -> T:
    """Await ``work``, and cancel it when the deadline passes.

    :raise DeadlineExpired: it did not finish in time; its own TimeoutErrors pass through unchanged.
    """
    try:
        async with asyncio.timeout(deadline.left) as scope:
            return await work
    except TimeoutError:
        if scope.expired():
            raise deadline.error() from None
        raise


async def while_connected(work: Coroutine[Any, Any, T], connection: socket.socket) -> T:
    """Await ``work``, and cancel it when the peer of a connection, from which nothing more is expected, hangs up.

    :raise HostError: the peer did.
    """
    running, descriptor = asyncio.get_running_loop(), connection.fileno()
    task = running.create_task(work)

    def hung_up() -> None:
        # Once: to cancel again would interrupt the clean-up.
        running.remove_reader(descriptor)
        task.cancel()

    running.add_reader(descriptor, hung_up)
    try:
        await asyncio.wait({task})
        if task.cancelled():
            raise HostError("whoever asked for it has gone")
        return task.result()
    finally:
        running.remove_reader(descriptor)
        if task.cancel():
            await asyncio.wait({task})


@contextmanager
def on_hang_up(connection: socket.socket | None, callback: Callable[[], object]) -> Iterator[None]:
    """Call back, in the loop, when the peer of a connection, from which nothing more is expected, hangs up inside this.

    :param connection: None when there is nobody who could.
    """
    if connection is None:
        yield
        return
    running, descriptor = get(), connection.fileno()

    def hung_up() -> None:
        running.remove_reader(descriptor)
        callback()

    async def start() -> None:
        running.add_reader(descriptor, hung_up)

    async def stop() -> None:
        running.remove_reader(descriptor)

    run(start())
    try:
        yield
    finally:
        run(stop())


class _Job(Generic[T]):
    """A coroutine on its way through the loop, which its caller may give up at any moment.

    A signal may come between any two instructions of the caller, also before it learns that the coroutine was taken in.
    """

    def __init__(
        self, work: Coroutine[Any, Any, T], deadline: Deadline | None, running: asyncio.AbstractEventLoop
    ) -> None:
        self._work = work
        self._deadline = deadline
        self._running = running
        self._task: asyncio.Task[T] | None = None
        self._abandoned = False
        self._ended = threading.Event()

    async def run(self) -> T:
        if self._abandoned:
            raise asyncio.CancelledError
        self._task = asyncio.current_task()
        try:
            return await (self._work if self._deadline is None else bounded(self._work, self._deadline))
        finally:
            self._ended.set()

    def cancel(self) -> None:
        """From the caller's thread: cancel the coroutine unless it has ended, or has been cancelled already."""
        if not self._ended.is_set():
            self._running.call_soon_threadsafe(self._cancel)

    def abandon(self) -> None:
        """From the caller's thread: cancel the coroutine unless it has ended, and wait for its clean-up."""
        self.cancel()
        self._ended.wait(CANCEL_SECONDS)

    def _cancel(self) -> None:
        if self._abandoned:
            # To cancel again would interrupt the clean-up.
            return
        self._abandoned = True
        if self._task is None:
            self._work.close()
            self._ended.set()
        else:
            self._task.cancel()


@contextmanager
def _ended_by_signals(job: _Job[Any]) -> Iterator[None]:
    """Have a signal that raises KeyboardInterrupt cancel the job as well.

    The exception alone is not enough: Python drops one that is raised in a finalizer or a callback of its garbage
    collector, which may be where this thread is when the signal comes, and what waited would go on waiting.
    """
    interrupted = False

    def handle(number: int, frame: FrameType | None) -> None:
        nonlocal interrupted
        interrupted = True
        job.cancel()
        signal.default_int_handler(number, frame)

    # Python runs handlers in the main thread, and lets no other set them.
    here = threading.current_thread() is threading.main_thread()
    ours = [number for number in INTERRUPTING if here and signal.getsignal(number) is signal.default_int_handler]
    try:
        for number in ours:
            signal.signal(number, handle)
        try:
            yield
        except futures.CancelledError:
            if not interrupted:
                raise
        # It was dropped, or we would not get here; the job may have ended well before it was cancelled.
        if interrupted:
            raise KeyboardInterrupt
    finally:
        for number in ours:
            signal.signal(number, signal.default_int_handler)


def run(work: Coroutine[Any, Any, T], deadline: Deadline | None = None) -> T:
    """Run a coroutine in the loop and wait for its result; any thread but the loop's own may call this.

    An exception that interrupts the waiting (KeyboardInterrupt, above all) cancels the coroutine first, so that nothing
    goes on behind the back of the caller's clean-up.

    :raise DeadlineExpired: it did not finish in time and has been cancelled.
    """
    running = get()
    job = _Job(work, deadline, running)
    try:
        with _ended_by_signals(job):
            return asyncio.run_coroutine_threadsafe(job.run(), running).result()
    except BaseException:
        job.abandon()
        raise


def _background_ended(task: asyncio.Task[None]) -> None:
    _background.discard(task)
    if not task.cancelled() and (error := task.exception()) is not None:
        _report(task.get_loop(), {"exception": error})


def background(work: Coroutine[Any, Any, None], name: str) -> asyncio.Task[None]:
    """Start a task that nobody awaits; call this in the loop. Its exception is reported at once, never swallowed."""
    task = asyncio.get_running_loop().create_task(work, name=name)
    _background.add(task)
    task.add_done_callback(_background_ended)
    return task
