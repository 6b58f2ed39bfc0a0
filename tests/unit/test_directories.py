"""Locks, and directories that cannot be used."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import pytest

from harness.host.directories import cache, lock, runtime, try_lock
from harness.host.errors import HostError


def test_a_lock_excludes_and_is_free_after(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    with lock(path):
        assert try_lock(path) is None
    descriptor = try_lock(path)
    assert descriptor is not None
    os.close(descriptor)


def test_a_waiter_does_not_end_up_with_a_removed_file(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    first = try_lock(path)
    assert first is not None
    seen = []

    def wait() -> None:
        with lock(path):
            seen.append(path.exists())

    waiter = threading.Thread(target=wait)
    waiter.start()
    path.unlink()
    os.close(first)
    waiter.join(timeout=5)
    assert seen == [True]


@pytest.mark.parametrize(("variable", "make"), [("HARNESS_CACHE", cache), ("HARNESS_RUNTIME", runtime)])
def test_a_directory_that_cannot_be_made_is_named(
    variable: str, make: object, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    blocker = tmp_path / "file"
    blocker.touch()
    monkeypatch.setenv(variable, str(blocker / "below"))
    assert callable(make)
    with pytest.raises(HostError, match=f"{blocker}.*\n.*{variable}"):
        make()


def test_the_runtime_directory_is_private(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HARNESS_RUNTIME", str(tmp_path / "run"))
    assert runtime("domains", "1").is_dir()
    assert (tmp_path / "run").stat().st_mode & 0o777 == 0o700


def test_an_open_runtime_directory_is_closed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HARNESS_RUNTIME", str(tmp_path))
    tmp_path.chmod(0o777)
    assert runtime().stat().st_mode & 0o777 == 0o700


@pytest.mark.skipif(os.getuid() != 0, reason="needs root, to give a directory away")
def test_somebody_elses_runtime_directory_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HARNESS_RUNTIME", str(tmp_path))
    os.chown(tmp_path, 65534, 65534)
    with pytest.raises(HostError, match="belongs to somebody else"):
        runtime()
