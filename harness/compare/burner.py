"""A busy host: processes that want a core each, so that whoever polls has to share."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from harness.host.process import spawn

ENDLESS = "while True: pass"


@contextmanager
def busy_cores(count: int) -> Iterator[None]:
    """Keep that many cores busy; they are taken from whoever else runs, in the scheduler's fair shares."""
    with ExitStack() as stack:
        for number in range(count):
            burner = spawn(f"busy process {number + 1}", [sys.executable, "-c", ENDLESS], log=Path(os.devnull))
            stack.callback(burner.kill)
        yield
