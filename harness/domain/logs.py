"""The logs of each run of a domain. They outlive it, so that a failure can be looked into; old ones are thrown away."""

from __future__ import annotations

import itertools
import re
import shutil
import time
from pathlib import Path

from harness.host.directories import cache

KEPT = 50
EPITAPH = "end.txt"
_STARTED = re.compile(r"^[0-9]{8}-[0-9]{6}-")
_ATTEMPT = re.compile(r"~[0-9]+$")


def make(name: str) -> Path:
    """A new directory for the logs of one run; the oldest beyond ``KEPT`` are removed."""
    base = cache("logs")
    started = time.strftime("%Y%m%d-%H%M%S")
    for attempt in itertools.count():
        directory = base / f"{started}-{name}{f'~{attempt}' if attempt else ''}"
        try:
            directory.mkdir()
            break
        except FileExistsError:
            continue
    for old in sorted(base.iterdir(), key=lambda path: path.name)[:-KEPT]:
        shutil.rmtree(old, ignore_errors=True)
    return directory


def bury(directory: Path, how: str) -> None:
    """Note how the domain whose logs these are has ended, for those who look for it later."""
    (directory / EPITAPH).write_text(f"{how}\n")


def epitaph(name: str) -> str | None:
    """How the last domain of that name ended, and where its logs are; None if nobody has noted it."""
    runs = [path.parent for path in cache("logs").glob(f"*/{EPITAPH}")]
    for run in sorted((run for run in runs if _of(run) == name), key=lambda run: run.name, reverse=True):
        return f"{(run / EPITAPH).read_text().strip()}\nits logs: {run}"
    return None


def _of(run: Path) -> str:
    """The name of the domain that a directory's logs are of."""
    return _ATTEMPT.sub("", _STARTED.sub("", run.name))
