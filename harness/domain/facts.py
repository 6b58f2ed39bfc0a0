"""What a domain is, and what it consists of once it has been launched."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path

from harness.backend.network_client import NetworkClient
from harness.domain.assembly import Parts
from harness.domain.definition import Definition
from harness.domain.devices import Devices
from harness.domain.session import Session
from harness.guest.console import ConsoleLog
from harness.host.deadline import Deadline
from harness.host.errors import UsageError
from harness.image.build import BuiltImage
from harness.machine import loop
from harness.machine.accelerator import Accelerator

QMP_SECONDS = 30.0


class DomainFacts:
    """What can be asked of a domain without doing anything to it; see :class:`harness.domain.life.DomainLife`.

    :param definition: what it consists of.
    :param logs: an existing directory for its logs; None: not known yet.
    """

    state: StrEnum

    def __init__(self, definition: Definition, logs: Path | None) -> None:
        self.definition = definition
        self._log_directory = logs
        self._parts: Parts | None = None
        self._session: Session | None = None
        self._devices: Devices | None = None

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
        return self.parts.held.image

    @property
    def accelerator(self) -> Accelerator:
        return self.parts.held.accelerator

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
        """Its first serial port."""
        return self.session.console

    @property
    def pv_console(self) -> ConsoleLog:
        """The first console of a paravirtual domain that is a split driver."""
        return self.pv_consoles[0]

    @property
    def pv_consoles(self) -> list[ConsoleLog]:
        """All consoles that are split drivers, of which a paravirtual domain has at least one."""
        if not self.session.pv_consoles:
            raise UsageError(f"domain {self.name} has no paravirtual console", hint="its first serial port has one")
        return self.session.pv_consoles

    def last_console_lines(self, count: int) -> list[str]:
        """The end of its console, harmless to a terminal; nothing before it has been launched."""
        return self._session.console.last_lines(count) if self._session is not None else []

    @property
    def _plugs(self) -> Devices:
        if self._devices is None:
            raise UsageError(f"domain {self.name} is {self.state}")
        return self._devices

    @property
    def session(self) -> Session:
        if self._session is None:
            raise UsageError(f"domain {self.name} is {self.state}")
        return self._session
