"""Consoles that are found through XenBus, and what becomes of all consoles when the backend process dies."""

from __future__ import annotations

import os
import signal
import socket
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from harness.bus.devices import Device
from harness.bus.toolstack import add_further_console
from harness.bus.xenbus import XenbusState
from harness.hypervisor.layout import GUEST_CONSOLE_PORT
from harness.ring.console import IN_CONS, IN_PROD, OUT_CONS, OUT_PROD
from tests.unit.backend_guest import DOMID, SECONDS, Guest, domain_below, wait_until
from tests.unit.terminal import Terminal

COUNT = 3


@dataclass
class Consoles:
    """A domain with several consoles, and the streams on which people are."""

    guest: Guest
    streams: list[socket.socket]

    def first(self) -> Terminal:
        page = self.guest.memory(self.guest.end.layout.console_frame)
        return Terminal(self.guest, self.streams[0], GUEST_CONSOLE_PORT, page)

    def offer(self, number: int) -> tuple[Device, Terminal]:
        """Make the frontend of another console and publish it."""
        device = add_further_console(self.guest.store, DOMID, number)
        frame = self.guest.frame()
        port = self.guest.end.events.alloc_unbound()
        self.guest.write(device.frontend, {"ring-ref": self.guest.grant(frame), "port": port})
        self.guest.switch(device, XenbusState.INITIALISED)
        return device, Terminal(self.guest, self.streams[number], port, self.guest.memory(frame))

    def connect(self, number: int) -> tuple[Device, Terminal]:
        device, terminal = self.offer(number)
        self.guest.wait_for_backend(device, XenbusState.CONNECTED)
        self.guest.switch(device, XenbusState.CONNECTED)
        return device, terminal


@pytest.fixture
def consoles(tmp_path: Path) -> Iterator[Consoles]:
    pairs = [socket.socketpair() for _ in range(COUNT)]
    for ours, _ in pairs:
        ours.settimeout(SECONDS)
    # Theirs stay open here, for the process that comes after the first.
    with domain_below(tmp_path, console_fds=[theirs.fileno() for _, theirs in pairs]) as guest:
        yield Consoles(guest, [ours for ours, _ in pairs])
    for pair in pairs:
        for end in pair:
            end.close()


def talk(terminal: Terminal, name: bytes) -> None:
    """Bytes go both ways, and nowhere else."""
    terminal.print(b"printed on " + name)
    assert terminal.seen(11 + len(name)) == b"printed on " + name
    terminal.stream.sendall(b"typed on " + name)
    assert terminal.read(9 + len(name)) == b"typed on " + name


def test_each_has_a_stream_of_its_own(consoles: Consoles) -> None:
    terminals = [consoles.first(), *(consoles.connect(number)[1] for number in range(1, COUNT))]
    for number, terminal in enumerate(terminals):
        talk(terminal, b"%d" % number)
    for terminal in terminals:
        terminal.stream.setblocking(False)
        with pytest.raises(BlockingIOError):
            terminal.stream.recv(1)


def test_a_frontend_that_connects_again_finds_the_same_stream(consoles: Consoles) -> None:
    device, terminal = consoles.connect(1)
    talk(terminal, b"before")
    consoles.guest.switch(device, XenbusState.CLOSED)
    consoles.guest.wait_for_backend(device, XenbusState.CLOSED)
    wait_until("a closed port", lambda: consoles.guest.let_go(terminal.port))
    terminal.stream.sendall(b"typed meanwhile")
    consoles.guest.switch(device, XenbusState.INITIALISING)
    consoles.guest.wait_for_backend(device, XenbusState.INIT_WAIT)
    consoles.guest.switch(device, XenbusState.INITIALISED)
    consoles.guest.wait_for_backend(device, XenbusState.CONNECTED)
    assert terminal.read(15) == b"typed meanwhile"
    talk(terminal, b"after")


@pytest.mark.parametrize(
    ("node", "value", "complaint"),
    [
        ("ring-ref", "", "ring-ref"),
        ("ring-ref", "7", "7"),
        ("ring-ref", "99999999999", "ring-ref"),
        ("port", "0", "port"),
        ("port", "4095", "4095"),
    ],
)
def test_a_frontend_that_publishes_nonsense_is_told_so(
    consoles: Consoles, node: str, value: str, complaint: str
) -> None:
    device = add_further_console(consoles.guest.store, DOMID, 1)
    good = {"ring-ref": consoles.guest.grant(consoles.guest.frame()), "port": consoles.guest.end.events.alloc_unbound()}
    consoles.guest.write(device.frontend, {**good, node: value})
    consoles.guest.switch(device, XenbusState.INITIALISED)
    consoles.guest.wait_until_failed(device, complaint)
    talk(consoles.first(), b"the first")


@pytest.mark.parametrize("index", [IN_PROD, IN_CONS, OUT_PROD, OUT_CONS])
def test_impossible_indices_cost_that_console_only(consoles: Consoles, tmp_path: Path, index: int) -> None:
    _, terminal = consoles.connect(1)
    _, good = consoles.connect(2)
    terminal.words[index // 4] = (terminal.words[index // 4] - 3000) % (1 << 32)
    terminal.notify()
    terminal.stream.sendall(b"typed")
    log = tmp_path / "backend.log"
    wait_until("the report", lambda: "console 1: the indices" in log.read_text())
    for number, other in enumerate((consoles.first(), good)):
        talk(other, b"%d" % number)


def test_what_lies_in_the_pages_when_the_backend_dies_is_not_lost(consoles: Consoles) -> None:
    guest = consoles.guest
    first = consoles.first()
    device, further = consoles.connect(1)
    for number, terminal in enumerate((first, further)):
        talk(terminal, b"%d" % number)
    os.kill(guest.backend.pid, signal.SIGSTOP)
    for terminal in (first, further):
        assert terminal.write(b"p" * 1500) == 1500
        terminal.stream.sendall(b"t" * 3000)
    guest.replace_backend()
    # The frontend of the second begins anew on the same page and the same port.
    guest.wait_for_backend(device, XenbusState.INIT_WAIT)
    guest.switch(device, XenbusState.INITIALISING)
    guest.switch(device, XenbusState.INITIALISED)
    guest.wait_for_backend(device, XenbusState.CONNECTED)
    for terminal in (first, further):
        assert terminal.seen(1500) == b"p" * 1500
        assert terminal.read(3000) == b"t" * 3000
