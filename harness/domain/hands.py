"""What a driver domain's owner does with the domain itself, for those that it serves."""

from __future__ import annotations

import socket
from collections.abc import Sequence
from typing import Protocol

from qemu.qmp import QMPError

from harness.bus import toolstack
from harness.domain.assembly import Parts
from harness.domain.session import Session
from harness.guest.completed import Completed
from harness.host.deadline import Deadline
from harness.host.errors import HostError
from harness.hypervisor.layout import GRANTEE
from harness.store.client import StoreClient

PLUG_SECONDS = 30.0


class Owned(Protocol):
    """A domain as its owner has it."""

    @property
    def name(self) -> str: ...

    @property
    def parts(self) -> Parts: ...

    @property
    def session(self) -> Session: ...


class Hands:
    """Acts on whichever QEMU the domain has just now; see :class:`harness.domain.serving.Guest`."""

    def __init__(self, domain: Owned) -> None:
        self._domain = domain

    def plug_link(self, name: str, link: socket.socket, vectors: int, domid: int) -> None:
        """:raise HostError: QEMU does not take it."""
        deadline = Deadline(PLUG_SECONDS, f"QEMU of driver domain {self._domain.name} to take a link")
        work = self._domain.parts.qemu.attach_link(name, link, vectors, deadline)
        try:
            slot = self._domain.session.guarded(work, deadline)
        except QMPError as error:
            raise HostError(f"QEMU of driver domain {self._domain.name} does not take a link: {error}") from error
        with StoreClient.connect() as store:
            toolstack.add_link(store, self._domain.parts.record.domid, slot, GRANTEE, domid)

    def unplug_link(self, name: str, seconds: float) -> None:
        """:raise GuestError: the guest does not let go of it."""
        deadline = Deadline(seconds, f"driver domain {self._domain.name} to let go of a link")
        slot = self._domain.session.guarded(self._domain.parts.qemu.slot(name), deadline)
        with StoreClient.connect() as store:
            toolstack.remove_link(store, self._domain.parts.record.domid, slot)
        work = self._domain.parts.qemu.detach_link(name, deadline)
        try:
            self._domain.session.guarded(work, deadline, grace=1.0)
        except QMPError as error:
            raise HostError(f"QEMU of driver domain {self._domain.name} keeps a link: {error}") from error

    def run(self, argv: Sequence[str], seconds: float) -> Completed:
        """:raise GuestError: the domain has died, or the command takes too long."""
        return self._domain.session.execute(argv, timeout=seconds)
