"""A runtime directory for each module, commands in it, and a domain that was created there."""

from __future__ import annotations

import os
import secrets
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from harness.host.directories import GUESTS
from tests.guest.cli.commands import HARNESS, SECONDS, Run
from tests.leftovers import leftovers


@pytest.fixture(scope="module")
def runtime() -> Iterator[Path]:
    """A runtime directory of our own; paths of sockets are short, so pytest's directories will not do."""
    with tempfile.TemporaryDirectory(prefix="harness-") as name:
        yield Path(name)


@pytest.fixture(scope="module")
def environment(runtime: Path) -> dict[str, str]:
    return {**os.environ, "HARNESS_RUNTIME": str(runtime)}


@pytest.fixture
def name() -> str:
    """A domain's name that no other test uses, so that its scratch files are known by it."""
    return f"cli-{secrets.token_hex(4)}"


@pytest.fixture(scope="module")
def harness(environment: dict[str, str]) -> Run:
    """Runs a command to its end."""

    def run(*arguments: str, stdin: bytes = b"") -> subprocess.CompletedProcess[bytes]:
        return subprocess.run(
            [*HARNESS, *arguments], input=stdin, capture_output=True, env=environment, timeout=SECONDS, check=False
        )

    return run


@pytest.fixture(scope="module")
def created(harness: Run, runtime: Path) -> Iterator[str]:
    """The name of a paravirtual domain that ``create`` has left running."""
    name = f"cli-{secrets.token_hex(4)}"
    done = harness("create", str(GUESTS / "pv.yaml"), "--name", name)
    assert done.returncode == 0, done.stderr.decode()
    yield name
    assert harness("destroy", name).returncode == 0
    assert leftovers(runtime) == []
