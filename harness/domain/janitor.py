"""Removes a domain's files when its owner dies without doing so itself.

The janitor is a shell that reads paths from a pipe whose other end only the owner has, to its end: that is when the
owner ends, however it ends. It is the one child that must outlive its owner, by the moment that removing files takes.
"""

from __future__ import annotations

import os
from pathlib import Path

from harness.host.deadline import Deadline
from harness.host.process import spawn

SCRIPT = 'while IFS= read -r path; do set -- "$@" "$path"; done <"/proc/self/fd/$1"; shift; rm -rf -- "$@"'


class Janitor:
    """Guards some paths for as long as this process lives. It can be started before there are any."""

    def __init__(self, log: Path) -> None:
        ours_to_read, self._write = os.pipe()
        try:
            self._child = spawn(
                "the janitor",
                ["sh", "-c", SCRIPT, "janitor", str(ours_to_read)],
                log=log,
                pass_fds=[ours_to_read],
                die_with_parent=False,
            )
        finally:
            os.close(ours_to_read)

    @property
    def pid(self) -> int:
        return self._child.pid

    def guard(self, path: Path) -> None:
        """From now on, the path goes when this process does."""
        os.write(self._write, os.fsencode(path) + b"\n")

    def dismiss(self) -> None:
        """Let the janitor remove the paths now, and wait until it has.

        :raise DeadlineExpired: the file system does not answer.
        """
        os.close(self._write)
        self._child.wait(Deadline(10.0, "the removal of a domain's files"))
