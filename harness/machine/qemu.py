"""One QEMU process and the QMP connection to it.

A QEMU is started in two halves. :meth:`QemuProcess.spawn` runs in the owner's main thread, because the child dies with
the thread that started it; everything else runs in the loop of :mod:`harness.machine.loop`.
"""

from __future__ import annotations

import asyncio
import logging
import os
import socket
from collections.abc import Mapping
from contextlib import AbstractContextManager, suppress
from enum import StrEnum
from pathlib import Path
from typing import Any

from qemu.qmp import ConnectError, EventListener, ExecInterruptedError, QMPClient, QMPError, Runstate

from harness.host.deadline import Deadline
from harness.host.errors import DeadlineExpired, GuestGone, HostError, UsageError
from harness.host.process import Child, spawn
from harness.machine import descriptors
from harness.machine.command_line import DeviceObjects, Machine, command_line

DYING_SECONDS = 5.0
"""How long a QEMU that has closed its QMP socket may take to be gone, so that its exit status can be told."""

ADD = {"blockdev": "blockdev-add", "netdev": "netdev_add", "object": "object-add"}
"""The QMP command for what the command line calls so."""

# The library logs every broken connection; ours become exceptions that say more.
logging.getLogger("qemu.qmp").addHandler(logging.NullHandler())


class QemuState(StrEnum):
    """PREPARED (never run) → RUNNING ⇄ PAUSED; every state → ENDED."""

    PREPARED = "prepared"
    RUNNING = "running"
    PAUSED = "paused"
    ENDED = "ended"


class QemuProcess:
    """A QEMU process, its state as far as our own commands go, and its QMP connection.

    :ivar child: the process.
    :ivar events: every QMP event since QEMU started, for one reader: the monitor.
    """

    def __init__(self, name: str, child: Child, qmp_socket: socket.socket) -> None:
        self.name = name
        self.child = child
        self.events = EventListener()
        self._socket: socket.socket | None = qmp_socket
        self._qmp = QMPClient(name)
        self._qmp.register_listener(self.events)
        self._state = QemuState.PREPARED
        self._exit: asyncio.Future[int] | None = None
        self._occupied = 0

    @classmethod
    def spawn(cls, machine: Machine, log: Path, env: Mapping[str, str] | None = None) -> QemuProcess:
        """Start QEMU with its CPUs stopped; call this in a thread that lives as long as the domain.

        The caller closes its copies of the machine's descriptors afterwards.

        :param log: receives what QEMU prints.
        :param env: added to QEMU's environment.
        :raise HostError: QEMU is not installed.
        """
        ours, theirs = socket.socketpair()
        with theirs:
            try:
                child = spawn(
                    f"QEMU of domain {machine.name}",
                    command_line(machine, theirs.fileno()),
                    log=log,
                    pass_fds=[theirs.fileno(), *machine.descriptors()],
                    env=env,
                )
            except BaseException:
                ours.close()
                raise
        return cls(machine.name, child, ours)

    @property
    def state(self) -> QemuState:
        if self.child.poll() is not None:
            return QemuState.ENDED
        return self._state

    def require(self, *states: QemuState) -> None:
        """Check that QEMU is in one of some states.

        :raise UsageError: it is not.
        """
        if self.state not in states:
            raise UsageError(f"domain {self.name} is {self.state}, not {' or '.join(states)}")

    async def connect(self, deadline: Deadline) -> None:
        """Speak QMP with the new process; afterwards it is known to have accepted its command line.

        :raise LaunchError: QEMU ended instead; carries its command line and what it said.
        :raise DeadlineExpired: it is there and says nothing.
        """
        self.require(QemuState.PREPARED)
        if self._socket is None:
            raise UsageError(f"QEMU of domain {self.name} is connected already")
        self._watch_exit()
        qmp_socket, self._socket = self._socket, None
        qmp_socket.setblocking(False)
        try:
            async with asyncio.timeout(deadline.left):
                await self._qmp.connect(qmp_socket)
        except TimeoutError:
            raise deadline.error() from None
        except ConnectError as error:
            qmp_socket.close()
            with suppress(DeadlineExpired):
                await self.wait_exit(Deadline(DYING_SECONDS, "the end of QEMU"))
            raise self.child.error(f"QEMU of domain {self.name} did not start") from error

    def _watch_exit(self) -> None:
        loop, descriptor = asyncio.get_running_loop(), self.child.pidfd()
        self._exit = exit_status = loop.create_future()

        def ended() -> None:
            loop.remove_reader(descriptor)
            os.close(descriptor)
            # Another thread may be reaping it just now, so that polling would not tell.
            status = self.child.wait(Deadline(DYING_SECONDS, "the exit status of QEMU"))
            if not exit_status.done():
                exit_status.set_result(status)

        loop.add_reader(descriptor, ended)

    async def wait_exit(self, deadline: Deadline | None = None) -> int:
        """Wait for the end of QEMU and return its exit status (negative: the signal).

        :raise DeadlineExpired: it still runs.
        """
        if self._exit is None:
            raise UsageError(f"QEMU of domain {self.name} has not been connected to")
        done, _ = await asyncio.wait({self._exit}, timeout=None if deadline is None else deadline.left)
        if not done and deadline is not None:
            raise deadline.error()
        return self._exit.result()

    async def wait_disconnected(self) -> int:
        """Wait for QEMU's end and for the last of its QMP events to be in :attr:`events`; return its exit status."""
        status = await self.wait_exit()
        while self._qmp.runstate == Runstate.RUNNING:
            await self._qmp.runstate_changed()
        return status

    async def execute(self, command: str, arguments: dict[str, Any] | None = None) -> object:
        """Run a QMP command and return its result.

        :raise qemu.qmp.ExecuteError: QEMU refused.
        :raise GuestGone: QEMU ended or the connection broke.
        """
        if self._qmp.runstate != Runstate.RUNNING:
            raise GuestGone(f"QEMU of domain {self.name} is gone: QMP command {command} was not sent")
        try:
            return await self._qmp.execute(command, arguments)
        except ExecInterruptedError as error:
            raise GuestGone(f"QEMU of domain {self.name} ended during the QMP command {command}") from error

    async def version(self) -> str:
        """QEMU's version, such as ``7.2.22``."""
        answer = await self.execute("query-version")
        match answer:
            case {"qemu": {"major": major, "minor": minor, "micro": micro}}:
                return f"{major}.{minor}.{micro}"
        return str(answer)

    def listener(self, event: str) -> AbstractContextManager[EventListener]:
        """The QMP events of one name, for as long as the context lasts."""
        return self._qmp.listener(event)

    async def send_descriptor(self, name: str, descriptor: int) -> None:
        """Give QEMU a descriptor under a name, to be used in later commands (``getfd``)."""
        if self._qmp.runstate != Runstate.RUNNING:
            raise GuestGone(f"QEMU of domain {self.name} is gone: descriptor {name} was not sent")
        self._qmp.send_fd_scm(descriptor)
        await self.execute("getfd", {"fdname": name})

    async def plug_in(self, one: DeviceObjects, deadline: Deadline) -> None:
        """Plug in a device of a machine that was made bare.

        :raise qemu.qmp.ExecuteError: QEMU refused it.
        :raise DeadlineExpired: it did not answer.
        """
        try:
            async with asyncio.timeout(deadline.left):
                await self.execute(ADD[one.kind], one.behind)
                await self.execute("device_add", one.device)
        except TimeoutError:
            raise deadline.error() from None

    async def attach_link(
        self,
        name: str,
        link: socket.socket,
        vectors: int,
        deadline: Deadline,
        *,
        slot: int | None = None,
        granter: bool = False,
    ) -> int:
        """Plug the device of a link in; the guest finds it in its own time, and uses it when it knows whose it is.

        :param name: of the device, for :meth:`detach_link`.
        :param link: what :meth:`Link.qemu_socket` gave; still the caller's to close.
        :param vectors: interrupt vectors that the device has.
        :param slot: where on the PCI bus it is to be; None: where there is room.
        :param granter: the machine is at that end: the link's memory is saved with its own. With the other end of a
            link, a machine cannot be saved.
        :return: its slot on the PCI bus, under which the guest is to be told, see :func:`toolstack.add_link`.
        :raise qemu.qmp.ExecuteError: QEMU refused; then nothing of it is left.
        :raise DeadlineExpired: it did not answer.
        """
        backend = {"type": "socket", "data": {"addr": {"type": "fd", "data": {"str": name}}, "server": False}}
        device: dict[str, object] = {"driver": "ivshmem-doorbell", "id": name, "chardev": name, "vectors": vectors}
        if granter:
            device["master"] = "on"
        if slot is not None:
            device["addr"] = f"{slot:#x}"
        try:
            async with asyncio.timeout(deadline.left):
                await self.send_descriptor(name, link.fileno())
                await self.execute("chardev-add", {"id": name, "backend": backend})
                try:
                    await self.execute("device_add", device)
                except QMPError:
                    await self.execute("chardev-remove", {"id": name})
                    raise
                return await self.slot(name)
        except TimeoutError:
            raise deadline.error() from None

    async def slot(self, name: str) -> int:
        """Where on the PCI bus a device is.

        :raise HostError: there is no such device.
        """
        match await self.execute("query-pci"):
            case [{"devices": [*devices]}, *_]:
                for device in devices:
                    if isinstance(device, dict) and device.get("qdev_id") == name:
                        return int(device["slot"])
        raise HostError(f"QEMU of domain {self.name} has no PCI device {name}")

    async def detach_link(self, name: str, deadline: Deadline) -> None:
        """Unplug the device of a link, and wait until the guest has let go of it; see :func:`toolstack.remove_link`.

        :raise qemu.qmp.ExecuteError: there is no such device, or it is being unplugged already.
        :raise DeadlineExpired: the guest did not let go. It still may.
        :raise GuestGone: QEMU ended.
        """
        try:
            doorbells = descriptors.eventfds(self.child.pid)
            await self._unplug(name, deadline)
            await self._occupy(doorbells - descriptors.opened(self.child.pid))
        except FileNotFoundError as error:
            raise GuestGone(f"QEMU of domain {self.name} ended") from error
        await self.execute("chardev-remove", {"id": name})

    async def _unplug(self, name: str, deadline: Deadline) -> None:
        with self._qmp.listener("DEVICE_DELETED") as deleted:
            await self.execute("device_del", {"id": name})
            gone = asyncio.ensure_future(self._wait_deleted(name, deleted))
            ended = asyncio.ensure_future(self.wait_exit())
            try:
                await asyncio.wait({gone, ended}, timeout=deadline.left, return_when=asyncio.FIRST_COMPLETED)
                if not gone.done():
                    raise GuestGone(f"QEMU of domain {self.name} ended") if ended.done() else deadline.error()
            finally:
                gone.cancel()
                ended.cancel()

    async def _occupy(self, numbers: set[int]) -> None:
        """Let QEMU never use again some numbers of descriptors that it has closed.

        Without KVM it goes on to wait for what an unplugged ivshmem device had as its doorbells. Should anything else
        get such a number and become readable, QEMU calls the device, whose memory is free by then.
        """
        spare = os.eventfd(0, os.EFD_CLOEXEC)
        others = []
        try:
            known = descriptors.opened(self.child.pid)
            while not numbers <= known:
                self._occupied += 1
                name = f"occupied-{self._occupied}"
                await self.send_descriptor(name, spare)
                now = descriptors.opened(self.child.pid)
                if not now - known <= numbers:
                    others.append(name)
                known = now
            for name in others:
                await self.execute("closefd", {"fdname": name})
        finally:
            os.close(spare)

    @staticmethod
    async def _wait_deleted(name: str, deleted: EventListener) -> None:
        async for event in deleted:
            data = event.get("data")
            if isinstance(data, dict) and data.get("device") == name:
                return

    async def cont(self) -> None:
        """Let the CPUs run.

        :raise UsageError: they do already, or QEMU has ended.
        """
        self.require(QemuState.PREPARED, QemuState.PAUSED)
        await self.execute("cont")
        self._state = QemuState.RUNNING

    async def stop(self) -> None:
        """Stop the CPUs.

        :raise UsageError: they do not run.
        """
        self.require(QemuState.RUNNING)
        await self.execute("stop")
        self._state = QemuState.PAUSED

    async def quit(self, deadline: Deadline) -> int:
        """End QEMU, kindly at first, and return its exit status; also good for one that never connected."""
        if self.child.poll() is None and self._qmp.runstate == Runstate.RUNNING:
            with suppress(GuestGone, QMPError, TimeoutError):
                async with asyncio.timeout(deadline.left):
                    await self.execute("quit")
                    await self.wait_exit()
        status = self.child.kill()
        await self._disconnect()
        return status

    async def _disconnect(self) -> None:
        if self._socket is not None:
            self._socket.close()
            self._socket = None
        if self._qmp.runstate != Runstate.IDLE:
            with suppress(QMPError, EOFError, OSError):
                await self._qmp.disconnect()
