"""The backend of a domain's first console: a ring page on one side, a byte stream on the other."""

from __future__ import annotations

import os
import sys

from harness.backend.loop import EDGE, Loop
from harness.host.errors import HarnessError
from harness.hypervisor.events import fence
from harness.hypervisor.link import LinkEnd
from harness.ring.console import IN_SIZE, OUT_SIZE, input_ring, output_ring


class Console:
    """Copies between the console's page and a stream.

    What the guest prints while nobody reads the stream waits in the page, as does the guest; when the other end of
    the stream is closed, or there is no stream, it is thrown away. What is typed waits until there is room for it.

    :param link: the console's page is where its start info says; it needs no handshake.
    :param port: the port at this end that the toolstack has bound to the guest's console port.
    :param stream: a descriptor of a bidirectional stream, owned by this object from now on; None to discard.
    """

    def __init__(self, loop: Loop, link: LinkEnd, port: int, stream: int | None) -> None:
        page = link.frame(link.layout.console_frame)
        self._loop = loop
        self._events = link.events
        self._port = port
        self._stream = stream
        self._input = input_ring(page, fence)
        self._output = output_ring(page, fence)
        self._typed = b""
        self._printed = b""
        self._readable = self._writable = stream is not None
        loop.add(self, self._fail)
        if stream is not None:
            os.set_blocking(stream, False)
            loop.watch(stream, self._stream_is_ready, EDGE)

    def work(self) -> bool:
        """Copy what can be copied now.

        :raise GuestError: the page is corrupt.
        """
        moved = self._read_ring()
        if self._stream is not None and self._printed and self._writable:
            moved |= self._write_stream(self._stream)
        if self._stream is not None and not self._typed and self._readable:
            moved |= self._read_stream(self._stream)
        return moved | self._write_ring()

    def arm(self) -> bool:
        """The guest notifies of every change of the page anyway; True when there is something to do already.

        :raise GuestError: the page is corrupt.
        """
        if self._printed:
            return self._writable
        return self._output.used > 0 or (self._readable and not self._typed)

    def _fail(self, error: HarnessError) -> None:
        """Give the console up; the domain's devices go on."""
        print(f"console: {error}", file=sys.stderr, flush=True)
        self._loop.remove(self)
        self._hang_up()

    def _stream_is_ready(self) -> None:
        self._readable = self._writable = True

    def _read_ring(self) -> bool:
        """Take what the guest has printed, once what it printed before is gone."""
        if self._printed:
            return False
        printed = self._output.read(OUT_SIZE)
        if not printed:
            return False
        if self._stream is not None:
            self._printed = printed
        self._events.send(self._port)
        return True

    def _write_ring(self) -> bool:
        """Give the guest what was typed, as far as it has room for it."""
        length = self._input.write(self._typed) if self._typed else 0
        if not length:
            return False
        self._typed = self._typed[length:]
        self._events.send(self._port)
        return True

    def _write_stream(self, stream: int) -> bool:
        try:
            length = os.write(stream, self._printed)
        except BlockingIOError:
            self._writable = False
            return False
        except OSError:
            self._hang_up()
            return True
        self._printed = self._printed[length:]
        return True

    def _read_stream(self, stream: int) -> bool:
        try:
            self._typed = os.read(stream, IN_SIZE)
        except BlockingIOError:
            self._readable = False
            return False
        except OSError:
            self._hang_up()
            return True
        if not self._typed:
            self._hang_up()
        return True

    def _hang_up(self) -> None:
        if self._stream is not None:
            self._loop.forget(self._stream)
            os.close(self._stream)
            self._stream = None
        self._printed = b""
        self._readable = self._writable = False
