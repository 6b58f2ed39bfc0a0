"""The command line in processes of its own, and what a domain of it has put where."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from harness.host.directories import cache

HARNESS = (sys.executable, "-m", "harness.cli.main")
SECONDS = 90.0
Run = Callable[..., "subprocess.CompletedProcess[bytes]"]


def record(runtime: Path, name: str) -> dict[str, Any] | None:
    """A domain's record as its owner has written it."""
    for file in (runtime / "domains").glob("*/record.json"):
        try:
            fields: dict[str, Any] = json.loads(file.read_text())
        except FileNotFoundError:
            continue
        if fields["name"] == name:
            return fields
    return None


def wait_for(condition: Callable[[], bool], process: subprocess.Popen[bytes]) -> None:
    """Wait until a process in its own good time has come that far."""
    end = time.monotonic() + SECONDS
    while not condition():
        assert process.poll() is None, "it ended too early"
        assert time.monotonic() < end
        time.sleep(0.02)


def scratch(name: str) -> list[Path]:
    return list(cache("scratch").glob(f"{name}-*"))
