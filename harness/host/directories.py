"""Where things live on the host, and locks on them.

``HARNESS_CACHE`` (default ``$XDG_CACHE_HOME/harness`` or ``~/.cache/harness``) holds what can be made again: unpacked
packages, images, logs. ``HARNESS_RUNTIME`` (default ``/run/harness`` for root, else ``$XDG_RUNTIME_DIR/harness``) holds
sockets and records of what is running now; it is private, since whoever can write there owns the domains.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from harness.host.errors import HostError

SOURCE = Path(__file__).resolve().parents[2]
"""The checkout this package is installed from: ``guests`` and ``images`` are found below it."""

GUESTS = SOURCE / "guests"
IMAGES = SOURCE / "images"


def _make(path: Path, mode: int) -> Path:
    try:
        path.mkdir(mode=mode, parents=True, exist_ok=True)
    except OSError as error:
        raise HostError(
            f"cannot create the directory {path}: {error.strerror}",
            hint="set HARNESS_CACHE and HARNESS_RUNTIME to directories you can write to",
        ) from error
    if not os.access(path, os.W_OK | os.X_OK):
        raise HostError(
            f"the directory {path} is not writable",
            hint="set HARNESS_CACHE and HARNESS_RUNTIME to directories you can write to",
        )
    return path


def cache(*parts: str) -> Path:
    """A directory below the cache, created if missing.

    :raise HostError: it cannot be created or written to.
    """
    base = os.environ.get("HARNESS_CACHE") or os.path.join(  # noqa: PTH118 - may be relative to nothing yet
        os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache", "harness"
    )
    return _make(Path(base).absolute().joinpath(*parts), 0o755)


def runtime(*parts: str) -> Path:
    """A private directory below the runtime directory, created if missing.

    :raise HostError: it cannot be created or written to, or somebody else owns it.
    """
    named = os.environ.get("HARNESS_RUNTIME")
    if not named:
        per_user = os.environ.get("XDG_RUNTIME_DIR") or f"/run/user/{os.getuid()}"
        named = "/run/harness" if os.getuid() == 0 else f"{per_user}/harness"
    base = _make(Path(named).absolute(), 0o700)
    found = base.stat()
    if found.st_uid != os.getuid():
        raise HostError(
            f"the directory {base} belongs to somebody else, who could take over every domain",
            hint=f"remove it, or set HARNESS_RUNTIME to a directory of your own (now: {base})",
        )
    if found.st_mode & 0o077:
        base.chmod(0o700)
    return _make(base.joinpath(*parts), 0o700)


def _same_file(descriptor: int, path: Path) -> bool:
    try:
        found = path.stat()
    except FileNotFoundError:
        return False
    held = os.fstat(descriptor)
    return (held.st_dev, held.st_ino) == (found.st_dev, found.st_ino)


def _flock(path: Path, operation: int) -> int:
    # The file may be removed by the holder while we wait: a lock on a nameless file excludes nobody, so take it anew.
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(descriptor, operation)
            if _same_file(descriptor, path):
                return descriptor
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)


def try_lock(path: Path) -> int | None:
    """Take an exclusive lock on a file (created if missing); the descriptor holds it. None if somebody else has it."""
    try:
        return _flock(path, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return None


@contextmanager
def lock(path: Path) -> Iterator[int]:
    """Hold an exclusive lock on a file (created if missing), waiting for it as long as it takes.

    The holder may remove the file while it holds the lock. A child that is given the descriptor holds it, too.
    """
    descriptor = _flock(path, fcntl.LOCK_EX)
    try:
        yield descriptor
    finally:
        os.close(descriptor)
