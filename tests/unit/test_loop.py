"""The loop's thread: results, deadlines, interruption, and that no exception is lost."""

from __future__ import annotations

import asyncio
import gc
import os
import signal
import sys
import threading
import time
from concurrent import futures
from contextlib import suppress

import pytest

from harness.host.deadline import Deadline
from harness.host.errors import DeadlineExpired
from harness.machine import loop


async def answer() -> str:
    return threading.current_thread().name


def test_one_thread_for_all() -> None:
    assert loop.run(answer()) == loop.run(answer(), Deadline(5, "it")) == "harness-loop"
    assert loop.get() is loop.get()


def test_deadline_cancels_the_work() -> None:
    seen: list[str] = []

    async def work() -> None:
        try:
            await asyncio.sleep(60)
        finally:
            seen.append("cleaned up")

    with pytest.raises(DeadlineExpired, match=r"the answer did not happen within 0\.05 s"):
        loop.run(work(), Deadline(0.05, "the answer"))
    assert seen == ["cleaned up"]


def test_timeout_of_the_work_itself_is_not_taken_for_the_deadline() -> None:
    async def work() -> None:
        async with asyncio.timeout(0.01):
            await asyncio.sleep(60)

    with pytest.raises(TimeoutError) as caught:
        loop.run(work(), Deadline(30, "the answer"))
    assert not isinstance(caught.value, DeadlineExpired)


async def interrupt(cleaning: threading.Event, seen: list[str]) -> None:
    """Interrupts whoever waits for it, and takes its time to clean up."""
    try:
        os.kill(os.getpid(), signal.SIGINT)
        await asyncio.sleep(60)
    finally:
        cleaning.set()
        await asyncio.sleep(0.1)
        seen.append("cleaned up")


def test_interruption_cancels_the_work_and_waits_for_its_clean_up() -> None:
    seen: list[str] = []
    started = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        loop.run(interrupt(threading.Event(), seen))
    assert seen == ["cleaned up"]
    assert time.monotonic() - started < loop.CANCEL_SECONDS


def test_interruption_during_the_clean_up_leaves_that_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """A signal cancels the work, and so does the exception that it raises, when the clean-up may have begun."""
    cleaning = threading.Event()
    seen: list[str] = []

    def raised_late(_number: int, _frame: object) -> None:
        assert cleaning.wait(loop.CANCEL_SECONDS)
        raise KeyboardInterrupt

    monkeypatch.setattr(signal, "default_int_handler", raised_late)
    before = signal.signal(signal.SIGINT, raised_late)
    try:
        with pytest.raises(KeyboardInterrupt):
            loop.run(interrupt(cleaning, seen))
    finally:
        signal.signal(signal.SIGINT, before)
    assert seen == ["cleaned up"]


def test_interruption_that_python_drops_ends_the_wait_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    """Python drops what is raised in a callback of the garbage collector, like what is raised in a finalizer."""
    sent: list[str] = []
    dropped: list[type[BaseException]] = []
    monkeypatch.setattr(sys, "unraisablehook", lambda arguments: dropped.append(arguments.exc_type))

    def collecting(phase: str, _: dict[str, int]) -> None:
        waiting = signal.getsignal(signal.SIGINT) is not signal.default_int_handler
        if threading.current_thread() is threading.main_thread() and waiting and not sent:
            sent.append(phase)
            os.kill(os.getpid(), signal.SIGINT)

    thresholds = gc.get_threshold()
    gc.callbacks.append(collecting)
    gc.set_threshold(1)
    try:
        with pytest.raises(KeyboardInterrupt):
            loop.run(asyncio.sleep(60), Deadline(20, "the interruption"))
    finally:
        gc.set_threshold(*thresholds)
        gc.callbacks.remove(collecting)
    assert dropped == [KeyboardInterrupt]
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_interruption_that_python_drops_at_the_very_end_is_not_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    """The work has ended by then, so that there is nothing left to cancel."""
    result = futures.Future.result

    def result_and_signal(future: futures.Future[str], timeout: float | None = None) -> str:
        answered = result(future, timeout)
        with suppress(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
        return answered

    monkeypatch.setattr(futures.Future, "result", result_and_signal)
    with pytest.raises(KeyboardInterrupt):
        loop.run(answer())


def test_exception_of_a_background_task_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    reported: list[threading.ExceptHookArgs] = []
    heard = threading.Event()

    def hook(arguments: threading.ExceptHookArgs) -> None:
        reported.append(arguments)
        heard.set()

    async def fail() -> None:
        raise ValueError("lost?")

    async def start() -> None:
        loop.background(fail(), "a failing task")

    monkeypatch.setattr(threading, "excepthook", hook)
    loop.run(start())
    assert heard.wait(5)
    assert [str(arguments.exc_value) for arguments in reported] == ["lost?"]


def test_cancelled_background_task_is_not_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    reported: list[threading.ExceptHookArgs] = []
    monkeypatch.setattr(threading, "excepthook", reported.append)

    async def start() -> None:
        task = loop.background(asyncio.sleep(60), "sleeper")
        task.cancel()
        await asyncio.wait({task})

    loop.run(start())
    assert reported == []


def test_a_signal_while_the_loop_starts_leaves_no_dead_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loop, "_loop", None)

    def interrupted(_: threading.Thread) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(threading.Thread, "start", interrupted)
        with pytest.raises(KeyboardInterrupt):
            loop.get()

    async def answer() -> int:
        return 42

    assert loop.run(answer(), Deadline(10, "the answer")) == 42
