"""A guest's console: logged with time stamps, searched, watched for kernel trouble, shared by whoever looks on."""

from __future__ import annotations

import asyncio
import codecs
import contextlib
import re
import socket
import time
from collections import deque
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path

from harness.guest.oops import OopsDetector, Trouble
from harness.guest.text import printable
from harness.host.deadline import Deadline
from harness.host.errors import GuestCrashed, GuestError, GuestGone, GuestSilent

MAX_LINE = 4096
MAX_LOG = 64 << 20
KEPT_LINES = 500
SHOWN_LINES = 25
MAX_WARNINGS = 50
_REPORT_SECONDS = 1.0
_CHUNK = 65536
_VIEWER_CHUNKS = 256


class Viewer:
    """Somebody who sees the console's raw bytes from now on. Who is too slow misses some, and holds up nobody."""

    def __init__(self) -> None:
        self._chunks: deque[bytes] = deque(maxlen=_VIEWER_CHUNKS)
        self._news = asyncio.Event()
        self._ended = False

    def put(self, data: bytes) -> None:
        self._chunks.append(data)
        self._news.set()

    def end(self) -> None:
        self._ended = True
        self._news.set()

    async def __aiter__(self) -> AsyncIterator[bytes]:
        """Chunks of raw bytes, up to the end of the console."""
        while True:
            await self._news.wait()
            self._news.clear()
            while self._chunks:
                yield self._chunks.popleft()
            if self._ended:
                return


@dataclass(eq=False, slots=True)
class _Waiter:
    """Somebody who waits for a line."""

    pattern: re.Pattern[str]
    found: asyncio.Future[re.Match[str]]

    def look_at(self, line: str) -> None:
        if not self.found.done() and (match := self.pattern.search(line)):
            self.found.set_result(match)

    def give_up(self, error: GuestError) -> None:
        if not self.found.done():
            self.found.set_exception(error)


class ConsoleLog:
    """What a guest prints, from a connected socket or fed by hand; belongs to one event loop.

    Make it inside the loop.

    :param log: the file that every line is appended to, after the seconds since this was made.
    :param boots: see ``OopsDetector``.
    """

    def __init__(self, log: Path, *, boots: int = 1) -> None:
        self.log = log
        self.warnings: list[Trouble] = []
        self._file = log.open("a", encoding="utf-8", buffering=1)
        self._file_room = MAX_LOG
        self._started = time.monotonic()
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
        self._partial = ""
        self._partial_since = 0.0
        self._kept: deque[str] = deque(maxlen=KEPT_LINES)
        self._count = 0
        self._detector = OopsDetector(boots)
        self._trouble: asyncio.Future[Trouble] = asyncio.get_running_loop().create_future()
        self._report_timer: asyncio.TimerHandle | None = None
        self._viewers: set[Viewer] = set()
        self._waiters: set[_Waiter] = set()
        self._ended = False
        self._sock: socket.socket | None = None

    # What comes in

    async def run(self, sock: socket.socket) -> None:
        """Take in what a connected socket gives, up to its end; then nothing more is waited for in vain."""
        sock.setblocking(False)
        self._sock = sock
        loop = asyncio.get_running_loop()
        try:
            # A reset connection is an end like any other: QEMU was killed.
            with contextlib.suppress(ConnectionError):
                while data := await loop.sock_recv(sock, _CHUNK):
                    self.feed(data)
        finally:
            self._sock = None
            self.close()

    async def write(self, data: bytes) -> None:
        """Type something on the console.

        :raise GuestGone: nobody is connected to it.
        """
        if self._sock is None:
            raise GuestGone("the guest's console is closed", console=self.last_lines())
        try:
            await asyncio.get_running_loop().sock_sendall(self._sock, data)
        except ConnectionError as error:
            raise GuestGone("the guest's console is closed", console=self.last_lines()) from error

    def feed(self, data: bytes) -> None:
        """Take in some bytes; what comes after the end is lost."""
        if self._ended:
            return
        for viewer in self._viewers:
            viewer.put(data)
        if not self._partial:
            self._partial_since = self._elapsed()
        *complete, self._partial = (self._partial + self._decoder.decode(data)).split("\n")
        for line in complete:
            for start in range(0, max(len(line), 1), MAX_LINE):
                self._take_line(line[start : start + MAX_LINE])
        while len(self._partial) > MAX_LINE:
            self._take_line(self._partial[:MAX_LINE])
            self._partial = self._partial[MAX_LINE:]
        if self._waiters:
            self._show_waiters(printable(self._partial))

    def close(self) -> None:
        """Nothing more will come. A report that was being collected is complete with what is there."""
        if self._ended:
            return
        self._ended = True
        if self._partial:
            self._take_line(self._partial)
            self._partial = ""
        self._finish_report()
        self._file.close()
        for viewer in self._viewers:
            viewer.end()
        self._disappoint_waiters()

    def _elapsed(self) -> float:
        return time.monotonic() - self._started

    def _take_line(self, raw: str) -> None:
        # What follows a carriage return is at the start of a line, too.
        for part in raw.strip("\r").split("\r"):
            line = printable(part)
            self._kept.append(line)
            self._count += 1
            self._write_log(line)
            self._look_for_trouble(line)
            self._show_waiters(line)
        self._partial_since = self._elapsed()

    def _show_waiters(self, line: str) -> None:
        for waiter in self._waiters:
            waiter.look_at(line)

    def _write_log(self, line: str) -> None:
        if self._file_room <= 0:
            return
        entry = f"[{self._partial_since:10.3f}] {line}\n"
        self._file_room -= len(entry)
        self._file.write(entry if self._file_room > 0 else "(the log ends here: it is full)\n")

    # Kernel trouble

    def _look_for_trouble(self, line: str) -> None:
        was_collecting = self._detector.collecting
        complete = self._detector.feed(line)
        if complete is not None:
            self._publish(complete)
        elif self._detector.collecting and not was_collecting and not self._ended:
            self._report_timer = asyncio.get_running_loop().call_later(_REPORT_SECONDS, self._finish_report)

    def _finish_report(self) -> None:
        complete = self._detector.finish()
        if complete is not None:
            self._publish(complete)

    def _publish(self, trouble: Trouble) -> None:
        if self._report_timer is not None:
            self._report_timer.cancel()
            self._report_timer = None
        if not trouble.kind.fatal:
            if len(self.warnings) < MAX_WARNINGS:
                self.warnings.append(trouble)
        elif not self._trouble.done():
            self._trouble.set_result(trouble)
            self._disappoint_waiters()

    def expect_boot(self) -> None:
        """The guest is about to be rebooted on purpose."""
        self._detector.expect_boot()

    @property
    def crash(self) -> GuestCrashed | None:
        """The first fatal trouble as an error, None while the kernel is well."""
        if not self._trouble.done():
            return None
        trouble = self._trouble.result()
        return GuestCrashed(
            f"the guest's kernel {trouble.kind.value}: {trouble.headline}",
            console=trouble.lines,
            hint=f"the whole console is in {self.log}",
        )

    async def crashed(self) -> GuestCrashed:
        """Wait, perhaps for ever, for the kernel to get into fatal trouble."""
        await asyncio.shield(self._trouble)
        crash = self.crash
        if crash is None:
            raise asyncio.InvalidStateError("a crash without a report")
        return crash

    # What is looked at

    @property
    def position(self) -> int:
        """The number of the line that is being printed now; ``wait_for`` can start there."""
        return self._count

    def last_lines(self, count: int = SHOWN_LINES) -> list[str]:
        """The end of the console, harmless to a terminal; the unfinished line is part of it."""
        lines = [*self._kept, *([printable(self._partial)] if self._partial else [])]
        return lines[-count:]

    async def wait_for(self, pattern: str, deadline: Deadline, *, after: int = 0) -> re.Match[str]:
        """Wait for a line that contains the pattern, also an unfinished one such as a prompt.

        :param after: the first line that counts, as ``position`` gave it; lines of the past count if still kept.
        :raise GuestSilent: no such line came in time.
        :raise GuestCrashed: the kernel got into trouble instead.
        :raise GuestGone: the console ended instead.
        """
        waiter = _Waiter(re.compile(pattern), asyncio.get_running_loop().create_future())
        self._waiters.add(waiter)
        try:
            for line in self._lines_after(after):
                waiter.look_at(line)
            self._disappoint_waiters()
            async with asyncio.timeout(deadline.left):
                return await waiter.found
        except TimeoutError:
            raise GuestSilent(
                f"the guest did not print {pattern!r} within {deadline.seconds:g} s",
                console=self.last_lines(),
                hint=f"the whole console is in {self.log}",
            ) from None
        finally:
            self._waiters.remove(waiter)

    def _lines_after(self, position: int) -> list[str]:
        first_kept = self._count - len(self._kept)
        return [*list(self._kept)[max(0, position - first_kept) :], printable(self._partial)]

    def _disappoint_waiters(self) -> None:
        """If what they wait for cannot come any more, say so."""
        error: GuestError | None = self.crash
        if error is None and self._ended:
            error = GuestGone("the guest's console has ended", console=self.last_lines())
        if error is not None:
            for waiter in self._waiters:
                waiter.give_up(error)

    @contextlib.contextmanager
    def viewer(self) -> Iterator[Viewer]:
        """Look on while the context lasts."""
        viewer = Viewer()
        if self._ended:
            viewer.end()
        self._viewers.add(viewer)
        try:
            yield viewer
        finally:
            self._viewers.remove(viewer)
