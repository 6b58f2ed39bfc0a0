"""The backend process of a domain as its owner has it: what goes to whichever process does the work just now."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterable, Sequence
from concurrent.futures import Future
from pathlib import Path

from harness.backend.keeper import Keeper
from harness.backend.launch import start_backend
from harness.backend.locks import LockSender
from harness.domain import records
from harness.domain.leases import Lease
from harness.domain.records import Record
from harness.host.closing import Closing
from harness.host.errors import HostError
from harness.host.process import Child
from harness.hypervisor.link import Link


class BackendProcess(Closing):
    """A process that serves a domain's devices; when it dies, another one goes on.

    :param record: of the domain; always has the process ID of the present one.
    :param module: what Python runs as the process.
    :param log: its log.
    :param consoles: descriptors of the domain's consoles, which the caller keeps open.
    :param leases: on the images of its disks.
    :raise HarnessError: it cannot be started.

    :ivar failure: gets the reason when there is no process any more, and no hope.
    """

    def __init__(
        self, link: Link, record: Record, *, module: str, log: Path, consoles: Sequence[int], leases: Iterable[Lease]
    ) -> None:
        self._link = link
        self._record = record
        self._module = module
        self._log = log
        self._consoles = consoles
        self._lock = threading.Lock()
        self._leases = {str(lease.path): lease for lease in leases}
        self._locks: LockSender | None = None
        self.failure: Future[HostError] = Future()
        self._keeper: Keeper | None = self._keep()

    def _keep(self) -> Keeper:
        keeper = Keeper(self._start, self._restarted)
        keeper.failure.add_done_callback(lambda known: self.failure.set_result(known.result()))
        self._record.pids["backend"] = keeper.first.pid
        return keeper

    def suspend(self) -> None:
        """End the process, until :meth:`resume` starts another one: what it has not answered, the next one is asked."""
        if self._keeper is not None:
            self._keeper.close()
            self._keeper = None

    def resume(self) -> None:
        """Have a process again after :meth:`suspend`.

        :raise HarnessError: it cannot be started.
        """
        if self._keeper is None:
            self._keeper = self._keep()
            self._record.write()

    def hold(self, lease: Lease) -> None:
        """Have this process, and those that follow it, keep an image locked; before it is to open the image."""
        with self._lock:
            self._leases[str(lease.path)] = lease
            if self._locks is not None:
                self._locks.hold(str(lease.path), lease.descriptors)

    def release(self, lease: Lease) -> None:
        """Undo :meth:`hold`, after it has closed the image.

        :raise DeadlineExpired: the process does not answer.
        """
        with self._lock:
            if self._leases.pop(str(lease.path), None) is not None and self._locks is not None:
                self._locks.release(str(lease.path))

    def observe(self, word: bytes) -> socket.socket:
        """A stream that the process answers on, see :mod:`harness.backend.observe`; it ends when the process does."""
        ours, theirs = socket.socketpair()
        with theirs, self._lock:
            if self._locks is not None:
                self._locks.observe(word, theirs.fileno())
        return ours

    def _start(self) -> Child:
        with self._lock:
            self._close_locks()
            self._locks = LockSender()
            for path, lease in self._leases.items():
                self._locks.hold(path, lease.descriptors)
            child = start_backend(
                self._record.domid,
                self._link,
                module=self._module,
                log=self._log,
                console_fds=self._consoles,
                locks_fd=self._locks.theirs.fileno(),
                env=records.environment(self._record.domid),
            )
            self._locks.theirs.close()
            return child

    def _restarted(self, child: Child) -> None:
        before, self._record.pids["backend"] = self._record.pids["backend"], child.pid
        self._record.restarts += 1
        self._record.write()
        with self._log.open("a") as log:
            log.write(f"process {before} has died; process {child.pid} goes on\n")

    def _close_locks(self) -> None:
        if self._locks is not None:
            self._locks.close()
            self._locks = None

    def close(self) -> None:
        """End the process."""
        self.suspend()
        self._close_locks()
