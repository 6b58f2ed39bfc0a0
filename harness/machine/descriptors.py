"""The numbers of the descriptors that a process has open."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

_EVENTFD = "anon_inode:[eventfd]"


def opened(pid: int) -> set[int]:
    """All of them.

    :raise FileNotFoundError: there is no such process.
    """
    return {int(entry.name) for entry in Path(f"/proc/{pid}/fd").iterdir()}


def eventfds(pid: int) -> set[int]:
    """Those of eventfds.

    :raise FileNotFoundError: there is no such process.
    """
    found = set()
    for number in opened(pid):
        # It may have been closed meanwhile.
        with suppress(FileNotFoundError):
            if str(Path(f"/proc/{pid}/fd/{number}").readlink()) == _EVENTFD:
                found.add(number)
    return found
