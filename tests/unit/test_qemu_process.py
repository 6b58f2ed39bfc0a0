"""QEMU as a process: its states, its QMP, and what is said when it does not start. Runs QEMU, but no kernel."""

from __future__ import annotations

import shutil
import signal
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
from qemu.qmp import ExecuteError

from harness.host.deadline import Deadline
from harness.host.errors import DeadlineExpired, GuestGone, HostError, LaunchError, UsageError
from harness.hypervisor.layout import FIRST_LINK_SLOT, GRANTEE
from harness.hypervisor.link import Link
from harness.machine import loop, qemu
from harness.machine.command_line import QEMU, Machine, base_arguments
from harness.machine.qemu import QemuProcess, QemuState

pytestmark = pytest.mark.skipif(shutil.which(QEMU) is None, reason=f"{QEMU} is not installed")


def deadline() -> Deadline:
    return Deadline(30, "QEMU's answer")


def spawn_bare(directory: Path, *more: str) -> QemuProcess:
    """A QEMU whose processor executes an endless loop at the reset vector."""
    rom = directory / "loop.rom"
    rom.write_bytes(bytes(0xFFF0) + b"\xeb\xfe" + bytes(14))

    def command_line(_: Machine, qmp_fd: int) -> list[str]:
        qmp = ["-chardev", f"socket,id=qmp,fd={qmp_fd}", "-mon", "chardev=qmp,mode=control"]
        return [*base_arguments("tcg"), "-m", "size=16M", "-S", "-bios", str(rom), *qmp, *more]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(qemu, "command_line", command_line)
        pair = socket.socketpair()
        with pair[0], pair[1]:
            machine = Machine("bare", "tcg", 16, 1, rom, rom, pair[0].fileno(), pair[1].fileno())
            return QemuProcess.spawn(machine, directory / "qemu.log")


@pytest.fixture
def bare(tmp_path: Path) -> Iterator[QemuProcess]:
    process = spawn_bare(tmp_path)
    loop.run(process.connect(deadline()))
    yield process
    loop.run(process.quit(deadline()))


def told_and_known(process: QemuProcess) -> tuple[str, QemuState]:
    """QEMU's own word for its state, and ours."""
    status = loop.run(process.execute("query-status"))
    assert isinstance(status, dict)
    return status["status"], process.state


def test_life(bare: QemuProcess) -> None:
    assert told_and_known(bare) == ("prelaunch", QemuState.PREPARED)
    loop.run(bare.cont())
    assert told_and_known(bare) == ("running", QemuState.RUNNING)
    loop.run(bare.stop())
    assert told_and_known(bare) == ("paused", QemuState.PAUSED)
    loop.run(bare.cont())
    assert loop.run(bare.quit(deadline())) == 0
    assert bare.state is QemuState.ENDED
    assert loop.run(bare.quit(deadline())) == 0


def test_commands_in_a_wrong_state(bare: QemuProcess) -> None:
    with pytest.raises(UsageError, match="domain bare is prepared, not running"):
        loop.run(bare.stop())
    loop.run(bare.cont())
    with pytest.raises(UsageError, match="domain bare is running, not prepared or paused"):
        loop.run(bare.cont())
    with pytest.raises(UsageError, match="is running, not prepared"):
        loop.run(bare.connect(deadline()))


def test_refused_command(bare: QemuProcess) -> None:
    with pytest.raises(ExecuteError, match="no-such-command"):
        loop.run(bare.execute("no-such-command"))


def test_events_are_kept_until_somebody_reads(bare: QemuProcess) -> None:
    loop.run(bare.cont())
    loop.run(bare.quit(deadline()))
    events = bare.events.clear()
    assert [event["event"] for event in events] == ["RESUME", "SHUTDOWN"]
    assert events[-1]["data"] == {"guest": False, "reason": "host-qmp-quit"}


def test_descriptor_can_be_handed_over(bare: QemuProcess) -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        loop.run(bare.send_descriptor("late", theirs.fileno()))
        backend = {"type": "socket", "data": {"addr": {"type": "fd", "data": {"str": "late"}}, "server": False}}
        loop.run(bare.execute("chardev-add", {"id": "late", "backend": backend}))
        loop.run(bare.execute("chardev-remove", {"id": "late"}))


def test_a_link_can_be_plugged_in(bare: QemuProcess) -> None:
    with Link.between(1, 2) as link, link.qemu_socket() as server:
        slot = loop.run(bare.attach_link("late", server, link.layout.vectors[0], deadline()))
    assert loop.run(bare.slot("late")) == slot != FIRST_LINK_SLOT
    with pytest.raises(HostError, match="no PCI device never"):
        loop.run(bare.slot("never"))
    assert loop.run(bare.execute("qom-get", {"path": "/machine/peripheral/late", "property": "vectors"})) == 8
    # A guest without a kernel never lets go.
    with pytest.raises(DeadlineExpired, match="the guest's consent"):
        loop.run(bare.detach_link("late", Deadline(0.2, "the guest's consent")))
    bare.child.kill()
    with pytest.raises(GuestGone):
        loop.run(bare.detach_link("late", deadline()))


def test_of_a_refused_link_nothing_is_left(bare: QemuProcess) -> None:
    with Link.between(1, 2) as link:
        with link.qemu_socket() as server, pytest.raises(ExecuteError, match="vectors"):
            loop.run(bare.attach_link("late", server, 100000, deadline()))
        with link.qemu_socket(GRANTEE) as server:
            loop.run(bare.attach_link("late", server, link.layout.vectors[1], deadline()))
    with pytest.raises(ExecuteError, match="never"):
        loop.run(bare.detach_link("never", deadline()))


def test_killed_qemu(bare: QemuProcess) -> None:
    loop.run(bare.cont())
    bare.child.kill()
    assert loop.run(bare.wait_disconnected(), deadline()) == -signal.SIGKILL
    assert bare.state is QemuState.ENDED
    with pytest.raises(GuestGone, match="QMP command stop was not sent"):
        loop.run(bare.execute("stop"))


def test_qemu_that_does_not_start(tmp_path: Path) -> None:
    process = spawn_bare(tmp_path, "-device", "flux-capacitor")
    with pytest.raises(LaunchError) as caught:
        loop.run(process.connect(deadline()))
    loop.run(process.quit(deadline()))
    assert caught.value.exit_status == 1
    assert "'flux-capacitor' is not a valid device model name" in caught.value.output
    assert "-device flux-capacitor" in str(caught.value)
    assert caught.value.exit_code == 3


def test_quit_without_a_connection(tmp_path: Path) -> None:
    process = spawn_bare(tmp_path)
    assert loop.run(process.quit(deadline())) == -signal.SIGKILL
    assert process.state is QemuState.ENDED
