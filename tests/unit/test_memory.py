"""The memory check: what the host and control groups leave, and the refusal."""

from __future__ import annotations

from pathlib import Path

import pytest

from harness.host.errors import HostError
from harness.machine import memory

MIB = 1 << 20


def make_host(directory: Path, available: int) -> Path:
    meminfo = directory / "meminfo"
    meminfo.write_text(f"MemTotal: 99999999 kB\nMemFree: 5 kB\nMemAvailable:   {available // 1024} kB\n")
    return meminfo


def make_group(path: Path, limit: str, used: int, inactive: int = 0) -> None:
    path.mkdir(parents=True, exist_ok=True)
    (path / "memory.max").write_text(limit + "\n")
    (path / "memory.current").write_text(f"{used}\n")
    (path / "memory.stat").write_text(f"anon 1\ninactive_file {inactive}\n")


def available(directory: Path, host: int, group: str) -> int:
    (directory / "cgroup").write_text(f"12:memory:/elsewhere\n0::{group}\n")
    (directory / "root").mkdir(exist_ok=True)
    return memory.available(make_host(directory, host), directory / "cgroup", directory / "root")


def test_host_without_limits(tmp_path: Path) -> None:
    assert available(tmp_path, 700 * MIB, "/") == 700 * MIB


def test_limit_of_a_control_group_above(tmp_path: Path) -> None:
    make_group(tmp_path / "root" / "a", str(500 * MIB), 300 * MIB, inactive=50 * MIB)
    make_group(tmp_path / "root" / "a" / "b", "max", 100 * MIB)
    assert available(tmp_path, 700 * MIB, "/a/b") == 250 * MIB


def test_tightest_limit_counts(tmp_path: Path) -> None:
    make_group(tmp_path / "root" / "a", str(500 * MIB), 400 * MIB)
    make_group(tmp_path / "root" / "a" / "b", str(450 * MIB), 100 * MIB)
    assert available(tmp_path, 700 * MIB, "/a/b") == 100 * MIB
    assert available(tmp_path, 60 * MIB, "/a/b") == 60 * MIB


def test_group_over_its_limit_leaves_nothing(tmp_path: Path) -> None:
    make_group(tmp_path / "root" / "a", str(100 * MIB), 120 * MIB)
    assert available(tmp_path, 700 * MIB, "/a") == 0


def test_kernel_that_does_not_say(tmp_path: Path) -> None:
    (tmp_path / "meminfo").write_text("MemTotal: 1 kB\n")
    with pytest.raises(HostError, match="MemAvailable"):
        memory.available(tmp_path / "meminfo")


def test_this_host() -> None:
    assert memory.available() > 0


def test_refusal_names_both_amounts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "available", lambda: (256 + memory.QEMU_MEMORY) * MIB)
    memory.require("box", 256)
    with pytest.raises(HostError, match=f"needs {257 + memory.QEMU_MEMORY} MiB .* has {256 + memory.QEMU_MEMORY} MiB"):
        memory.require("box", 257)
