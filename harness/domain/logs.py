"""The logs of each run of a domain. They outlive it, so that a failure can be looked into; old ones are thrown away."""

from __future__ import annotations

import itertools
import shutil
import time
from pathlib import Path

from harness.host.directories import cache

KEPT = 50


def make(name: str) -> Path:
    """A new directory for the logs of one run; the oldest beyond ``KEPT`` are removed."""
    base = cache("logs")
    started = time.strftime("%Y%m%d-%H%M%S")
    for attempt in itertools.count():
        directory = base / f"{started}-{name}{f'-{attempt}' if attempt else ''}"
        try:
            directory.mkdir()
            break
        except FileExistsError:
            continue
    for old in sorted(base.iterdir(), key=lambda path: path.name)[:-KEPT]:
        shutil.rmtree(old, ignore_errors=True)
    return directory
