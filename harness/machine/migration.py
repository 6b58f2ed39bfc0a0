"""A machine's state, memory and devices, into a file and back: QEMU's migration, of a machine that stands still.

The memory of a link is saved with the guest's own, which QEMU does for the peer whose ID is 0 alone. It is zero for the
most part, and a page of zeros takes nine bytes. (Shared memory could be left out with ``x-ignore-shared``, but that
wants it at the same guest address in both QEMUs, and a PCI device has no address before its own state is loaded.)
"""

from __future__ import annotations

import asyncio

from qemu.qmp import EventListener, QMPError

from harness.host.deadline import Deadline
from harness.host.errors import DeadlineExpired, GuestGone, HostError
from harness.machine.qemu import DYING_SECONDS, QemuProcess, QemuState

_NAME = "state"
_BANDWIDTH = 1 << 36
"""Bytes per second: QEMU's default is meant for a network that others use, too."""
SETTLE_SECONDS = 0.005
_ENDS = frozenset({"completed", "failed", "cancelled"})


async def save(qemu: QemuProcess, descriptor: int, deadline: Deadline) -> None:
    """Write the state of a machine whose processors are stopped to a file, from the descriptor's offset on.

    The machine may go on afterwards, whether this succeeds or not.

    :raise UsageError: its processors are not stopped.
    :raise HostError: it cannot be saved, or not written; says why.
    :raise DeadlineExpired: it was not done in time.
    :raise GuestGone: QEMU ended.
    """
    qemu.require(QemuState.PAUSED)
    with qemu.listener("MIGRATION") as events:
        try:
            await _prepare(qemu)
            await qemu.send_descriptor(_NAME, descriptor)
            await qemu.execute("migrate", {"uri": f"fd:{_NAME}"})
        except QMPError as error:
            raise HostError(f"domain {qemu.name} cannot be saved: {error}") from error
        try:
            end = await _end(qemu, events, deadline)
        except DeadlineExpired:
            await qemu.execute("migrate_cancel")
            await _settle(qemu)
            raise
    await _settle(qemu)
    if end != "completed":
        reason = await qemu.execute("query-migrate")
        told = reason.get("error-desc") if isinstance(reason, dict) else None
        raise HostError(f"the state of domain {qemu.name} was not written: {told or end}")


async def load(qemu: QemuProcess, descriptor: int, deadline: Deadline) -> None:
    """Read a state that :func:`save` has written into a machine of the same command line, made with ``incoming``.

    :raise HostError: QEMU does not take it; carries what it said.
    :raise DeadlineExpired: it was not done in time.
    """
    qemu.require(QemuState.PREPARED)
    with qemu.listener("MIGRATION") as events:
        try:
            await _prepare(qemu)
            await qemu.send_descriptor(_NAME, descriptor)
            await qemu.execute("migrate-incoming", {"uri": f"fd:{_NAME}"})
            end = await _end(qemu, events, deadline)
        except (GuestGone, QMPError) as error:
            raise await _refused(qemu) from error
    if end != "completed":
        raise await _refused(qemu)


async def _prepare(qemu: QemuProcess) -> None:
    await qemu.execute("migrate-set-capabilities", {"capabilities": [{"capability": "events", "state": True}]})
    await qemu.execute("migrate-set-parameters", {"max-bandwidth": _BANDWIDTH})


async def _end(qemu: QemuProcess, events: EventListener, deadline: Deadline) -> str:
    """Wait until a migration is over, and say how it ended."""
    told = asyncio.ensure_future(_last_word(events))
    gone = asyncio.ensure_future(qemu.wait_exit())
    try:
        await asyncio.wait({told, gone}, timeout=deadline.left, return_when=asyncio.FIRST_COMPLETED)
        if told.done():
            return told.result()
        raise GuestGone(f"QEMU of domain {qemu.name} ended") if gone.done() else deadline.error()
    finally:
        told.cancel()
        gone.cancel()


async def _settle(qemu: QemuProcess) -> None:
    """Wait for the moment from which the machine could go on, of which no event tells."""
    while True:
        match await qemu.execute("query-status"):
            case {"status": "finish-migrate"}:
                await asyncio.sleep(SETTLE_SECONDS)
            case _:
                return


async def _last_word(events: EventListener) -> str:
    async for event in events:
        data = event.get("data")
        status = data.get("status") if isinstance(data, dict) else None
        if status in _ENDS:
            return str(status)
    return "failed"


async def _refused(qemu: QemuProcess) -> HostError:
    """QEMU ends when it cannot make sense of a state, and tells nobody but its log."""
    try:
        await qemu.wait_exit(Deadline(DYING_SECONDS, "the end of QEMU"))
    except DeadlineExpired:
        return HostError(f"QEMU of domain {qemu.name} cannot go on from the saved state; its log: {qemu.child.log}")
    return qemu.child.error(f"QEMU of domain {qemu.name} cannot go on from the saved state")
