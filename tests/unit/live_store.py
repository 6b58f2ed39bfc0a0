"""The real store service in a runtime directory of its own."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from harness.host.deadline import Deadline
from harness.store.client import StoreClient

PATIENCE = 10.0


@contextmanager
def live_store(runtime: Path) -> Iterator[StoreClient]:
    """A connection to a store that nobody else uses; the store ends with it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HARNESS_RUNTIME", str(runtime))
        with StoreClient.connect() as client:
            yield client


def within(what: str) -> Deadline:
    """Time enough for anything that a store does."""
    return Deadline(PATIENCE, what)


def store_pid(runtime: Path) -> int:
    """The process that serves this runtime directory; it must have answered once, else it may not have its name yet."""
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            words = (process / "cmdline").read_bytes().split(b"\0")
            environment = (process / "environ").read_bytes().split(b"\0")
            if b"harness.store.server" in words and f"HARNESS_RUNTIME={runtime}".encode() in environment:
                return int(process.name)
    raise AssertionError(f"no store serves {runtime}")


def event(client: StoreClient) -> tuple[str, str]:
    """The next watch event: path and token."""
    return client.read_event(within("a watch event"))
