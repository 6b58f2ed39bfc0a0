"""The monitor: which of several troubles the caller sees, and how fast."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any, cast

import pytest
from qemu.qmp import EventListener, Message

from harness.guest.completed import CommandTimeout
from harness.host.deadline import Deadline
from harness.host.errors import (
    DeadlineExpired,
    GuestCrashed,
    GuestGone,
    GuestSilent,
    HostError,
)
from harness.host.process import spawn
from harness.machine.monitor import SETTLE_SECONDS, Monitor
from harness.machine.qemu import QemuProcess


class FakeQemu:
    """A QEMU that ends when it is told to."""

    def __init__(self, directory: Path) -> None:
        self.name = "box"
        self.child = spawn("QEMU", ["true"], log=directory / "qemu.log")
        self.events = EventListener()
        self._exit: asyncio.Future[int] = asyncio.get_running_loop().create_future()

    def event(self, name: str, **data: object) -> None:
        self.events._queue.put_nowait(Message({"event": name, "data": data}))

    def end(self, reason: str | None = None, status: int = 0) -> None:
        if reason is not None:
            self.event("SHUTDOWN", reason=reason)
        self._exit.set_result(status)

    async def wait_disconnected(self) -> int:
        return await self._exit


class FakeConsole:
    """A console that shows a crash when it is told to."""

    def __init__(self) -> None:
        self.log = Path("/logs/console.log")
        self.crash: GuestCrashed | None = None
        self._crashed = asyncio.Event()

    def show_crash(self) -> None:
        self.crash = GuestCrashed("the guest's kernel panicked: out of cheese", console=["cheese: none", "panic"])
        self._crashed.set()

    async def crashed(self) -> GuestCrashed:
        await self._crashed.wait()
        assert self.crash is not None
        return self.crash

    def last_lines(self) -> list[str]:
        return ["last line"]


class Scene:
    """A monitored domain."""

    def __init__(self, directory: Path) -> None:
        self.qemu = FakeQemu(directory)
        self.console = FakeConsole()
        self.monitor = Monitor(cast(QemuProcess, self.qemu), self.console)

    def later(self, seconds: float, action: Callable[[], object]) -> None:
        asyncio.get_running_loop().call_later(seconds, action)


def play(directory: Path, script: Callable[[Scene], Coroutine[Any, Any, None]]) -> float:
    """Run a script on a new scene; returns the seconds it took."""

    async def run() -> None:
        scene = Scene(directory)
        try:
            await script(scene)
        finally:
            scene.monitor.close()
            scene.qemu.child.kill()

    started = time.monotonic()
    asyncio.run(run())
    return time.monotonic() - started


def deadline(seconds: float = 20.0) -> Deadline:
    return Deadline(seconds, "the guest's answer")


async def lost_connection() -> None:
    raise ConnectionResetError("agent")


def test_result_passes_through(tmp_path: Path) -> None:
    async def script(scene: Scene) -> None:
        assert await scene.monitor.guard(asyncio.sleep(0.01, "answer"), deadline()) == "answer"

    assert play(tmp_path, script) < SETTLE_SECONDS


def test_error_of_the_work_passes_through_at_once(tmp_path: Path) -> None:
    async def refuse() -> None:
        raise ValueError("no such command")

    async def script(scene: Scene) -> None:
        with pytest.raises(ValueError, match="no such command"):
            await scene.monitor.guard(refuse(), deadline())

    assert play(tmp_path, script) < SETTLE_SECONDS


def test_silence(tmp_path: Path) -> None:
    cancelled: list[bool] = []

    async def forever() -> None:
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            cancelled.append(True)
            raise

    async def script(scene: Scene) -> None:
        with pytest.raises(GuestSilent) as caught:
            await scene.monitor.guard(forever(), deadline(0.1))
        text = str(caught.value)
        assert "domain box: the guest's answer did not happen within 0.1 s" in text
        assert "last line" in text
        assert "/logs/console.log" in text
        assert "QEMU's command: " in text

    play(tmp_path, script)
    assert cancelled == [True]


def test_inner_deadline_is_silence_too(tmp_path: Path) -> None:
    async def inner() -> None:
        raise DeadlineExpired("a prompt", 3)

    async def script(scene: Scene) -> None:
        with pytest.raises(GuestSilent, match="a prompt did not happen within 3 s"):
            await scene.monitor.guard(inner(), deadline())

    play(tmp_path, script)


def test_silence_that_the_work_itself_has_met_says_where_to_look(tmp_path: Path) -> None:
    met = GuestSilent("the guest's agent did not answer guest-ping")

    async def meet() -> None:
        raise met

    async def script(scene: Scene) -> None:
        with pytest.raises(GuestSilent, match="domain box: the guest's agent did not answer guest-ping") as caught:
            await scene.monitor.guard(meet(), deadline())
        assert caught.value.__cause__ is met
        assert caught.value.console == ["last line"]
        assert "/logs/console.log" in str(caught.value)
        assert "QEMU's command: " in str(caught.value)

    play(tmp_path, script)


def test_a_command_that_was_late_and_killed_is_no_silence_of_the_guest(tmp_path: Path) -> None:
    met = CommandTimeout(["sleep", "9"], 1.0, stdout=b"half", fate="it was killed")

    async def meet() -> None:
        raise met

    async def script(scene: Scene) -> None:
        with pytest.raises(CommandTimeout) as caught:
            await scene.monitor.guard(meet(), deadline())
        assert caught.value is met

    play(tmp_path, script)


@pytest.mark.parametrize(
    ("reason", "words"),
    [
        ("guest-shutdown", "the guest powered itself off"),
        ("guest-reset", "the guest rebooted"),
        ("host-signal", "QEMU was ended by a signal"),
        ("something-new", "QEMU ended: something-new"),
        (None, "QEMU ended without a word"),
    ],
)
def test_end_of_qemu(tmp_path: Path, reason: str | None, words: str) -> None:
    async def script(scene: Scene) -> None:
        scene.later(0.01, lambda: scene.qemu.end(reason, status=7))
        scene.later(0.02, scene.monitor.console_closed)
        with pytest.raises(GuestGone, match=rf"{words} \(QEMU's exit status 7\)"):
            await scene.monitor.guard(asyncio.sleep(60), deadline())

    # Both ends have been seen: nothing more is waited for.
    assert play(tmp_path, script) < SETTLE_SECONDS


def test_signal_that_killed_qemu_is_named(tmp_path: Path) -> None:
    async def script(scene: Scene) -> None:
        scene.qemu.end(status=-9)
        scene.monitor.console_closed()
        with pytest.raises(GuestGone, match=r"QEMU ended without a word \(signal 9, Killed\)"):
            await scene.monitor.guard(asyncio.sleep(60), deadline())

    play(tmp_path, script)


def test_end_of_qemu_with_a_silent_console_is_told_after_a_moment(tmp_path: Path) -> None:
    async def script(scene: Scene) -> None:
        scene.later(0.01, lambda: scene.qemu.end("guest-shutdown"))
        with pytest.raises(GuestGone):
            await scene.monitor.guard(asyncio.sleep(60), deadline())

    assert SETTLE_SECONDS <= play(tmp_path, script) < SETTLE_SECONDS + 2


def test_crash_beats_the_lost_connection_before_it(tmp_path: Path) -> None:
    async def script(scene: Scene) -> None:
        scene.later(0.05, lambda: scene.qemu.end("guest-reset"))
        scene.later(0.1, scene.console.show_crash)
        with pytest.raises(GuestCrashed) as caught:
            await scene.monitor.guard(lost_connection(), deadline())
        assert "domain box: the guest's kernel panicked: out of cheese" in str(caught.value)
        assert caught.value.console == ["cheese: none", "panic"]

    assert play(tmp_path, script) < SETTLE_SECONDS


def test_crash_that_only_qemu_heard_of(tmp_path: Path) -> None:
    async def script(scene: Scene) -> None:
        scene.qemu.event("GUEST_PANICKED", action="shutdown")
        scene.later(0.05, lambda: scene.qemu.end("guest-panic"))
        scene.later(0.1, scene.monitor.console_closed)
        with pytest.raises(GuestCrashed, match="the guest's kernel panicked"):
            await scene.monitor.guard(asyncio.sleep(60), deadline())

    assert play(tmp_path, script) < SETTLE_SECONDS


def test_lost_connection_that_nothing_explains(tmp_path: Path) -> None:
    async def script(scene: Scene) -> None:
        with pytest.raises(ConnectionResetError):
            await scene.monitor.guard(lost_connection(), deadline())

    assert play(tmp_path, script) >= SETTLE_SECONDS


def test_failure_before_the_question(tmp_path: Path) -> None:
    started: list[bool] = []

    async def work() -> None:
        started.append(True)

    async def script(scene: Scene) -> None:
        scene.console.show_crash()
        await asyncio.sleep(0.05)
        for _ in range(2):
            with pytest.raises(GuestCrashed):
                await scene.monitor.guard(work(), deadline())

    play(tmp_path, script)
    assert started == []


def test_another_failure_is_this_machines_fault(tmp_path: Path) -> None:
    async def script(scene: Scene) -> None:
        scene.later(0.01, lambda: scene.monitor.fail("the backend ended unexpectedly: ouch"))
        with pytest.raises(HostError, match="the backend ended unexpectedly: ouch") as caught:
            await scene.monitor.guard(asyncio.sleep(60), deadline())
        assert caught.value.exit_code == 3

    play(tmp_path, script)


def test_end_of_a_service_is_noticed_while_answers_wait_to_be_read(tmp_path: Path) -> None:
    ours, theirs = socket.socketpair()

    async def script(scene: Scene) -> None:
        scene.monitor.watch_service("network", ours.fileno(), Path("/run/network.log"))
        theirs.send(b"an answer")
        assert await scene.monitor.guard(asyncio.sleep(0.1, "fine"), deadline()) == "fine"
        scene.later(0.01, theirs.close)
        expected = "the network service ended unexpectedly; its output: /run/network.log"
        with pytest.raises(HostError, match=expected) as caught:
            await scene.monitor.guard(asyncio.sleep(60), deadline())
        assert caught.value.exit_code == 3
        # Nobody's answer has been taken away.
        assert ours.recv(100) == b"an answer"

    with ours, theirs:
        play(tmp_path, script)


def test_end_of_a_service_after_the_expected_end_is_no_failure(tmp_path: Path) -> None:
    ours, theirs = socket.socketpair()

    async def script(scene: Scene) -> None:
        scene.monitor.watch_service("network", ours.fileno(), Path("/run/network.log"))
        scene.monitor.expect_end()
        theirs.close()
        assert await scene.monitor.guard(asyncio.sleep(0.1, "fine"), deadline()) == "fine"

    with ours, theirs:
        play(tmp_path, script)


def test_expected_end_is_no_failure(tmp_path: Path) -> None:
    async def script(scene: Scene) -> None:
        scene.monitor.expect_end()
        scene.monitor.fail("the backend ended unexpectedly")
        scene.later(0.05, lambda: scene.qemu.end("guest-shutdown"))
        scene.later(0.05, scene.monitor.console_closed)
        assert await scene.monitor.wait_end(deadline()) == "the guest powered itself off"
        assert await scene.monitor.guard(asyncio.sleep(0.1, "fine"), deadline()) == "fine"

    play(tmp_path, script)


def test_crash_is_a_failure_even_when_an_end_is_expected(tmp_path: Path) -> None:
    async def script(scene: Scene) -> None:
        scene.monitor.expect_end()
        scene.later(0.05, lambda: scene.qemu.end("guest-reset"))
        scene.later(0.2, scene.console.show_crash)
        scene.later(0.25, scene.monitor.console_closed)
        with pytest.raises(GuestCrashed, match="out of cheese"):
            await scene.monitor.wait_end(deadline())

    play(tmp_path, script)


def test_end_that_does_not_come(tmp_path: Path) -> None:
    async def script(scene: Scene) -> None:
        with pytest.raises(DeadlineExpired):
            await scene.monitor.wait_end(deadline(0.05))

    play(tmp_path, script)
