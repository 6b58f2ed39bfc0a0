"""Which ends of a domain are what somebody wanted, as its owner who waits for the end sees it."""

from __future__ import annotations

from pathlib import Path

import pytest

from harness.host.errors import GuestCrashed, GuestGone, HostError
from tests.unit.test_monitor import Scene, play


@pytest.mark.parametrize(
    ("reason", "text"),
    [("guest-shutdown", "the guest powered itself off"), ("guest-reset", "the guest rebooted")],
)
def test_what_the_guest_chooses_is_wanted(reason: str, text: str, tmp_path: Path) -> None:
    async def script(scene: Scene) -> None:
        scene.later(0.05, lambda: scene.qemu.end(reason))
        scene.later(0.1, scene.monitor.console_closed)
        assert await scene.monitor.wait_over() == text

    play(tmp_path, script)


def test_what_we_choose_is_wanted(tmp_path: Path) -> None:
    async def script(scene: Scene) -> None:
        scene.later(0.05, scene.monitor.expect_end)
        scene.later(0.1, lambda: scene.qemu.end("host-qmp-quit"))
        scene.later(0.1, scene.monitor.console_closed)
        assert await scene.monitor.wait_over() == "QEMU was told to quit"

    play(tmp_path, script)


def test_an_end_that_nobody_chose(tmp_path: Path) -> None:
    async def script(scene: Scene) -> None:
        scene.later(0.05, lambda: scene.qemu.end("host-signal"))
        scene.later(0.05, scene.monitor.console_closed)
        with pytest.raises(GuestGone, match="QEMU was ended by a signal"):
            await scene.monitor.wait_over()

    play(tmp_path, script)


def test_a_crash_is_told_although_the_guest_rebooted_after_it(tmp_path: Path) -> None:
    async def script(scene: Scene) -> None:
        scene.later(0.05, lambda: scene.qemu.end("guest-reset"))
        scene.later(0.1, scene.console.show_crash)
        scene.later(0.1, scene.monitor.console_closed)
        with pytest.raises(GuestCrashed, match="out of cheese"):
            await scene.monitor.wait_over()

    play(tmp_path, script)


def test_another_failure_ends_the_wait_while_qemu_runs(tmp_path: Path) -> None:
    async def script(scene: Scene) -> None:
        scene.later(0.01, lambda: scene.monitor.fail("the backend ended unexpectedly"))
        with pytest.raises(HostError, match="the backend ended unexpectedly"):
            await scene.monitor.wait_over()

    play(tmp_path, script)
