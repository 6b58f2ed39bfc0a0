"""Directories for files that go with their owner: scratch disks, which may be too large for the runtime directory.

They lie in the cache, on a disk, and so survive a power cut. As with a record, a lock that the owner holds tells
whether it still lives.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from harness.domain.janitor import Janitor
from harness.host.directories import cache, lock, try_lock
from harness.host.errors import HostError

LOCK = "lock"


@contextmanager
def directory(name: str, janitor: Janitor) -> Iterator[Path]:
    """A new directory, removed at the end of the context, or by the janitor if this process is killed.

    :param name: begins the directory's name.
    """
    base = cache("scratch")
    # Whoever collects abandoned directories must not see this one without its lock.
    with lock(base / LOCK):
        path = Path(tempfile.mkdtemp(prefix=f"{name}-", dir=base))
        janitor.guard(path)
        held = try_lock(path / LOCK)
    if held is None:
        raise HostError(f"somebody has locked the new directory {path}")
    try:
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)
        os.close(held)


def collect() -> list[str]:
    """Remove the directories whose owner is gone; returns a line for each."""
    base, done = cache("scratch"), []
    with lock(base / LOCK):
        for path in sorted(entry for entry in base.iterdir() if entry.is_dir()):
            held = try_lock(path / LOCK)
            if held is None:
                continue
            shutil.rmtree(path, ignore_errors=True)
            os.close(held)
            done.append(f"removed {path}")
    return done
