"""The event loop of a backend process: polls rings while that pays, and sleeps when it does not.

Waking a sleeping process costs more than most requests take to serve (hundreds of microseconds on a virtual host), so
after the last work the rings are polled for a while before their event indices are set and the process sleeps. How
long is learnt: a poll that found work doubles the time, one that did not halves it, down to none for a guest that
sends something now and then.

Who polls on a processor that others want, too, is made to wait there when work does come, while a process that slept
would be let in at once. So a loss of the processor ends a poll, and when much is lost there are no polls for a while,
the longer the more often it happens.

An end that rings for nothing, over and over, is not listened to for some milliseconds at a time.
"""

from __future__ import annotations

import os
import select
import time
from collections.abc import Callable
from math import inf
from typing import NoReturn, Protocol

from harness.backend.trace import Trace
from harness.bus.features import Notification
from harness.host.errors import HarnessError
from harness.hypervisor.events import EventChannels

POLL_MAX = 200e-6
POLL_START = 100e-6
"""Seconds to poll after having slept so shortly that polling would have been better."""
POLL_MIN = 20e-6
SHORT_SLEEP = 2e-3
ROUNDS_PER_SCAN = 8
"""Descriptors are looked at only in each so-manieth round over the rings: that is a system call."""

GAP = 100e-6
"""Seconds between two looks at idle rings after which somebody else must have had the processor."""
LOSS_WINDOW = 25e-3
LOSS_MAX = 5e-3
"""Seconds that may be lost in such a window before polling is given up: more than one slice of a scheduler's time."""
PAUSES = (50e-3, 2.0)
"""Seconds without polling: the first time, and at most."""
SOON = 100e-3
"""Seconds within which a competitor that was there before such a pause shows itself after it."""

FUTILE_MAX = 16
"""Doorbells without work, in a row, after which they are not listened to for a while."""
DEAF = 5e-3
"""Seconds for that: what costs some ten microseconds each is left at that rate."""

SAFETY_CHECKS = (1e-3, 50e-3)
"""Seconds of the first sleeps after work.

A guest's missing fence (TCG emits none for one vCPU) can cost a notification in the instant when we go to sleep, but
never later: so look again after these, and sleep for as long as it takes then.
"""

LEVEL = select.EPOLLIN
EDGE = select.EPOLLIN | select.EPOLLOUT | select.EPOLLET


class Worker(Protocol):
    """A connected device, or one of its rings."""

    notification: Notification
    """How it learns of work."""

    def work(self) -> bool:
        """Do what can be done now, within bounds; True when there was something.

        :raise HarnessError: it cannot go on.
        """

    def arm(self) -> bool:
        """Ask the guest for a notification of new work; True when there is some already.

        :raise HarnessError: it cannot go on.
        """


Failed = Callable[[HarnessError], None]
Workers = tuple[tuple[Worker, Failed], ...]


class Patience:
    """How long it pays to poll.

    :ivar time: seconds to poll after the last work.
    """

    def __init__(self) -> None:
        self.time = 0.0
        self._paused_until = 0.0
        self._pause = PAUSES[0]
        self._loss = self._loss_since = 0.0

    def slept_shortly(self, now: float) -> None:
        """There was work after a sleep so short that polling would have been better."""
        if now >= self._paused_until:
            self.time = max(self.time, POLL_START)

    def polled(self, *, found: bool) -> None:
        """A poll has come to its end."""
        if found:
            self.time = min(POLL_MAX, self.time * 2)
        else:
            self.time = self.time / 2 if self.time > POLL_MIN else 0.0

    def lost(self, now: float, seconds: float) -> None:
        """Somebody else had the processor while we wanted to poll."""
        if now - self._loss_since > LOSS_WINDOW:
            self._loss, self._loss_since = 0.0, now
        self._loss += seconds
        if self._loss > LOSS_MAX:
            again = now - self._paused_until < SOON
            self._pause = min(self._pause * 2, PAUSES[1]) if again else PAUSES[0]
            self._paused_until = now + self._pause
            self.time = 0.0


class Loop:
    """Serves workers and descriptors.

    :param events: the event channels; their doorbell ends a sleep, which port it was for does not matter.
    :ivar trace: who is told of what happens, while somebody wants to know.
    """

    def __init__(self, events: EventChannels) -> None:
        self.trace: Trace | None = None
        self._events = events
        self._epoll = select.epoll()
        self._callbacks: dict[int, Callable[[], None]] = {}
        self._polled: Workers = ()
        self._armed: Workers = ()
        """Those that are armed after each work, and looked at when something has happened."""
        self._always = False
        self._happened = False
        self._patience = Patience()
        self._slept = inf
        self._rung = False
        self._futile = 0
        self.watch(events.wait_fd, self._heard)

    def watch(self, descriptor: int, callback: Callable[[], None], mask: int = LEVEL) -> None:
        """Call back when a descriptor is ready (``LEVEL``: readable; ``EDGE``: has become readable or writable)."""
        self._callbacks[descriptor] = callback
        self._epoll.register(descriptor, mask)

    def forget(self, descriptor: int) -> None:
        """Watch a descriptor no longer; before it is closed."""
        del self._callbacks[descriptor]
        self._epoll.unregister(descriptor)

    def add(self, worker: Worker, failed: Failed) -> None:
        """Serve a worker; ``failed`` is called when it cannot go on, and removes it."""
        if self.trace is not None:
            self.trace.follow(worker)
        if worker.notification == Notification.EVENT:
            self._armed = (*self._armed, (worker, failed))
            self._happened = True
        else:
            self._set_polled((*self._polled, (worker, failed)))

    @property
    def workers(self) -> list[Worker]:
        return [worker for worker, _ in (*self._polled, *self._armed)]

    def remove(self, worker: Worker) -> None:
        self._armed = tuple(pair for pair in self._armed if pair[0] is not worker)
        self._set_polled(tuple(pair for pair in self._polled if pair[0] is not worker))

    def _set_polled(self, workers: Workers) -> None:
        self._polled = workers
        self._always = any(worker.notification == Notification.POLL for worker, _ in workers)

    def run(self) -> NoReturn:
        """Serve until a callback raises."""
        while True:
            worked = self._poll()
            # Some doorbells announce what a poll has found already. So many in a row do not.
            self._futile = self._futile + 1 if self._rung and not worked else 0
            self._rung = False
            if not self._arm():
                self._sleep()

    def _poll(self) -> bool:
        """Work for as long as there is something, or may be soon; True when there was."""
        clock, patience = time.monotonic, self._patience
        quiet_since = before = clock()
        rounds = worked = found = 0
        while True:
            busy = self._work()
            rounds += 1
            if rounds % ROUNDS_PER_SCAN == 0 and self._dispatch(0):
                busy = True
            now = clock()
            if busy:
                worked += 1
                if rounds > 1:
                    found += 1
                elif self._slept < SHORT_SLEEP:
                    patience.slept_shortly(now)
                quiet_since = before = now
                continue
            if not self._always:
                if now - before > GAP:
                    patience.lost(now, now - before)
                    break
                if not self._polled or now - quiet_since >= patience.time:
                    break
            before = now
            os.sched_yield()
        patience.polled(found=found > 0)
        return worked > 0

    def _work(self) -> bool:
        busy = False
        for worker, failed in self._polled:
            try:
                if worker.work():
                    busy = True
            except HarnessError as error:
                failed(error)
                # That may have removed others of this round, too.
                return True
        return self._work_armed() or busy if self._happened else busy

    def _work_armed(self) -> bool:
        """Have those work that wait for events, once, and ask for the next one; what is left is for the next round."""
        self._happened = False
        busy = False
        for worker, failed in self._armed:
            try:
                if worker.work():
                    busy = True
                if worker.arm():
                    self._happened = True
            except HarnessError as error:
                self._happened = True
                failed(error)
                return True
        return busy

    def _arm(self) -> bool:
        busy = self._happened
        for worker, failed in self._polled:
            try:
                if worker.arm():
                    busy = True
            except HarnessError as error:
                failed(error)
                return True
        return busy

    def _sleep(self) -> None:
        started = time.monotonic()
        if self.trace is not None:
            self.trace.sleeps()
        if self._futile > FUTILE_MAX:
            self._be_deaf()
        else:
            self._listen()
        self._slept = time.monotonic() - started
        if self.trace is not None:
            self.trace.wakes()

    def _listen(self) -> None:
        for limit in SAFETY_CHECKS:
            if self._dispatch(limit) or self._rung:
                return
            self._happened = True
            if self._work():
                return
        self._dispatch(None)

    def _be_deaf(self) -> None:
        """Sleep for a while, or until something other than the doorbell ends it; then hear whether that still rings."""
        self._epoll.modify(self._events.wait_fd, 0)
        self._dispatch(DEAF)
        self._epoll.modify(self._events.wait_fd, LEVEL)
        self._dispatch(0)

    def _dispatch(self, limit: float | None) -> bool:
        """Call back what is ready within so many seconds; True when that was more than the doorbell."""
        more = False
        for descriptor, _ in self._epoll.poll(limit):
            # An earlier callback of this very round may have closed it.
            callback = self._callbacks.get(descriptor)
            if callback is not None:
                callback()
            more = more or descriptor != self._events.wait_fd
        self._happened = self._happened or more
        return more

    def _heard(self) -> None:
        self._rung = self._happened = True
        self._events.acknowledge()
        ports = self._events.pending()
        if self.trace is not None:
            self.trace.heard(ports)
