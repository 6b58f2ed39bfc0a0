"""What becomes of a domain whose guest has crashed, if its definition does not want it removed."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future

from harness.host.errors import GuestError, HarnessError

DEATHS = 5
"""How often a domain may die ..."""
WITHIN_SECONDS = 120.0
"""... in so short a time. With one more there is something wrong that another start would not mend."""


class Crashes:
    """Waits for the domain to crash, from now on until it is closed, and has done what is wanted then.

    A thread of its own does this, and lives until :meth:`close`: a QEMU that is started there dies with it.

    :param wait_over: waits until the guest or its QEMU has ended, and raises GuestError if nobody wanted that.
    :param after_crash: brings the domain up again, or takes apart what is not to be kept.
    :param restart: whether it brings the domain up again.

    :ivar ended: gets how the domain ended, in words or as an error, when it is all over.
    """

    def __init__(
        self, name: str, wait_over: Callable[[], str], after_crash: Callable[[GuestError], None], *, restart: bool
    ) -> None:
        self._wait_over = wait_over
        self._after_crash = after_crash
        self._restart = restart
        self._given_up = threading.Event()
        self._closed = threading.Event()
        self.ended: Future[str] = Future()
        self._thread = threading.Thread(target=self._run, name=f"crashes of {name}", daemon=True)
        self._thread.start()

    def give_up(self) -> None:
        """A domain that is kept need not be kept any longer; whoever waits for :attr:`ended` goes on."""
        self._given_up.set()

    def close(self) -> None:
        """Do nothing more about crashes, and let what was started end; QEMU has been told to end before."""
        self._given_up.set()
        self._closed.set()
        self._thread.join()

    def _run(self) -> None:
        try:
            self.ended.set_result(self._live() if self._restart else self._keep())
        except HarnessError as error:
            self.ended.set_exception(error)
        except BaseException as error:
            self.ended.set_exception(error)
            raise
        self._closed.wait()

    def _live(self) -> str:
        """Have the domain started anew as often as it takes; says how it ended."""
        deaths: deque[float] = deque(maxlen=DEATHS)
        while True:
            try:
                return self._wait_over()
            except GuestError as error:
                self._revive(error, deaths)

    def _revive(self, error: GuestError, deaths: deque[float]) -> None:
        """Try it until the domain is ready once more, or there is no hope.

        :raise GuestError: it has died too often.
        """
        while len(deaths) < DEATHS or time.monotonic() - deaths[0] > WITHIN_SECONDS:
            deaths.append(time.monotonic())
            try:
                self._after_crash(error)
                return
            except GuestError as another:
                if self._given_up.is_set():
                    raise
                error = another
        raise error

    def _keep(self) -> str:
        """Keep what is left of the domain when it crashes, until that is wanted no more."""
        try:
            return self._wait_over()
        except GuestError as error:
            self._after_crash(error)
            self._given_up.wait()
            raise
