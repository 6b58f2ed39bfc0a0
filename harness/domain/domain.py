"""A domain as a test, a benchmark or the command line holds it: plain synchronous calls, from definition to death."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable, Coroutine, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, suppress
from enum import StrEnum
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

from qemu.qmp import QMPError

from harness.backend import launch as backend_launch
from harness.backend.network_client import SERVICE as NETWORK
from harness.backend.network_client import NetworkClient
from harness.domain import disks, networks
from harness.domain.assembly import Parts, assemble
from harness.domain.definition import Definition
from harness.domain.leases import Lease
from harness.guest.agent import AgentClient
from harness.guest.completed import Completed
from harness.guest.console import ConsoleLog
from harness.guest.ssh import SshClient
from harness.host import service
from harness.host.deadline import Deadline
from harness.host.errors import GuestGone, HarnessError, UsageError
from harness.host.interruption import cut
from harness.image.build import BuiltImage
from harness.machine import loop
from harness.machine.accelerator import Accelerator
from harness.machine.monitor import Monitor
from harness.machine.watched import watched
from harness.store.client import SERVICE as STORE

T = TypeVar("T")

BOOT_SECONDS = {"kvm": 60.0, "tcg": 180.0}
"""What a guest gets from its start to its agent's answer; an emulated one shares its core with others."""
EXECUTE_SECONDS = 60.0
SHUTDOWN_SECONDS = 60.0
QMP_SECONDS = 30.0
QUIT_SECONDS = 5.0
SSH_SECONDS = 60.0
SSH_PORT = 22


class DomainState(StrEnum):
    """CREATED → STARTING → RUNNING ⇄ PAUSED, and from any of them → ENDED."""

    CREATED = "created"
    STARTING = "starting"
    RUNNING = "running"
    PAUSED = "paused"
    ENDED = "ended"


class Domain:
    """One domain, from its launch until it is destroyed. Use it as a context manager: it is destroyed at the end.

    Launch it in a thread that lives as long as the domain: its processes die with that thread. Every call that needs
    the guest raises, besides what it says itself:

    :raise UsageError: the domain is not in a state that allows the call.
    :raise GuestError: the guest crashed, ended, or did not answer in time; with its last console lines.
    :raise HostError: a process that serves the domain ended.

    :param definition: what it consists of.
    :param accelerator: ``auto``, ``kvm`` or ``tcg``.
    :param shared_lease: a lease held by the caller on an image that several domains take turns on.
    :param logs: an existing directory for its logs; default: a new one.
    :param backend: the Python module to run as the backend process of a paravirtual domain; for drivers that are to
        meet a backend written for that, see :func:`harness.backend.launch.start_backend`.
    """

    def __init__(
        self,
        definition: Definition,
        *,
        accelerator: str = "auto",
        shared_lease: Lease | None = None,
        logs: Path | None = None,
        backend: str = backend_launch.MODULE,
    ) -> None:
        self.definition = definition
        self.state = DomainState.CREATED
        self._accelerator_request = accelerator
        self._shared_lease = shared_lease
        self._log_directory = logs
        self._backend_module = backend
        self._stack = ExitStack()
        self._parts: Parts | None = None
        self._console: ConsoleLog | None = None
        self._pv_console: ConsoleLog | None = None
        self._monitor: Monitor | None = None
        self._agent: AgentClient | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.destroy()

    # -- what it is ----------------------------------------------------------------------------------------------------

    @property
    def name(self) -> str:
        return self.definition.name

    @property
    def parts(self) -> Parts:
        """What it consists of; once it has been launched.

        :raise UsageError: it has not been, or is destroyed.
        """
        if self._parts is None:
            raise UsageError(f"domain {self.name} is {self.state}: it has no QEMU")
        return self._parts

    @property
    def domid(self) -> int:
        return self.parts.record.domid

    @property
    def pids(self) -> list[int]:
        """Processes that belong to this domain alone: QEMU, and the backend of a paravirtual domain."""
        return list(self.parts.record.pids.values())

    @property
    def logs(self) -> Path:
        """Directory of its logs, which outlives it.

        :raise UsageError: it has not been launched.
        """
        if self._log_directory is None:
            raise UsageError(f"domain {self.name} is {self.state}: it has no logs yet")
        return self._log_directory

    @property
    def image(self) -> BuiltImage:
        return self.parts.image

    @property
    def accelerator(self) -> Accelerator:
        return self.parts.accelerator

    def qemu_version(self) -> str:
        """Version of its QEMU."""
        return loop.run(self.parts.qemu.version(), Deadline(QMP_SECONDS, f"the version of QEMU of domain {self.name}"))

    @property
    def network(self) -> NetworkClient:
        """The private network its cards are on."""
        if self.parts.network is None:
            raise UsageError(f"domain {self.name} has no network", hint="add one under 'networks' in its definition")
        return self.parts.network

    @property
    def addresses(self) -> list[str]:
        """IPv4 addresses of its cards, in the order of the definition."""
        return [one.lease.address for one in self.parts.cards]

    @property
    def console(self) -> ConsoleLog:
        if self._console is None:
            raise UsageError(f"domain {self.name} is {self.state}: it has no console")
        return self._console

    @property
    def pv_console(self) -> ConsoleLog:
        """The console of a paravirtual domain that is a split driver, too."""
        if self._pv_console is None:
            raise UsageError(f"domain {self.name} has no paravirtual console", hint="its first serial port has one")
        return self._pv_console

    def last_console_lines(self, count: int) -> list[str]:
        """The end of its console, harmless to a terminal; nothing before it has been launched."""
        return self._console.last_lines(count) if self._console is not None else []

    def device(self, target: str) -> str:
        """The guest's device file of a disk.

        :param target: of the disk in the definition.
        :raise UsageError: the domain has no such disk.
        """
        disk = next((disk for disk in self.definition.disks if disk.target == target), None)
        if disk is None:
            raise UsageError(f"domain {self.name} has no disk {target}")
        if disk.model == "ide":
            return disks.ide_device(target, self.execute(disks.LIST_SCSI_DISKS).check().text)
        if disk.model == "virtio":
            return disks.virtio_device(target, self.execute(disks.LIST_VIRTIO_DISKS).check().text)
        return f"/dev/{target}"

    # -- life ----------------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Launch it and wait until it is ready."""
        self.launch()
        self.wait_ready()

    def launch(self) -> None:
        """Start its processes and let the guest boot; does not wait for the guest.

        :raise HarnessError: something is missing, in use, or does not start; nothing is left behind then.
        """
        self._require(DomainState.CREATED)
        self.state = DomainState.STARTING
        try:
            self._parts = assemble(
                self.definition,
                self._accelerator_request,
                self._shared_lease,
                self._log_directory,
                self._backend_module,
                self._stack,
            )
            self._log_directory = self._parts.logs
            self._parts.record.addresses = self.addresses
            self._set_state(DomainState.STARTING)
            loop.run(self._connect(self._parts))
        except BaseException:
            self.destroy()
            raise

    async def _connect(self, parts: Parts) -> None:
        await parts.qemu.connect(Deadline(QMP_SECONDS, f"a greeting from QEMU of domain {self.name}"))
        self._console = ConsoleLog(parts.logs / "console.log")
        self._monitor = Monitor(parts.qemu, self._console)
        loop.background(self._read_console(self._console, self._monitor, parts.console), f"console of {self.name}")
        if parts.network is not None:
            self._monitor.watch_service(NETWORK, parts.network.connection, service.log_path(NETWORK))
        if parts.paravirtual is not None:
            self._monitor.watch_service(STORE, parts.paravirtual.store.connection, service.log_path(STORE))
            self._monitor.watch_child(parts.paravirtual.backend)
            self._pv_console = ConsoleLog(parts.logs / "pv-console.log")
            self._pv_console_end = loop.background(
                self._pv_console.run(parts.paravirtual.console), f"paravirtual console of {self.name}"
            )
        self._agent = AgentClient(parts.agent)
        await parts.qemu.cont()

    async def _read_console(self, console: ConsoleLog, monitor: Monitor, connection: socket.socket) -> None:
        """Take in the console to its end, and tell the monitor that there is no more."""
        try:
            await console.run(connection)
        finally:
            monitor.console_closed()
            if self._pv_console is not None:
                self._pv_console.close()

    def wait_ready(self, timeout: float | None = None) -> None:
        """Wait until the agent answers and the devices work.

        :param timeout: seconds; default: what the accelerator needs.
        """
        self._require(DomainState.STARTING)
        seconds = BOOT_SECONDS[self.accelerator.name] if timeout is None else timeout
        deadline = Deadline(seconds, f"the boot of domain {self.name} until agent and devices work")
        self._guarded(self._running_agent.ping(deadline), deadline)
        if self.parts.paravirtual is not None:
            self.parts.paravirtual.wait_connected(deadline, self._watched)
        for card in self.parts.cards:
            self._execute(networks.configuration(card, self.network), timeout=deadline.left).check()
        self._set_state(DomainState.RUNNING)

    def pause(self) -> None:
        """Stop its virtual CPUs."""
        self._require(DomainState.RUNNING)
        loop.run(self.parts.qemu.stop(), Deadline(QMP_SECONDS, f"the pause of domain {self.name}"))
        self._set_state(DomainState.PAUSED)

    def unpause(self) -> None:
        """Let its virtual CPUs run on."""
        self._require(DomainState.PAUSED)
        loop.run(self.parts.qemu.cont(), Deadline(QMP_SECONDS, f"the end of the pause of domain {self.name}"))
        self._set_state(DomainState.RUNNING)

    def shutdown(self, timeout: float = SHUTDOWN_SECONDS) -> None:
        """Have the guest shut itself down, and take the domain apart when it has.

        :raise GuestSilent: it is still there after ``timeout`` seconds, and goes on.
        """
        self.power_off(timeout)
        self.destroy()

    def power_off(self, timeout: float = SHUTDOWN_SECONDS) -> None:
        """Have the guest shut itself down, and return when it has; the domain is still to be destroyed.

        :raise GuestSilent: it is still there after ``timeout`` seconds, and goes on.
        """
        self._require(DomainState.RUNNING)
        deadline = Deadline(timeout, f"the shutdown of domain {self.name}")
        monitor = self._running_monitor
        loop.get().call_soon_threadsafe(monitor.expect_end)
        self._guarded(self._running_agent.shutdown(deadline), deadline)
        self._guarded(monitor.wait_end(deadline), deadline)

    def wait_end(self) -> str:
        """Wait until the guest ends by itself, or another thread ends it; says in words how it did.

        The domain is still to be destroyed.
        """
        return loop.run(self._running_monitor.wait_over())

    def end(self) -> None:
        """Have QEMU end at once, which whoever is in :meth:`wait_end` hears of; the domain is still to be destroyed."""
        loop.run(self._end(self.parts))

    async def _end(self, parts: Parts) -> None:
        self._running_monitor.expect_end()
        with suppress(GuestGone, QMPError, TimeoutError):
            async with asyncio.timeout(QUIT_SECONDS):
                await parts.qemu.execute("quit")
                await parts.qemu.wait_exit()
        parts.qemu.child.kill()

    def destroy(self) -> None:
        """End it at once and remove all of it but its logs. May be called in any state, and again."""
        if self._parts is not None:
            with suppress(HarnessError):
                loop.run(self._quit(self._parts), Deadline(2 * QUIT_SECONDS, f"the end of domain {self.name}"))
        self._set_state(DomainState.ENDED)
        self._stack.close()
        self._parts = None

    async def _quit(self, parts: Parts) -> None:
        if self._monitor is not None:
            self._monitor.expect_end()
        await parts.qemu.quit(Deadline(QUIT_SECONDS, f"the end of QEMU of domain {self.name}"))
        if self._agent is not None:
            self._agent.close()
        if self._console is not None:
            self._console.close()
        if self._pv_console is not None and parts.paravirtual is not None:
            # The socket may be closed only when nobody in the loop reads it any more.
            parts.paravirtual.console.shutdown(socket.SHUT_RDWR)
            await asyncio.wait({self._pv_console_end})
        if self._monitor is not None:
            self._monitor.close()

    # -- use -----------------------------------------------------------------------------------------------------------

    def execute(
        self,
        argv: Sequence[str],
        *,
        stdin: bytes = b"",
        env: Mapping[str, str] | None = None,
        timeout: float = EXECUTE_SECONDS,
        asker: socket.socket | None = None,
    ) -> Completed:
        """Run a command in the guest to its end; its exit status is in what is returned.

        May be called from several threads at once.

        :param asker: a connection that sends nothing more; when its peer hangs up, the command is killed.
        :raise CommandTimeout: it was still running after ``timeout`` seconds and has been killed.
        """
        self._require(DomainState.RUNNING)
        return self._execute(argv, stdin=stdin, env=env, timeout=timeout, asker=asker)

    def _execute(
        self,
        argv: Sequence[str],
        *,
        stdin: bytes = b"",
        env: Mapping[str, str] | None = None,
        timeout: float,
        asker: socket.socket | None = None,
    ) -> Completed:
        """:meth:`execute` in any state in which the agent answers."""
        deadline = Deadline(timeout, f"the end of {argv[0]} in domain {self.name}")
        work = self._running_agent.exec(argv, deadline, stdin=stdin, env=env)
        return self._guarded(loop.while_connected(work, asker) if asker else work, deadline, grace=10.0)

    def start_service(self, argv: Sequence[str]) -> None:
        """Start a command that goes on in the background until the guest ends."""
        self.execute(["sh", "-c", '"$@" </dev/null >/dev/null 2>&1 &', "sh", *argv]).check()

    def read_file(self, path: str, *, timeout: float = EXECUTE_SECONDS) -> bytes:
        """The content of a file in the guest."""
        self._require(DomainState.RUNNING)
        deadline = Deadline(timeout, f"reading {path} in domain {self.name}")
        return self._guarded(self._running_agent.read_file(path, deadline), deadline)

    def write_file(self, path: str, content: bytes, *, timeout: float = EXECUTE_SECONDS) -> None:
        """Create a file in the guest, or replace the content of one."""
        self._require(DomainState.RUNNING)
        deadline = Deadline(timeout, f"writing {path} in domain {self.name}")
        self._guarded(self._running_agent.write_file(path, content, deadline), deadline)

    def connect(self, port: int, *, card: int = 0, timeout: float = SSH_SECONDS) -> socket.socket:
        """A TCP connection from the host to the guest, over one of its network cards.

        :raise OSError: nobody listens there.
        """
        connection = self.network.socket(socket.AF_INET, socket.SOCK_STREAM)
        connection.settimeout(timeout)
        try:
            with self._watched(partial(cut, connection)):
                connection.connect((self.addresses[card], port))
        except BaseException:
            connection.close()
            raise
        return connection

    def ssh(self, *, card: int = 0, timeout: float = SSH_SECONDS) -> SshClient:
        """Log in over the network card under test; the image's own host key is insisted on."""
        self._require(DomainState.RUNNING)
        deadline = Deadline(timeout, f"an SSH login on domain {self.name}")
        return SshClient.connect(
            self.connect(SSH_PORT, card=card, timeout=deadline.left),
            host_key=self.image.ssh_host_key,
            client_key=self.image.ssh_client_key,
            deadline=deadline,
            guard=self._watched,
        )

    # -- the monitor stands before everything that waits for the guest ------------------------------------------------

    @property
    def _running_monitor(self) -> Monitor:
        if self._monitor is None:
            raise UsageError(f"domain {self.name} is {self.state}")
        return self._monitor

    @property
    def _running_agent(self) -> AgentClient:
        if self._agent is None:
            raise UsageError(f"domain {self.name} is {self.state}")
        return self._agent

    def _guarded(self, work: Coroutine[Any, Any, T], deadline: Deadline, *, grace: float = 0.0) -> T:
        """Run something that needs the guest, until it is done or the guest is known to have failed.

        :param grace: seconds beyond the deadline for the work to clean up after itself and say more.
        """
        outer = Deadline(deadline.left + grace, deadline.waiting_for) if grace else deadline
        return loop.run(self._running_monitor.guard(work, outer))

    def _watched(self, interrupt: Callable[[], object]) -> AbstractContextManager[None]:
        """The same for what blocks this thread; see :func:`watched`."""
        return watched(self._running_monitor, interrupt)

    def _require(self, *states: DomainState) -> None:
        if self.state not in states:
            raise UsageError(f"domain {self.name} is {self.state}, not {' or '.join(states)}")

    def _set_state(self, state: DomainState) -> None:
        self.state = state
        if self._parts is not None:
            self._parts.record.state = state
            self._parts.record.write()
