"""Threads for what has to wait for a disk, so that one request does not hold up all others of the domain."""

from __future__ import annotations

import errno
import os
import threading
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from queue import SimpleQueue
from typing import NamedTuple

from harness.backend.loop import Loop
from harness.host.errors import HarnessError
from harness.ring.blkif import Status

MAX_THREADS = 8
"""Requests that one disk waits for at the same time."""


class _Job(NamedTuple):
    action: Callable[[], None]
    answer: Callable[[Status], None]


class Pool:
    """The threads of one disk; there are none until there is something to wait for.

    :param failed: called when an answer cannot be given.
    """

    def __init__(self, loop: Loop, failed: Callable[[HarnessError], None]) -> None:
        self._loop = loop
        self._failed = failed
        self._jobs: SimpleQueue[_Job | None] = SimpleQueue()
        self._done: deque[tuple[_Job, Status]] = deque()
        self._threads: list[threading.Thread] = []
        self._unanswered = 0
        self._bell: int | None = None

    def submit(self, action: Callable[[], None], answer: Callable[[Status], None]) -> None:
        """Have a thread do something that may raise OSError, and the loop's thread give the answer to it later."""
        if self._bell is None:
            self._bell = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
            self._loop.watch(self._bell, self._heard)
        self._unanswered += 1
        if len(self._threads) < min(self._unanswered, MAX_THREADS):
            thread = threading.Thread(target=self._serve, args=(self._bell,), name="disk", daemon=True)
            thread.start()
            self._threads.append(thread)
        self._jobs.put(_Job(action, answer))

    def _serve(self, bell: int) -> None:
        while (job := self._jobs.get()) is not None:
            status = Status.OKAY
            try:
                job.action()
            except OSError as error:
                status = Status.EOPNOTSUPP if error.errno == errno.EOPNOTSUPP else Status.ERROR
            self._done.append((job, status))
            os.eventfd_write(bell, 1)

    def _heard(self) -> None:
        if self._bell is not None:
            with suppress(BlockingIOError):
                os.eventfd_read(self._bell)
        try:
            while self._done:
                self._unanswered -= 1
                job, status = self._done.popleft()
                job.answer(status)
        except HarnessError as error:
            self._failed(error)

    def close(self) -> None:
        """Wait until everything is done, and answer it; may be called again.

        A disk that hangs holds up the domain here, as it would the domain's real machine: its memory cannot be taken
        from requests that are under way.
        """
        if self._bell is None:
            return
        for _ in self._threads:
            self._jobs.put(None)
        for thread in self._threads:
            thread.join()
        self._threads.clear()
        self._loop.forget(self._bell)
        os.close(self._bell)
        self._bell = None
        while self._done:
            job, status = self._done.popleft()
            # Nobody may want to hear it any more; what the request holds must be given back all the same.
            with suppress(HarnessError):
                job.answer(status)
        self._unanswered = 0
