"""Blocking calls that need the guest: cut short when it fails, and its failure is what the caller hears of."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from harness.host.errors import CheckFailed, DeadlineExpired, GuestCrashed, GuestGone, GuestSilent
from harness.host.interruption import cut
from harness.machine import loop
from harness.machine.monitor import SETTLE_SECONDS
from harness.machine.watched import watched
from tests.unit.test_monitor import Scene


@pytest.fixture
def scene(tmp_path: Path) -> Iterator[Scene]:
    """A domain that is watched in the harness's own loop."""

    async def make() -> Scene:
        return Scene(tmp_path)

    async def close(scene: Scene) -> None:
        scene.monitor.close()

    made = loop.run(make())
    yield made
    loop.run(close(made))
    made.qemu.child.kill()


def later(scene: Scene, seconds: float) -> None:
    """Have its kernel crash in a while."""

    async def arrange() -> None:
        scene.later(seconds, scene.console.show_crash)

    loop.run(arrange())


def receive(connection: socket.socket) -> None:
    """A blocking call that ends with the connection."""
    if not connection.recv(1):
        raise GuestGone("the connection was lost")


def test_a_crash_ends_the_waiting_and_is_told(scene: Scene) -> None:
    ours, theirs = socket.socketpair()
    started = time.monotonic()
    later(scene, 0.1)
    with (
        ours,
        theirs,
        pytest.raises(GuestCrashed, match="out of cheese") as caught,
        watched(scene.monitor, partial(cut, ours)),
    ):
        receive(ours)
    assert isinstance(caught.value.__cause__, GuestGone)
    assert time.monotonic() - started < SETTLE_SECONDS


def test_a_crash_just_after_the_connection_was_lost_is_told(scene: Scene) -> None:
    later(scene, 0.2)
    with pytest.raises(GuestCrashed, match="out of cheese"), watched(scene.monitor, lambda: None):
        raise ConnectionResetError


def test_a_crash_before_is_told_of_whatever_is_tried(scene: Scene) -> None:
    later(scene, 0)
    loop.run(asyncio.wait_for(scene.monitor.wait_failure(), 10))
    ours, theirs = socket.socketpair()
    with ours, theirs, pytest.raises(GuestCrashed), watched(scene.monitor, partial(cut, ours)):
        receive(ours)


@pytest.mark.parametrize("error", [DeadlineExpired("a login", 3), GuestSilent("no login within 3 s")])
def test_silence_says_where_to_look(scene: Scene, error: Exception) -> None:
    expected = r"domain box: .* login .*within 3 s"
    with pytest.raises(GuestSilent, match=expected) as caught, watched(scene.monitor, lambda: None):
        raise error
    assert caught.value.console == ["last line"]


def test_other_errors_and_success_pass(scene: Scene) -> None:
    interrupted: list[bool] = []
    with watched(scene.monitor, lambda: interrupted.append(True)):
        pass
    error = CheckFailed("not what was expected")
    with pytest.raises(CheckFailed) as caught, watched(scene.monitor, lambda: interrupted.append(True)):
        raise error
    assert caught.value is error
    # The waiting is over: what happens now concerns nobody.
    later(scene, 0)
    loop.run(asyncio.wait_for(scene.monitor.wait_failure(), 10))
    loop.run(asyncio.sleep(0))
    assert interrupted == []
