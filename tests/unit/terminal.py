"""The two sides of a console that a backend process carries bytes between."""

from __future__ import annotations

import socket
import time
from dataclasses import dataclass

from harness.host.deadline import Deadline
from harness.hypervisor.events import fence
from harness.ring.console import OUT_SIZE, input_ring, output_ring
from tests.unit.backend_guest import SECONDS, Guest


@dataclass
class Terminal:
    """The guest's end of the console, and the stream that a person would be at."""

    guest: Guest
    stream: socket.socket
    port: int
    page: memoryview

    def __post_init__(self) -> None:
        self.words = self.page.cast("I")
        self.input = input_ring(self.page, fence)
        self.output = output_ring(self.page, fence)

    def write(self, data: bytes) -> int:
        """Print, as far as there is room."""
        length = self.output.write(data)
        self.notify()
        return length

    def notify(self) -> None:
        self.guest.end.events.send(self.port)

    def room_within(self, seconds: float) -> bool:
        """Whether the guest can print something soon."""
        deadline = Deadline(seconds, "room in the console's page")
        while self.output.used == OUT_SIZE and not deadline.expired:
            time.sleep(0.001)
        return self.output.used < OUT_SIZE

    def print(self, data: bytes) -> None:
        """Print all of it, waiting for room as a guest does."""
        deadline = Deadline(SECONDS, "room in the console's page")
        while data:
            data = data[self.write(data) :]
            if data:
                deadline.check()
                self.guest.wait_for_event(self.port)

    def read(self, length: int) -> bytes:
        """Read what is typed, in the guest."""
        data = b""
        deadline = Deadline(SECONDS, f"{length} bytes on the console")
        while len(data) < length:
            piece = self.input.read(100)
            data += piece
            if piece:
                self.notify()
            else:
                deadline.check()
                self.guest.wait_for_event(self.port)
        return data

    def seen(self, length: int) -> bytes:
        """What comes out of the stream."""
        data = b""
        while len(data) < length:
            data += self.stream.recv(length - len(data))
        return data
