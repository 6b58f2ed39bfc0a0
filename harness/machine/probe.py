"""Finds out what works on this host by having QEMU run a small guest, and remembers what came of it.

An answer is kept in the cache until the host reboots or another QEMU is installed, since a guest that makes no progress
costs its whole time limit.
"""

from __future__ import annotations

import json
import shutil
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from harness.host.deadline import Deadline
from harness.host.directories import cache, runtime
from harness.host.errors import DeadlineExpired, HostError
from harness.host.process import Child, spawn
from harness.machine.command_line import QEMU, base_arguments
from harness.machine.probe_guest import EXIT_PORT, EXIT_STATUS, rom

PROBE_SECONDS = 5.0
"""Hardware virtualisation needs about 0.2 s for the probe's work, emulation 0.4 s."""

BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


@dataclass(frozen=True)
class Verdict:
    """Whether something works here, and what was seen."""

    works: bool
    reason: str


def run_probe(accelerator: str, arguments: Sequence[str] = (), seconds: float = PROBE_SECONDS) -> Verdict:
    """Run the probe's guest.

    :param arguments: of QEMU, besides those that every probe has.
    :raise HostError: QEMU is not installed.
    """
    with tempfile.TemporaryDirectory(prefix="probe-", dir=runtime()) as name:
        directory = Path(name)
        image = directory / "probe.rom"
        image.write_bytes(rom())
        argv = [
            *base_arguments(accelerator),
            *("-m", "size=16M"),
            *("-bios", str(image)),
            *("-device", f"isa-debug-exit,iobase={EXIT_PORT:#x},iosize=4"),
            *arguments,
        ]
        started = time.monotonic()
        child = spawn(f"the {accelerator} probe", argv, log=directory / "qemu.log")
        try:
            status = child.wait(Deadline(seconds, "the end of the probe"))
        except DeadlineExpired:
            return Verdict(False, f"a small test guest was started and made no progress in {seconds:g} s")
        finally:
            child.kill()
        return _judge(child, status, time.monotonic() - started)


def _judge(child: Child, status: int, seconds: float) -> Verdict:
    if status == EXIT_STATUS:
        return Verdict(True, f"a small test guest ran to its end in {seconds:.1f} s")
    lines = [line.removeprefix(f"{QEMU}: ") for line in child.output_tail().strip().splitlines()]
    said = "; ".join(line for line in lines if not line.startswith("warning:")) or "it did not say why"
    return Verdict(False, f"QEMU ended with status {status} when it started a small test guest: {said}")


def remembered(name: str, probe: Callable[[], Verdict], *asked: object) -> Verdict:
    """What a probe says; from the cache if this boot of the host has already answered.

    :param name: of what is asked.
    :param asked: what an answer depends on besides the host and its QEMU.
    """
    path, key = cache("accelerator") / f"{name}.json", _cache_key(*asked)
    known = _recall(path, key)
    if known is not None:
        return known
    verdict = probe()
    _remember(path, key, verdict)
    return verdict


def _cache_key(*asked: object) -> str:
    """Names this boot of the host and the installed QEMU."""
    program = shutil.which(QEMU)
    if program is None:
        raise HostError(f"{QEMU} is not installed", hint="run ci/setup, or see: harness doctor")
    found = Path(program).stat()
    return f"{BOOT_ID.read_text().strip()} {program} {found.st_mtime_ns} {found.st_size} {(PROBE_SECONDS, *asked)}"


def _recall(path: Path, key: str) -> Verdict | None:
    # Whatever the file holds, it is only a shortcut: what cannot be read is found out anew.
    with suppress(OSError, ValueError, TypeError):
        record = json.loads(path.read_text())
        if isinstance(record, dict) and record.pop("key", None) == key:
            verdict = Verdict(**record)
            if isinstance(verdict.works, bool) and isinstance(verdict.reason, str):
                return verdict
    return None


def _remember(path: Path, key: str, verdict: Verdict) -> None:
    # Two domains that start at once may both have asked.
    temporary = path.with_suffix(f".{threading.get_native_id()}")
    temporary.write_text(json.dumps({"key": key, **asdict(verdict)}))
    temporary.replace(path)
