"""The real store service in a runtime directory of its own."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
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
