"""Keeps a domain's backend process running: another one takes the place of one that dies."""

from __future__ import annotations

import os
import select
import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future

from harness.host.errors import HarnessError, HostError
from harness.host.process import Child

DEATHS = 20
"""How many processes of one domain may die ..."""
WITHIN_SECONDS = 30.0
"""... in so short a time. With one more there is something wrong that another process would not mend."""


class Keeper:
    """Runs a process from now on until it is closed.

    A thread of its own starts the process, and each of its successors: their death signal is tied to that thread.

    :param start: starts a process.
    :param restarted: is told of each successor, in the keeper's thread.
    :raise HarnessError: the first process cannot be started.

    :ivar failure: gets the error that says why there is no process any more, if it comes to that.
    """

    def __init__(self, start: Callable[[], Child], restarted: Callable[[Child], None]) -> None:
        self._start = start
        self._restarted = restarted
        self._stop = os.eventfd(0, os.EFD_CLOEXEC)
        self._first: Future[Child] = Future()
        self.failure: Future[HostError] = Future()
        self._thread = threading.Thread(target=self._run, name="keeper of a backend", daemon=True)
        self._thread.start()
        try:
            self.first = self._first.result()
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """End the process; there will be no other."""
        os.eventfd_write(self._stop, 1)
        self._thread.join()
        os.close(self._stop)

    def _run(self) -> None:
        try:
            child = self._start()
        except BaseException as error:
            self._first.set_exception(error)
            return
        self._first.set_result(child)
        deaths: deque[float] = deque(maxlen=DEATHS)
        try:
            while self._has_died(child):
                if len(deaths) == DEATHS and time.monotonic() - deaths[0] < WITHIN_SECONDS:
                    raise child.error(
                        f"{child.name} ended unexpectedly, as did {DEATHS} before it in {WITHIN_SECONDS:g} s",
                        hint=f"why, is in {child.log}",
                    )
                deaths.append(time.monotonic())
                child = self._start()
                self._restarted(child)
        except HarnessError as error:
            self.failure.set_result(HostError(error.what, hint=error.hint))
        except OSError as error:
            self.failure.set_result(HostError(f"{child.name} ended unexpectedly and cannot be started again: {error}"))
        finally:
            child.stop()

    def _has_died(self, child: Child) -> bool:
        """Wait until the process has ended; False when it is we who want the end."""
        ended = child.pidfd()
        try:
            poll = select.poll()
            for descriptor in (ended, self._stop):
                poll.register(descriptor, select.POLLIN)
            return self._stop not in {descriptor for descriptor, _ in poll.poll()}
        finally:
            os.close(ended)
