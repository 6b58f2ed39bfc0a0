"""What the tests of backends share: a domain with a real store, link and backend process, but no QEMU.

The test plays the guest: it holds the granter's end of the link, and writes the frontend's nodes.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest

from harness.backend.launch import MODULE, start_backend
from harness.bus import toolstack
from harness.bus.devices import Device
from harness.bus.xenbus import XenbusState, read_state, wait_for_state
from harness.host.deadline import Deadline
from harness.host.process import Child
from harness.hypervisor.events import PortState
from harness.hypervisor.layout import FRAME_SIZE, GRANTEE, GUEST_PORTS
from harness.hypervisor.link import GuestEnd, Link
from harness.store.client import StoreClient
from harness.store.errors import StoreError

DOMID = 7
SECONDS = 20.0


class GuestSide:
    """The guest's end of everything: of a link, whoever the grantee is, and of the devices in XenStore.

    :param domid: of the domain that the test plays.
    :param ports: those that it makes.
    """

    def __init__(self, link: Link, store: StoreClient, domid: int, *, ports: range = GUEST_PORTS) -> None:
        self.store = store
        self.domid = domid
        self.end = GuestEnd.from_fds([os.dup(fd) for fd in link.guest_fds()], vector=0, ports=ports)
        self._free_frames = list(range(self.end.layout.nr_frames - 1, self.end.layout.first_free_frame - 1, -1))

    def add_disk(self, target: str, image: Path, **disk: Any) -> Device:  # noqa: ANN401 - add_vbd's
        """Have the toolstack make a disk; the keywords are :func:`harness.bus.toolstack.add_vbd`'s."""
        return toolstack.add_vbd(self.store, self.domid, target, image, **disk)

    def remove_disk(self, device: Device) -> None:
        """Have the toolstack remove it."""
        self.store.rm(device.backend)
        self.store.rm(device.frontend)

    def check_backend(self) -> None:
        """Fail when the backend has not survived what was done to it."""

    def frame(self) -> int:
        """A frame that nobody uses, zeroed."""
        frame = self._free_frames.pop()
        self.memory(frame)[:] = bytes(FRAME_SIZE)
        return frame

    def take_back(self, frame: int, ref: int) -> None:
        """End access to a frame, which the backend must have let go of, and use it again."""
        assert self.end.table.end_access(ref), f"the backend still has reference {ref} mapped"
        self._free_frames.append(frame)

    def memory(self, frame: int) -> memoryview:
        return self.end.frame(frame)

    def grant(self, frame: int, *, readonly: bool = False, domid: int | None = None) -> int:
        """Grant a frame to the domain at the other end, or to another one."""
        to = self.end.layout.domid[GRANTEE] if domid is None else domid
        return self.end.table.grant(frame, to, readonly=readonly)

    def wait_for_event(self, port: int) -> None:
        """Wait until the backend has sent an event to a port of ours."""
        deadline = Deadline(SECONDS, f"an event on port {port}")
        while port not in self.end.events.pending():
            deadline.check()
            time.sleep(0.0001)

    def write(self, path: str, nodes: Mapping[str, object]) -> None:
        for name, value in nodes.items():
            self.store.write(f"{path}/{name}", str(value))

    def switch(self, device: Device, state: XenbusState) -> None:
        """Write the frontend's state."""
        self.store.write(f"{device.frontend}/state", str(state.value))

    def wait_for_backend(self, device: Device, state: XenbusState) -> None:
        wait_for_state(self.store, device.backend, {state}, Deadline(SECONDS, f"{device.backend} in {state.name}"))

    def backend_node(self, device: Device, name: str) -> str:
        return self.store.read(f"{device.backend}/{name}").decode()

    def error(self, device: Device) -> str | None:
        """What the backend has reported about a device."""
        try:
            return self.store.read(device.backend.replace("/backend/", "/error/backend/") + "/error").decode()
        except StoreError:
            return None

    def wait_until_failed(self, device: Device, complaint: str) -> None:
        """Wait until the backend gives a device up, and check the reason it reports."""
        self.wait_for_backend(device, XenbusState.CLOSING)
        assert complaint in (self.error(device) or "")
        self.check_backend()

    def mapped(self) -> int:
        """How many of our grants the backend has mapped."""
        status = self.end.layout.status_frame
        return sum(map(bool, bytes(self.end.memory[status * FRAME_SIZE : (status + 4) * FRAME_SIZE])))

    def state(self, device: Device) -> XenbusState:
        return read_state(self.store, device.backend)

    def let_go(self, port: int) -> bool:
        """Whether the backend has closed its end of a port of ours."""
        return self.end.events.status(port)[0] == PortState.UNBOUND


class Guest(GuestSide):
    """A guest whose devices a backend process in Domain 0 serves."""

    def __init__(self, link: Link, store: StoreClient, start: Callable[[], Child]) -> None:
        self.backend = start()
        self._start = start
        super().__init__(link, store, DOMID)

    def replace_backend(self) -> None:
        """Have the backend process die, and another one take its place."""
        self.backend.kill()
        self.backend = self._start()

    def check_backend(self) -> None:
        assert self.backend.poll() is None


def wait_until(what: str, condition: Callable[[], bool]) -> None:
    deadline = Deadline(SECONDS, what)
    while not condition():
        deadline.check()
        time.sleep(0.0005)


@contextmanager
def repeating(*actions: Callable[[], object]) -> Iterator[None]:
    """Do that over and over, in a thread."""
    stop = threading.Event()

    def repeat() -> None:
        while not stop.is_set():
            for action in actions:
                action()

    thread = threading.Thread(target=repeat)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


@contextmanager
def running_domain(runtime: Path, *, console_fds: Sequence[int] = (), module: str = MODULE) -> Iterator[Guest]:
    """A domain that is introduced to a store, served by a backend process.

    :param module: what that process runs.
    """
    with ExitStack() as stack:
        store = stack.enter_context(StoreClient.connect())
        link = stack.enter_context(Link.create(DOMID, size=16 << 20))
        description = toolstack.Description(
            name="test",
            uuid="e85b90c6-c456-4614-acc4-650a827507b1",
            memory_kib=65536,
            vcpus=1,
            kernel=Path("/vmlinuz"),
            ramdisk=Path("/initrd"),
            cmdline="",
        )
        toolstack.add_domain(store, DOMID, link, description)

        def start() -> Child:
            backend = start_backend(DOMID, link, module=module, log=runtime / "backend.log", console_fds=console_fds)
            stack.callback(backend.kill)
            return backend

        guest = Guest(link, store, start)
        yield guest
        assert guest.backend.poll() is None, guest.backend.output_tail()


@contextmanager
def domain_below(directory: Path, *, console_fds: Sequence[int] = (), module: str = MODULE) -> Iterator[Guest]:
    """As ``running_domain``, with a store and all else of its own in that directory."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HARNESS_RUNTIME", str(directory))
        with running_domain(directory, console_fds=console_fds, module=module) as guest:
            yield guest


def pattern(size: int, seed: int) -> bytes:
    """Bytes that differ from sector to sector."""
    return b"".join((seed + number).to_bytes(8, "little") * 64 for number in range(size // 512))
