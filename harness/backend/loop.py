"""The event loop of a backend process: polls rings while that pays, and sleeps when it does not.

Waking a sleeping process costs more than most requests take to serve (hundreds of microseconds on a virtual host), so
after the last work the rings are polled for a while before their event indices are set and the process sleeps. How
long is learnt: a poll that found work doubles the time, one that did not halves it, down to none for a guest that
sends something now and then. A poll ends at once when somebody else turns out to want this core.
"""

from __future__ import annotations

import os
import select
import time
from collections.abc import Callable
from typing import NoReturn, Protocol

from harness.host.errors import HarnessError
from harness.hypervisor.events import EventChannels

POLL_MAX = 200e-6
POLL_START = 100e-6
"""Seconds to poll after having slept so shortly that polling would have been better."""
POLL_MIN = 20e-6
SHORT_SLEEP = 2e-3
YIELD_LIMIT = 100e-6
"""Seconds after which a sched_yield must have let somebody else run."""
ROUNDS_PER_SCAN = 8
"""Descriptors are looked at only in each so-manieth round over the rings: that is a system call."""

SAFETY_CHECKS = (1e-3, 50e-3)
"""Seconds of the first sleeps after work.

A guest's missing fence (TCG emits none for one vCPU) can cost a notification in the instant when we go to sleep, but
never later: so look again after these, and sleep for as long as it takes then.
"""

LEVEL = select.EPOLLIN
EDGE = select.EPOLLIN | select.EPOLLOUT | select.EPOLLET


class Worker(Protocol):
    """A connected device."""

    def work(self) -> bool:
        """Do what can be done now, within bounds; True when there was something.

        :raise HarnessError: it cannot go on.
        """

    def arm(self) -> bool:
        """Ask the guest for a notification of new work; True when there is some already.

        :raise HarnessError: it cannot go on.
        """


Failed = Callable[[HarnessError], None]


class Loop:
    """Serves workers and descriptors.

    :param events: the event channels; their doorbell ends a sleep, which port it was for does not matter.
    """

    def __init__(self, events: EventChannels) -> None:
        self._events = events
        self._epoll = select.epoll()
        self._callbacks: dict[int, Callable[[], None]] = {}
        self._workers: tuple[tuple[Worker, Failed], ...] = ()
        self._poll_time = 0.0
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
        self._workers = (*self._workers, (worker, failed))

    def remove(self, worker: Worker) -> None:
        self._workers = tuple(pair for pair in self._workers if pair[0] is not worker)

    def run(self) -> NoReturn:
        """Serve until a callback raises."""
        while True:
            self._poll()
            if not self._arm():
                self._sleep()

    def _poll(self) -> None:
        clock = time.monotonic
        quiet_since = clock()
        found = False
        rounds = 0
        while True:
            busy = self._work()
            rounds += 1
            if rounds % ROUNDS_PER_SCAN == 0 and self._dispatch(0):
                busy = True
            now = clock()
            if busy:
                found = found or rounds > 1
                quiet_since = now
                continue
            if now - quiet_since >= self._poll_time:
                break
            os.sched_yield()
            if clock() - now > YIELD_LIMIT:
                break
        if found:
            self._poll_time = min(POLL_MAX, self._poll_time * 2)
        else:
            self._poll_time = self._poll_time / 2 if self._poll_time > POLL_MIN else 0.0

    def _work(self) -> bool:
        busy = False
        for worker, failed in self._workers:
            try:
                if worker.work():
                    busy = True
            except HarnessError as error:
                failed(error)
                # That may have removed others of this round, too.
                return True
        return busy

    def _arm(self) -> bool:
        busy = False
        for worker, failed in self._workers:
            try:
                if worker.arm():
                    busy = True
            except HarnessError as error:
                failed(error)
                return True
        return busy

    def _sleep(self) -> None:
        started = time.monotonic()
        for limit in SAFETY_CHECKS:
            if self._dispatch(limit) or self._work():
                break
        else:
            self._dispatch(None)
        if time.monotonic() - started < SHORT_SLEEP:
            self._poll_time = max(self._poll_time, POLL_START)

    def _dispatch(self, limit: float | None) -> bool:
        ready = self._epoll.poll(limit)
        for descriptor, _ in ready:
            # An earlier callback of this very round may have closed it.
            callback = self._callbacks.get(descriptor)
            if callback is not None:
                callback()
        return bool(ready)

    def _heard(self) -> None:
        self._events.acknowledge()
        self._events.pending()
