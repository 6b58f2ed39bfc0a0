"""Finds whatever the harness has left behind in a runtime directory that a test has for itself."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

SECONDS = 15.0
"""A killed owner's helpers notice within milliseconds; the machine may be busy."""
INTERVAL = 0.05


def processes(runtime: Path) -> list[str]:
    """The command lines of all processes that use the runtime directory, by what their environment says.

    QEMU, backends, supervisors, janitors and the shared services inherit it. Links' memory, TAP ports and the network
    namespace have no name in any file system: they exist just as long as one of these processes.
    """
    return list(_processes(f"HARNESS_RUNTIME={runtime}".encode()))


def _processes(entry: bytes) -> Iterator[str]:
    for process in Path("/proc").iterdir():
        if not process.name.isdigit() or int(process.name) == os.getpid():
            continue
        # It may end while we look.
        with suppress(OSError):
            if entry in (process / "environ").read_bytes().split(b"\0"):
                argv = (process / "cmdline").read_bytes().decode(errors="replace").split("\0")
                yield f"process {process.name}: {' '.join(argv)}"


def files(runtime: Path) -> list[str]:
    """What is in the runtime directory, other than lock files and the empty list of domains."""
    found = (path for path in runtime.rglob("*") if path != runtime / "domains" and path.suffix != ".lock")
    return [f"file {path}" for path in found]


def leftovers(runtime: Path, seconds: float = SECONDS) -> list[str]:
    """What is still there after some time; returns as soon as there is nothing."""
    end = time.monotonic() + seconds
    while (left := processes(runtime) + files(runtime)) and time.monotonic() < end:
        # Nothing tells when the last of several strangers has gone.
        time.sleep(INTERVAL)
    return left
