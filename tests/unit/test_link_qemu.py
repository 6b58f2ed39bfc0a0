"""The link as QEMU sees it: doorbells are wired to the right descriptors, and the memory is the same.

QEMU runs without a guest; qtest plays the processor and writes to the device's registers.
"""

from __future__ import annotations

import select
import shutil
import socket
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from harness.host.deadline import Deadline
from harness.host.process import spawn
from harness.hypervisor.layout import LINK_INFO_OFFSET, LINK_MAGIC, LINK_PORTS
from tests.unit.linkends import Ends, ends_of_a_link

pytestmark = pytest.mark.skipif(not shutil.which("qemu-system-x86_64"), reason="QEMU is not installed")

SLOT = 4
REGISTERS, MSIX, MEMORY = 0xE0000000, 0xE0001000, 0xE4000000
IV_POSITION, DOORBELL = 8, 12
PCI_COMMAND, PCI_BAR, PCI_CAPABILITIES = 0x04, 0x10, 0x34
MSIX_ENABLE = 1 << 31


class Processor:
    """Speaks QEMU's qtest protocol, a line for each access."""

    def __init__(self, connection: socket.socket) -> None:
        self._lines = connection.makefile("rw")

    def _ask(self, line: str) -> int:
        self._lines.write(line + "\n")
        self._lines.flush()
        answer = self._lines.readline().split()
        assert answer[:1] == ["OK"], f"{line}: {answer}"
        return int(answer[1], 16) if len(answer) > 1 else 0

    def read(self, address: int, width: str = "l") -> int:
        return self._ask(f"read{width} {address:#x}")

    def write(self, address: int, value: int) -> None:
        self._ask(f"writel {address:#x} {value:#x}")

    def config_read(self, register: int) -> int:
        self._ask(f"outl 0xcf8 {1 << 31 | SLOT << 11 | register:#x}")
        return self._ask("inl 0xcfc")

    def config_write(self, register: int, value: int) -> None:
        self._ask(f"outl 0xcf8 {1 << 31 | SLOT << 11 | register:#x}")
        self._ask(f"outl 0xcfc {value:#x}")

    def set_up_device(self) -> None:
        for index, address in enumerate((REGISTERS, MSIX, MEMORY, 0)):
            self.config_write(PCI_BAR + 4 * index, address)
        self.config_write(PCI_COMMAND, 6)


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[tuple[Ends, Processor]]:
    ours, theirs = socket.socketpair()
    ours.settimeout(10)
    with ends_of_a_link() as ends, ours, theirs, ends.link.qemu_socket() as link:
        arguments = ["-accel", "tcg", "-machine", "pc", "-nodefaults", "-display", "none", "-m", "16", "-S"]
        arguments += ["-chardev", f"socket,id=qtest,fd={theirs.fileno()}", "-object", "qtest,id=q,chardev=qtest"]
        arguments += ["-chardev", f"socket,id=link,fd={link.fileno()}"]
        arguments += ["-device", f"ivshmem-doorbell,chardev=link,vectors=8,addr={SLOT}"]
        child = spawn(
            "QEMU", ["qemu-system-x86_64", *arguments], log=tmp_path / "log", pass_fds=[theirs.fileno(), link.fileno()]
        )
        # Else its end would leave us waiting for an answer.
        theirs.close()
        try:
            processor = Processor(ours)
            processor.set_up_device()
            yield ends, processor
        finally:
            child.kill()


def repeat_until(act: Callable[[], object], done: Callable[[], bool], what: str) -> None:
    """QEMU takes in the descriptors some time after its start, and a doorbell before that is lost."""
    deadline = Deadline(10, what)
    while not done():
        deadline.check()
        act()


def readable(descriptor: int, seconds: float = 0.01) -> bool:
    return bool(select.select([descriptor], [], [], seconds)[0])


def test_the_guest_rings_each_process_of_domain_0(machine: tuple[Ends, Processor]) -> None:
    ends, processor = machine
    for vector, end, bystander in ((0, ends.store, ends.backend), (1, ends.backend, ends.store)):
        repeat_until(
            lambda vector=vector: processor.write(REGISTERS + DOORBELL, 1 << 16 | vector),  # type: ignore[misc]
            lambda end=end: readable(end.wait_fd),  # type: ignore[misc]
            f"vector {vector}",
        )
        end.events.acknowledge()
        assert not readable(bystander.wait_fd, 0)


def test_domain_0_rings_the_vector_that_the_guest_chose(machine: tuple[Ends, Processor]) -> None:
    ends, processor = machine
    capability = processor.config_read(PCI_CAPABILITIES) & 0xFF
    processor.config_write(capability, processor.config_read(capability) | MSIX_ENABLE)
    pending_bits = MSIX + (processor.config_read(capability + 8) & ~7)
    # The vectors of the function are still masked one by one, so an interrupt stays in the pending bit array.
    repeat_until(
        lambda: ends.store.events.send(1), lambda: processor.read(pending_bits, "q") == 1, "an interrupt on vector 0"
    )
    ports = ends.link.layout.ports_frame[0]
    ends.guest.frame(ports)[2 * 8 + 2] = 5
    repeat_until(
        lambda: ends.backend.events.send(64),
        lambda: processor.read(pending_bits, "q") == 0x21,
        "one on vector 5 as well",
    )


def test_the_guest_sees_the_memory_and_its_own_peer_id(machine: tuple[Ends, Processor]) -> None:
    ends, processor = machine
    assert processor.read(REGISTERS + IV_POSITION) == ends.link.layout.peer[0]
    assert processor.read(MEMORY + LINK_INFO_OFFSET) == LINK_MAGIC
    last = MEMORY + ends.link.layout.size - 4
    processor.write(last, 0x12345678)
    assert bytes(ends.backend.memory[-4:]) == bytes.fromhex("78563412")


def test_an_event_from_the_guest_arrives(machine: tuple[Ends, Processor]) -> None:
    ends, processor = machine
    pending = MEMORY + ends.link.layout.pending_frame[1] * 4096
    processor._ask(f"writeb {pending + 64:#x} 1")
    repeat_until(
        lambda: processor.write(REGISTERS + DOORBELL, 1 << 16 | 1), lambda: readable(ends.backend.wait_fd), "an event"
    )
    ends.backend.events.acknowledge()
    assert ends.backend.events.pending() == [64]
    assert ends.backend.events.pending() == []
    assert ends.backend.events.status(64)[1] in range(LINK_PORTS)
