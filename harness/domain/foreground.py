"""A domain whose owner sits at its console: brought up and watched while the console is copied to a stream."""

from __future__ import annotations

import asyncio
import socket
import threading
from contextlib import suppress

from harness.domain.control import serve_console
from harness.domain.domain import Domain
from harness.host.closing import Closing
from harness.host.errors import GuestGone, HarnessError
from harness.machine import loop

LAST_WORDS_SECONDS = 1.0
"""What the console gets to say its last after the domain has ended or failed."""


class Foreground(Closing):
    """A launched domain and its console.

    :param paravirtual: take the console that is a split driver, not the first serial port.
    :param patient: what is typed before the guest is ready waits until it is; for input that nobody types, since
        a guest that boots throws away what comes too early.
    :ivar console: a stream, which ends when the domain ends or fails; see :meth:`end` for which.
    """

    def __init__(self, domain: Domain, *, paravirtual: bool, patient: bool) -> None:
        self._domain = domain
        self._log = domain.pv_console if paravirtual else domain.console
        self._typing = asyncio.Event()
        self._how: str | HarnessError = f"domain {domain.name} is being watched"
        self.console, self._far_end = socket.socketpair()
        if not patient:
            self._typing.set()
        self._served = asyncio.run_coroutine_threadsafe(self._serve(), loop.get())
        self._watcher = threading.Thread(target=self._watch, name=f"watcher of {domain.name}", daemon=True)
        self._watcher.start()

    def end(self) -> str:
        """Wait for the domain to end, and say in words how it did.

        :raise HarnessError: it did not come up, crashed, or lost a helper.
        """
        self._watcher.join()
        if isinstance(self._how, HarnessError):
            raise self._how
        return self._how

    def close(self) -> None:
        """Leave the console."""
        self.console.close()

    async def _serve(self) -> None:
        with self._far_end:
            await serve_console(self._log, self._far_end, typing=self._typing)

    def _watch(self) -> None:
        try:
            # A guest that is gone may have been meant to go: the end will tell.
            with suppress(GuestGone):
                self._domain.wait_ready()
            loop.get().call_soon_threadsafe(self._typing.set)
            self._how = self._domain.wait_end()
        except HarnessError as error:
            self._how = error
        with suppress(TimeoutError):
            self._served.result(LAST_WORDS_SECONDS)
        self._served.cancel()
