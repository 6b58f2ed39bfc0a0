"""Loop devices: block devices for tests of those, where there is the right to make them."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest


@contextmanager
def attach(path: Path) -> Iterator[Path]:
    """Have a loop device on a file or device; skips the test if this host does not let us."""
    try:
        made = subprocess.run(["losetup", "--find", "--show", path], capture_output=True, text=True, check=False)
    except FileNotFoundError:
        pytest.skip("needs losetup")
    if made.returncode != 0:
        pytest.skip(f"needs a loop device: {made.stderr.strip()}")
    device = Path(made.stdout.strip())
    try:
        yield device
    finally:
        subprocess.run(["losetup", "--detach", device], check=True)
