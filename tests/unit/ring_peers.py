"""The two ends of a ring behind one interface, in Python and in C."""

from __future__ import annotations

import ctypes
from pathlib import Path
from typing import Protocol

from harness.host.deadline import Deadline
from harness.host.directories import GUESTS
from harness.host.process import run
from harness.hypervisor.events import fence
from harness.ring.ring import BackRing, FrontRing, RingError

ENTRY = 8
"""Bytes of an entry: one number."""

_STATE = 256
"""Bytes for the private part of a ring, more than any of C's needs."""


class End(Protocol):
    """One end: it puts what the other takes. ``put`` and ``take`` are only called when there is room or work."""

    arms_always: bool
    """Whether ``arm`` sets the event index although there is work already."""

    def put(self, entry: int) -> None: ...

    def push(self) -> bool:
        """True: the other end wants to be notified."""

    def waiting(self) -> int:
        """Entries that may be taken."""

    def take(self) -> int: ...

    def arm(self, ahead: int) -> bool:
        """Ask for a notification; True: there is work."""

    def overflow(self) -> bool:
        """Whether the other end's producer index is impossible."""


class PythonEnd:
    """``FrontRing`` or ``BackRing``."""

    arms_always = True

    def __init__(self, ring: FrontRing | BackRing) -> None:
        self.ring = ring

    def put(self, entry: int) -> None:
        offset = self.ring.put()
        self.ring.memory[offset : offset + ENTRY] = entry.to_bytes(ENTRY, "little")

    def push(self) -> bool:
        return self.ring.push()

    def waiting(self) -> int:
        return self.ring.unconsumed()

    def take(self) -> int:
        offset = self.ring.take()
        return int.from_bytes(self.ring.memory[offset : offset + ENTRY], "little")

    def arm(self, ahead: int) -> bool:
        return self.ring.final_check(ahead)

    def overflow(self) -> bool:
        try:
            self.ring.unconsumed()
        except RingError:
            return True
        return False

    @property
    def free(self) -> int:
        assert isinstance(self.ring, FrontRing)
        return self.ring.free


class Library:
    """The C ends, compiled: ``ring_peer.c`` with libxen-dev's ring.h and the drivers' link_ring.h.

    :param directory: what it is built in.
    """

    def __init__(self, directory: Path) -> None:
        interface = directory / "xen/interface/io"
        interface.mkdir(parents=True)
        (interface / "ring.h").write_text("#include <xen/io/ring.h>\n")
        target = directory / "ring_peer.so"
        argv = ["gcc", "-O2", "-Wall", "-Werror", "-shared", "-fPIC", "-Wl,-z,defs", f"-I{directory}"]
        argv += [f"-I{GUESTS / 'drivers/include'}", "-o", str(target), str(Path(__file__).with_name("ring_peer.c"))]
        run("gcc", argv, Deadline(60, "compiling the C ends of a ring"))
        self.functions = ctypes.CDLL(str(target))
        for name in ("front_take", "back_take", "front_run"):
            getattr(self.functions, name).restype = ctypes.c_uint64
        for name in ("front_free", "front_waiting", "back_waiting", "ring_entries"):
            getattr(self.functions, name).restype = ctypes.c_uint32

    def front(self, memory: memoryview, start: int, *, link: bool, fresh: bool = False) -> CEnd:
        """A frontend, with the drivers' own macros (``link``) or with Xen's."""
        end = CEnd(self, "front", memory, arms_always=link)
        self.functions.front_open(end.state, end.shared, len(memory), fresh, ctypes.c_uint32(start), link)
        return end

    def back(self, memory: memoryview, start: int) -> CEnd:
        """A backend, with Xen's macros."""
        end = CEnd(self, "back", memory, arms_always=False)
        self.functions.back_open(end.state, end.shared, len(memory), ctypes.c_uint32(start))
        return end


class CEnd:
    """One end in C."""

    def __init__(self, library: Library, role: str, memory: memoryview, *, arms_always: bool) -> None:
        self.state = ctypes.create_string_buffer(_STATE)
        # It keeps the memory alive, which C's pointers to it do not.
        self.shared = (ctypes.c_char * len(memory)).from_buffer(memory)
        self.arms_always = arms_always
        self._functions = library.functions
        self._role = role

    def _call(self, name: str, *arguments: object) -> int:
        result: int = getattr(self._functions, f"{self._role}_{name}")(self.state, *arguments)
        return result

    def put(self, entry: int) -> None:
        self._call("put", ctypes.c_uint64(entry))

    def push(self) -> bool:
        return bool(self._call("push"))

    def waiting(self) -> int:
        return self._call("waiting")

    def take(self) -> int:
        return self._call("take")

    def arm(self, ahead: int) -> bool:
        # Xen's own final check knows of no ahead; its caller takes one.
        return bool(self._call("arm", *([ctypes.c_uint32(ahead)] if self._role == "front" else [])))

    def overflow(self) -> bool:
        return bool(self._call("overflow"))

    @property
    def free(self) -> int:
        return self._call("free")

    @property
    def entries(self) -> int:
        return int(self._functions.ring_entries(self.state))

    def run(self, total: int, wait_fd: int, ring_fd: int) -> int:
        """Be a whole frontend; gives back how many responses were right."""
        return self._call("run", ctypes.c_uint64(total), wait_fd, ring_fd)


def python_front(memory: memoryview, start: int) -> PythonEnd:
    return PythonEnd(FrontRing(memory, ENTRY, fence, attach=start))


def python_back(memory: memoryview, start: int) -> PythonEnd:
    return PythonEnd(BackRing(memory, ENTRY, fence, attach=start))
