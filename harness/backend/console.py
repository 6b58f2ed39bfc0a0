"""The backends of a domain's consoles: a ring page on one side, a byte stream on the other."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Mapping
from contextlib import ExitStack

from harness.backend.frontend import Frontend
from harness.backend.loop import EDGE, Loop
from harness.bus.backend import BackendDevice
from harness.bus.features import Notification
from harness.host.errors import HarnessError
from harness.hypervisor.events import fence
from harness.hypervisor.link import LinkEnd
from harness.ring.byte_ring import ByteRing
from harness.ring.console import OUT_SIZE, input_ring, output_ring


class _Page:
    """A console's page, and how to tell the guest that something in it has changed."""

    def __init__(self, page: memoryview, notify: Callable[[], None]) -> None:
        self.input: ByteRing = input_ring(page, fence)
        self.output: ByteRing = output_ring(page, fence)
        self.notify = notify


class Console:
    """Copies between a console's page and a stream, while there is a page.

    What the guest prints while nobody reads the stream waits in the page, as does the guest; when the other end of
    the stream is closed, or there is no stream, it is thrown away. What is typed waits in the stream until there is
    room for it in the page. Nothing waits in this process: who continues after its death continues with all of it.

    :ivar port: the local port that its page goes with, while there is one.

    :param name: for messages.
    :param stream: a descriptor of a bidirectional stream, owned by this object from now on; None to discard.
    """

    notification = Notification.ADAPTIVE

    def __init__(self, name: str, loop: Loop, stream: int | None) -> None:
        self.name = name
        self._loop = loop
        self._stream = stream
        self.port: int | None = None
        self._page: _Page | None = None
        self._readable = self._writable = stream is not None
        if stream is not None:
            os.set_blocking(stream, False)
            loop.watch(stream, self._stream_is_ready, EDGE)

    def connect(self, page: memoryview, port: int, notify: Callable[[], None]) -> None:
        """Serve a page, from where its indices are; ``notify`` tells the guest of every change."""
        self.disconnect()
        self._page = _Page(page, notify)
        self.port = port
        self._loop.add(self, self._fail)

    def disconnect(self) -> None:
        """Leave the page alone. The stream stays, for the next one."""
        if self._page is not None:
            self._loop.remove(self)
            self._page = self.port = None

    @property
    def rings(self) -> Mapping[str, ByteRing]:
        """What is in its page, while there is one: by what the guest calls them."""
        return {} if self._page is None else {"in": self._page.input, "out": self._page.output}

    def work(self) -> bool:
        """Copy what can be copied now.

        :raise GuestError: the page is corrupt.
        """
        return self._page is not None and (self._print(self._page) | self._type(self._page))

    def arm(self) -> bool:
        """The guest notifies of every change of the page anyway; True when there is something to do already.

        :raise GuestError: the page is corrupt.
        """
        page = self._page
        if page is None:
            return False
        printable = page.output.used > 0 and (self._writable or self._stream is None)
        return printable or (self._readable and page.input.room > 0)

    def _fail(self, error: HarnessError) -> None:
        """Give the console up; the domain's devices go on."""
        print(f"{self.name}: {error}", file=sys.stderr, flush=True)
        self.disconnect()
        self._hang_up()

    def _stream_is_ready(self) -> None:
        self._readable = self._writable = self._stream is not None

    def _print(self, page: _Page) -> bool:
        """Pass on what the guest has printed, and only then give its room back."""
        printed = page.output.peek(OUT_SIZE)
        if not printed:
            return False
        length = len(printed) if self._stream is None else self._write_stream(self._stream, printed)
        if not length:
            return False
        page.output.consume(length)
        page.notify()
        return True

    def _type(self, page: _Page) -> bool:
        """Give the guest what was typed: no more is taken from the stream than it has room for."""
        room = page.input.room
        if not (self._readable and room) or self._stream is None:
            return False
        typed = self._read_stream(self._stream, room)
        if typed:
            page.input.write(typed)
            page.notify()
        return bool(typed)

    def _write_stream(self, stream: int, printed: bytes) -> int:
        if not self._writable:
            return 0
        try:
            return os.write(stream, printed)
        except BlockingIOError:
            self._writable = False
            return 0
        except OSError:
            self._hang_up()
            return len(printed)

    def _read_stream(self, stream: int, room: int) -> bytes:
        try:
            typed = os.read(stream, room)
        except BlockingIOError:
            self._readable = False
            return b""
        except OSError:
            typed = b""
        if not typed:
            self._hang_up()
        return typed

    def _hang_up(self) -> None:
        if self._stream is not None:
            self._loop.forget(self._stream)
            os.close(self._stream)
            self._stream = None
        self._readable = self._writable = False


def serve_first_console(loop: Loop, link: LinkEnd, port: int, stream: int | None) -> Console:
    """Serve the console whose page start info names: it has no states and needs no handshake.

    :param port: the port at this end that the toolstack has bound to the guest's console port.
    """
    console = Console("console 0", loop, stream)
    console.connect(link.frame(link.layout.console_frame), port, lambda: link.events.send(port))
    return console


class ConsoleDevice:
    """The backend of a console that is found through XenBus, as all but the first are.

    :param console: outlives this object: a frontend that connects again finds the same stream.
    """

    def __init__(self, device: BackendDevice, link: LinkEnd, console: Console) -> None:
        self._device = device
        self._link = link
        self._console = console
        self._connection = ExitStack()

    def features(self) -> Mapping[str, str]:
        """There is nothing to choose."""
        return {}

    def connect(self, frontend: str) -> Mapping[str, str]:
        """Map the page in ``ring-ref``, bind to the event channel in ``port``, and serve them.

        :raise GuestError: the frontend has written what cannot be.
        """
        nodes = Frontend(self._device.store, frontend)
        with ExitStack() as connection:
            page = nodes.map(connection, self._link, "ring-ref")
            port = nodes.bind(connection, self._link, "port")
            self._console.connect(page, port, lambda: self._link.events.send(port))
            connection.callback(self._console.disconnect)
            self._connection = connection.pop_all()
        return {}

    def disconnect(self) -> None:
        """Let go of the page, with what is in it. May be called again."""
        self._connection.close()
