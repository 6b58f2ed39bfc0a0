"""Event channels in a link: Xen's 2-level semantics (event_channel.h) over bytes in shared memory and doorbells.

A port has a pending byte, a mask byte and an 8-byte entry ``struct link_port``. Events carry one bit: sending to a port
that is already pending changes nothing, so the receiver clears the byte before it looks for work.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import suppress
from enum import IntEnum
from threading import Lock

from harness.host.errors import GuestError
from harness.hypervisor.layout import FRAME_SIZE, LINK_PORTS, PORT, PREMADE_PORTS, LinkLayout

_lock = Lock()


def fence() -> None:
    """Order all stores before this call before all loads after it.

    Python has no fence of its own, but taking a lock that is free executes a locked instruction, which is one on x86.
    Other reorderings (store after store, load after load) do not exist on x86, and no compiler sees this code.
    """
    with _lock:
        pass


class PortState(IntEnum):
    """``EVTCHNSTAT_*``."""

    CLOSED = 0
    UNBOUND = 1
    INTERDOMAIN = 2


class EventError(GuestError):
    """A port is not what was expected of it, at this end or at the other one."""


class EventChannels:
    """One process's ports at one end of a link.

    Several processes may share an end when each has its own doorbell vector and its own range of ports. What the other
    end can write is read once per use and checked; a guest that scribbles over the tables loses its own events only.

    :param memory: the whole region.
    :param end: ``GRANTER`` or ``GRANTEE``.
    :param wait_fd: eventfd of this process's vector: becomes readable when a port may be pending.
    :param ring_fds: eventfd of each vector of the other end.
    :param vector: the vector that ``wait_fd`` belongs to.
    :param ports: local port numbers that belong to this process.
    :ivar sent: how often each open port was sent to.
    :ivar received: how often each open port was found pending.
    """

    def __init__(
        self,
        memory: memoryview,
        layout: LinkLayout,
        end: int,
        *,
        wait_fd: int,
        ring_fds: Sequence[int],
        vector: int,
        ports: range,
    ) -> None:
        other = 1 - end
        if not 0 <= vector < layout.vectors[end]:
            raise ValueError(f"vector {vector}: end {end} of the link has {layout.vectors[end]}")
        if len(ring_fds) != layout.vectors[other]:
            raise ValueError(f"{len(ring_fds)} doorbells given, the other end listens on {layout.vectors[other]}")
        self.wait_fd = wait_fd
        self.vector = vector
        self._ring_fds = tuple(ring_fds)
        self._range = ports
        self._premade = PREMADE_PORTS[end]

        def area(frame: int, size: int) -> memoryview:
            return memory[frame * FRAME_SIZE : frame * FRAME_SIZE + size]

        self._pending = area(layout.pending_frame[end], LINK_PORTS)
        self._mask = area(layout.mask_frame[end], LINK_PORTS)
        self._ports = area(layout.ports_frame[end], LINK_PORTS * PORT.size).cast("Q")
        self._other_pending = area(layout.pending_frame[other], LINK_PORTS)
        self._other_mask = area(layout.mask_frame[other], LINK_PORTS)
        self._other_ports = area(layout.ports_frame[other], LINK_PORTS * PORT.size).cast("Q")
        # Ports made by the toolstack, or left by a process that served this range before.
        self._open = {port for port in ports if self._entry(self._ports, port)[0] != PortState.CLOSED}
        self.sent = dict.fromkeys(self._open, 0)
        self.received = dict.fromkeys(self._open, 0)

    @staticmethod
    def _entry(table: memoryview, port: int) -> tuple[int, int, int]:
        # One 8-byte load, as one 8-byte store wrote it: no mixture of an old and a new entry.
        value: int = table[port]
        return value & 0xFFFF, value >> 16 & 0xFFFF, value >> 32

    @staticmethod
    def _set_entry(table: memoryview, port: int, state: PortState, vector: int, remote: int) -> None:
        table[port] = state | vector << 16 | remote << 32

    def _check_own(self, port: int) -> None:
        if port not in self._open:
            raise EventError(f"port {port} is not open here")

    def _allocate(self) -> int:
        for port in self._range:
            if port not in self._open:
                self._pending[port] = 0
                self._mask[port] = 0
                self._open.add(port)
                self.sent[port] = self.received[port] = 0
                return port
        raise EventError(f"no free port in {self._range.start}..{self._range.stop - 1}")

    def alloc_unbound(self) -> int:
        """A new local port that the other end may bind to.

        :raise EventError: no port is free.
        """
        port = self._allocate()
        self._set_entry(self._ports, port, PortState.UNBOUND, self.vector, 0)
        return port

    def bind_interdomain(self, remote_port: int) -> int:
        """Bind a new local port to an unbound port of the other end.

        As in Xen the local port is pending at once, since the other end may have sent before it could be heard.

        :raise EventError: the other end's port does not exist or does not wait for us, or no local port is free.
        """
        if not 0 < remote_port < LINK_PORTS:
            raise EventError(f"cannot bind to remote port {remote_port}: ports are 1..{LINK_PORTS - 1}")
        state, vector, _ = self._entry(self._other_ports, remote_port)
        if state != PortState.UNBOUND:
            raise EventError(f"cannot bind to remote port {remote_port}: its state is {state}, not unbound")
        port = self._allocate()
        self._set_entry(self._ports, port, PortState.INTERDOMAIN, self.vector, remote_port)
        self._set_entry(self._other_ports, remote_port, PortState.INTERDOMAIN, vector, port)
        self._pending[port] = 1
        self._ring(self.wait_fd)
        return port

    def close(self, port: int) -> None:
        """Close a local port; the other end's port, if it was bound to this one, waits for a new binding.

        :raise EventError: the port is not open here.
        """
        self._check_own(port)
        state, _, remote = self._entry(self._ports, port)
        if state == PortState.INTERDOMAIN and 0 < remote < LINK_PORTS:
            other_state, vector, back = self._entry(self._other_ports, remote)
            if other_state == PortState.INTERDOMAIN and back == port:
                self._set_entry(self._other_ports, remote, PortState.UNBOUND, vector, 0)
        self._set_entry(self._ports, port, PortState.CLOSED, 0, 0)
        self._open.remove(port)
        del self.sent[port], self.received[port]

    def reset(self) -> None:
        """Begin as if nobody had served these ports before: for the successor of a process that has died.

        Ports that the predecessor left open are closed, and the other end's wait for a new binding. Those made by the
        toolstack stay bound; they are unmasked, and pending, since the predecessor may have died over their last event.
        """
        for port in sorted(self._open):
            if port in self._premade:
                self._mask[port] = 0
                self._pending[port] = 1
            else:
                self.close(port)
        self._ring(self.wait_fd)

    def status(self, port: int) -> tuple[PortState, int | None]:
        """State of a local port, and the other end's port when it is interdomain.

        :raise EventError: the entry holds a state that does not exist on a link.
        """
        state, _, remote = self._entry(self._ports, port)
        try:
            known = PortState(state)
        except ValueError:
            raise EventError(f"port {port} is in state {state}, which no link has") from None
        return known, remote if known == PortState.INTERDOMAIN else None

    def flags(self, port: int) -> tuple[bool, bool]:
        """Whether a local port is pending, and whether it is masked."""
        return bool(self._pending[port]), bool(self._mask[port])

    def send(self, port: int) -> None:
        """Raise an event at the other end of a local port. Nobody hears it while the port is unbound.

        :raise EventError: the port is closed, or the other end has overwritten the tables.
        """
        self._check_own(port)
        state, _, remote = self._entry(self._ports, port)
        if state == PortState.UNBOUND:
            return
        if state != PortState.INTERDOMAIN or not 0 < remote < LINK_PORTS:
            raise EventError(f"port {port} has been overwritten: state {state}, remote port {remote}")
        vector = self._entry(self._other_ports, remote)[1]
        if vector >= len(self._ring_fds):
            raise EventError(f"remote port {remote} wants vector {vector}, its end has {len(self._ring_fds)}")
        # Whatever was written for the other end to see must be visible before the event, and the event before we
        # look at the mask: its owner clears that first and looks at the event then.
        self.sent[port] += 1
        fence()
        self._other_pending[remote] = 1
        fence()
        if not self._other_mask[remote]:
            # Always, and not only when the event is new: a doorbell is lost while the guest has MSI-X off.
            self._ring(self._ring_fds[vector])

    @staticmethod
    def _ring(descriptor: int) -> None:
        # A counter at its limit refuses more, and has long been rung.
        with suppress(BlockingIOError):
            os.eventfd_write(descriptor, 1)

    def mask(self, port: int) -> None:
        """Stop a local port from waking us; its events stay pending.

        :raise EventError: the port is not open here.
        """
        self._check_own(port)
        self._mask[port] = 1

    def unmask(self, port: int) -> None:
        """Let a local port wake us again, at once if it is pending.

        :raise EventError: the port is not open here.
        """
        self._check_own(port)
        self._mask[port] = 0
        fence()
        if self._pending[port]:
            self._ring(self.wait_fd)

    def acknowledge(self) -> None:
        """Make ``wait_fd`` unreadable; look for pending ports after that, never before."""
        with suppress(BlockingIOError):
            os.eventfd_read(self.wait_fd)

    def pending(self) -> list[int]:
        """Clear and return the pending ports of this process that are not masked, lowest first.

        Work that was announced by these events is visible once this has returned.
        """
        pending, mask = self._pending, self._mask
        found = [port for port in self._open if pending[port] and not mask[port]]
        if found:
            found.sort()
            for port in found:
                pending[port] = 0
                self.received[port] += 1
            fence()
        return found

    @property
    def open_ports(self) -> frozenset[int]:
        """The local ports of this process that are not closed."""
        return frozenset(self._open)
