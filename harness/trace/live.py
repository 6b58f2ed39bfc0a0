"""A trace of a running domain, as it happens: from its backend process, its guest and XenStore.

Each source has a thread that waits for it, and a short queue: when nobody takes events, the sources fill up, drop
events and say how many. The domain never waits.
"""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from queue import Empty, Queue
from types import TracebackType
from typing import Self

from harness.backend import observe
from harness.backend.trace import Reader
from harness.bus.devices import backend_directory
from harness.bus.xenbus import XenbusState
from harness.domain import rings
from harness.domain.remote import RemoteDomain
from harness.guest.tracefs import parse_line
from harness.host.deadline import Deadline
from harness.host.errors import GuestError, HarnessError, UsageError
from harness.store.client import StoreClient
from harness.store.errors import StoreError
from harness.store.paths import home
from harness.trace.clocks import Clocks, Offset, host_time
from harness.trace.events import GUEST, HOST, Event, of_line, of_record

CHUNK = 64 << 10
PENDING = 64
"""Pieces of events that wait to be taken."""
HOLD = 400_000_000
"""Nanoseconds that events are held back, so that those of the guest, which come late, find their place."""
KNOWN = 0.2
"""Seconds for which what is known of the clocks is good enough."""
LONG = 7 * 86400.0
KINDS = ("vbd", "vif", "console")


class Live:
    """The events of a running domain. Use it as a context manager: the trace ends with it.

    :param device: such as ``vbd/51712``: leave out what is about others.
    :raise UsageError: it has no rings, or no such device, or is being traced already.

    :ivar devices: that it has.
    """

    def __init__(self, domain: RemoteDomain, device: str | None = None) -> None:
        self._domid = domain.record.domid
        state = rings.look(domain)
        self.devices = sorted({ring["name"].rpartition("/")[0] for ring in state["rings"]})
        if device is not None and device not in self.devices:
            raise UsageError(f"domain {domain.name} has no device {device}", hint=f"it has {', '.join(self.devices)}")
        self._wanted = _Filter(device, self._domid, state) if device else None
        self._queue: Queue[list[Event] | HarnessError | None] = Queue(PENDING)
        self._clocks = Clocks()
        self._offset: Offset | None = None
        self._known_at = 0.0
        self._held: list[Event] = []
        self._ended = False
        self._stack = ExitStack()
        try:
            self._backend = self._opened(domain.observe(observe.TRACE))
            self._guest = self._opened(domain.open_guest_trace())
            self._store = self._stack.enter_context(StoreClient.connect())
            for source in (self._follow_backend, self._follow_guest, self._follow_store):
                threading.Thread(target=self._run, args=(source,), daemon=True).start()
        except BaseException:
            self._stack.close()
            raise

    def _opened(self, stream: socket.socket) -> socket.socket:
        self._stack.callback(stream.close)
        # Who waits for it in another thread does not see that it was closed, but sees this.
        self._stack.callback(_shut_down, stream)
        return stream

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ended = True
        self._stack.close()

    @property
    def offset(self) -> Offset:
        """How the clocks are to each other, as far as that was known a moment ago."""
        now = time.monotonic()
        if self._offset is None or now - self._known_at > KNOWN:
            self._offset, self._known_at = self._clocks.offset(), now
        return self._offset or Offset()

    def batches(self, seconds: float = LONG) -> Iterator[list[Event]]:
        """The events by the host's clock, for so long or until the domain ends; a list now and then, maybe empty.

        :raise HarnessError: the trace cannot go on.
        """
        deadline = Deadline(seconds, "the end of the trace")
        while not deadline.expired:
            with suppress(Empty):
                events = self._queue.get(timeout=min(deadline.left, HOLD / 2e9))
                if events is None:
                    break
                if isinstance(events, HarnessError):
                    raise events
                self._take(events)
            yield self._release(time.monotonic_ns() - HOLD)
        # What was on its way.
        while deadline.expired and not self._queue.empty():
            events = self._queue.get()
            if isinstance(events, list):
                self._take(events)
        yield self._release(None)

    def _take(self, events: list[Event]) -> None:
        for event in events:
            self._clocks.add(event)
        self._held += events if self._wanted is None else filter(self._wanted, events)

    def _release(self, until: int | None) -> list[Event]:
        offset = self.offset
        self._held.sort(key=lambda event: (host_time(event, offset), event.what != "submitted"))
        count = len(self._held)
        if until is not None:
            count = sum(host_time(event, offset) <= until for event in self._held)
        released, self._held = self._held[:count], self._held[count:]
        return released

    # ---- sources, each in a thread of its own ----

    def _run(self, source: Callable[[], None]) -> None:
        try:
            source()
            end = None
        except HarnessError as error:
            end = error
        except (OSError, ValueError) as error:
            end = GuestError(f"the trace of domain {self._domid} cannot go on: {error}")
        if not self._ended:
            self._queue.put(end)

    def _follow_backend(self) -> None:
        reader, begun = Reader(), False
        while data := self._backend.recv(CHUNK):
            begun = True
            self._queue.put([of_record(record) for record in reader.records(data)])
        if not begun:
            raise UsageError(f"domain {self._domid} is being traced already")

    def _follow_guest(self) -> None:
        rest = b""
        while data := self._guest.recv(CHUNK):
            now = time.monotonic_ns()
            *lines, rest = (rest + data).split(b"\n")
            events = []
            for line in filter(None, lines):
                parsed = parse_line(line.decode("ascii", "replace"))
                events.append(Event(now, HOST, "lost", count=parsed) if isinstance(parsed, int) else of_line(parsed))
            last = next((event.time for event in reversed(events) if event.clock == GUEST), None)
            if last is not None:
                self._clocks.arrived(last, now)
            self._queue.put(events)

    def _follow_store(self) -> None:
        """Changes of state at either end of a device."""
        for kind in KINDS:
            self._store.watch(backend_directory(kind, self._domid), "")
            self._store.watch(f"{home(self._domid)}/device/{kind}", "")
        states: dict[str, bytes | None] = {}
        while True:
            path, _ = self._store.read_event(Deadline(LONG, "a change in XenStore"))
            if not path.endswith("/state"):
                continue
            with suppress(StoreError):
                states[path], before = (value := self._store.read(path)), states.get(path)
                if value != before:
                    text = f"{path} = {value.decode('ascii', 'replace')[:8]}{_state_name(value)}"
                    self._queue.put([Event(time.monotonic_ns(), HOST, "state", text=text)])


class _Filter:
    """Tells which events are about a device, or about no device at all.

    :param state: of the domain's rings, which say what ports they have.
    """

    def __init__(self, device: str, domid: int, state: rings.Fields) -> None:
        kind, _, number = device.partition("/")
        channels = [ring["channel"] for ring in state["rings"] if ring["name"].startswith(f"{device}/")]
        self._rings = f"{device}/"
        self._poller = f"{kind}-{domid}-{number}-"
        self._nodes = (f"/{kind}/{domid}/{number}/", f"/device/{device}/")
        self._ports = {
            HOST: {channel["port"] for channel in channels},
            GUEST: {channel["remote_port"] for channel in channels},
        }

    def __call__(self, event: Event) -> bool:
        if event.ring:
            return event.ring.startswith(self._rings)
        if event.port is not None:
            # Backend processes are on the link to Domain 0.
            return event.port in self._ports[event.clock] and not event.domid
        if event.what == "poll":
            return (event.text or "").startswith(self._poller)
        return event.what != "state" or any(node in (event.text or "") for node in self._nodes)


def _state_name(value: bytes) -> str:
    try:
        name = XenbusState(int(value)).name.title().replace("_", "")
        return f" ({name})"
    except ValueError:
        return ""


def _shut_down(stream: socket.socket) -> None:
    with suppress(OSError):
        stream.shutdown(socket.SHUT_RDWR)
