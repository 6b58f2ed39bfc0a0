"""Whether the host has the memory that a machine needs.

This is asked before QEMU starts: the kernel would only answer later, by killing something.
"""

from __future__ import annotations

from pathlib import Path

from harness.host.errors import HostError

QEMU_MEMORY = 192
"""MiB that QEMU needs besides its guest's memory: about 185 were seen, mostly translated code and the boot images."""

MEMINFO = Path("/proc/meminfo")
CGROUP = Path("/proc/self/cgroup")
CGROUP_ROOT = Path("/sys/fs/cgroup")

KIB = 1 << 10
MIB = 1 << 20


def _host_available(meminfo: Path) -> int:
    """Bytes that programs can still have without swapping."""
    for line in meminfo.read_text().splitlines():
        key, _, value = line.partition(":")
        if key == "MemAvailable":
            return int(value.split()[0]) * KIB
    raise HostError(f"{meminfo} does not tell MemAvailable")


def _number(path: Path) -> int | None:
    """The number in a control group's file, or None when there is no limit or no such file."""
    try:
        text = path.read_text().strip()
    except OSError:
        return None
    return int(text) if text.isdecimal() else None


def _group_used(group: Path) -> int | None:
    """Bytes a control group holds and cannot give back at once: without the page cache nobody is using."""
    used = _number(group / "memory.current")
    if used is None:
        return None
    statistics = dict(line.split(" ", 1) for line in (group / "memory.stat").read_text().splitlines())
    return max(0, used - int(statistics.get("inactive_file", "0")))


def _group_available(group: Path, root: Path) -> int | None:
    """Bytes left in the tightest limited control group (version 2) at or above a group, None without any limit."""
    left: list[int] = []
    for path in (group, *group.parents):
        limit, used = _number(path / "memory.max"), _group_used(path)
        if limit is not None and used is not None:
            left.append(max(0, limit - used))
        if path == root:
            break
    return min(left, default=None)


def available(meminfo: Path = MEMINFO, cgroup: Path = CGROUP, root: Path = CGROUP_ROOT) -> int:
    """Bytes this process and its children can still have.

    The parameters are for tests.

    :raise HostError: the kernel does not say.
    """
    amounts = [_host_available(meminfo)]
    for line in cgroup.read_text().splitlines():
        if line.startswith("0::/"):
            group = _group_available(root / line.removeprefix("0::/"), root)
            amounts += [] if group is None else [group]
    return min(amounts)


def require(name: str, memory: int) -> None:
    """Check that a machine can have its memory.

    :param name: the domain, for the error.
    :param memory: MiB the guest gets.
    :raise HostError: there is less.
    """
    need, left = memory + QEMU_MEMORY, available() // MIB
    if need > left:
        raise HostError(
            f"domain {name} needs {need} MiB of memory ({memory} for the guest, {QEMU_MEMORY} for QEMU), "
            f"and this machine has {left} MiB available",
            hint="end other domains (harness list), or lower 'memory' in the definition",
        )
