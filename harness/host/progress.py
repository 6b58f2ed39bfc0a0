"""Says on standard error what is going on, and for how long it has been."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager


def say(text: str) -> None:
    """One line of progress."""
    print(text, file=sys.stderr, flush=True)


@contextmanager
def step(text: str) -> Iterator[None]:
    """Announce a step, and say how long it took or that it failed."""
    started = time.monotonic()
    say(f"{text} …")
    try:
        yield
    except BaseException:
        say(f"{text}: failed after {time.monotonic() - started:.1f} s")
        raise
    say(f"{text}: done in {time.monotonic() - started:.1f} s")
