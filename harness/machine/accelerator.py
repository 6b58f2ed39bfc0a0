"""Which accelerator to use, decided by running a guest and not by looking for /dev/kvm.

KVM counts when the guest of :mod:`harness.machine.probe_guest` comes to its end under it. What came of that is kept in
the cache until the host reboots or another QEMU is installed, since a guest that makes no progress costs its whole time
limit.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
import time
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal, get_args

from harness.host.deadline import Deadline
from harness.host.directories import cache, runtime
from harness.host.errors import DeadlineExpired, HostError, UsageError
from harness.host.process import Child, spawn
from harness.machine.command_line import QEMU, base_arguments
from harness.machine.probe_guest import EXIT_PORT, EXIT_STATUS, rom

AcceleratorName = Literal["tcg", "kvm"]
AcceleratorRequest = Literal["auto", "kvm", "tcg"]

PROBE_SECONDS = 5.0
"""Hardware virtualisation needs about 0.2 s for the probe's work, emulation 0.4 s."""

BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
KVM_DEVICE = Path("/dev/kvm")


@dataclass(frozen=True)
class Accelerator:
    """What runs the guest's instructions, and in plain words why."""

    name: AcceleratorName
    reason: str


@dataclass(frozen=True)
class Verdict:
    """Whether KVM works here, and what was seen."""

    works: bool
    reason: str


def choose(request: str) -> Accelerator:
    """Pick the accelerator for ``auto``, ``kvm`` or ``tcg``.

    Call this from a thread that lives as long as the probe takes: the probe's QEMU dies with it.

    :raise UsageError: the request is none of the three.
    :raise HostError: KVM was asked for and does not work here; says why.
    """
    if request not in get_args(AcceleratorRequest):
        raise UsageError(f"unknown accelerator {request!r}; expected auto, kvm or tcg")
    if request == "tcg":
        return Accelerator("tcg", "TCG (emulation) was asked for")
    verdict = kvm_verdict()
    if verdict.works:
        return Accelerator("kvm", verdict.reason)
    if request == "kvm":
        raise HostError(
            f"KVM does not work on this machine: {verdict.reason}",
            hint="use --accel tcg (emulation, slower), or --accel auto to let the harness choose",
        )
    return Accelerator("tcg", f"KVM does not work on this machine: {verdict.reason}")


def kvm_verdict() -> Verdict:
    """Whether KVM runs guests here; from the cache if this boot of the host has already answered."""
    obstacle = _device_obstacle()
    if obstacle is not None:
        return Verdict(False, obstacle)
    path, key = cache("accelerator") / "kvm.json", _cache_key()
    known = _recall(path, key)
    if known is not None:
        return known
    verdict = run_probe("kvm")
    _remember(path, key, verdict)
    return verdict


def run_probe(accelerator: AcceleratorName, seconds: float = PROBE_SECONDS) -> Verdict:
    """Run the probe's guest.

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


def _device_obstacle() -> str | None:
    """Why /dev/kvm cannot even be opened, or None. Not cached: it changes when somebody mends it."""
    try:
        os.close(os.open(KVM_DEVICE, os.O_RDWR | os.O_CLOEXEC))
    except FileNotFoundError:
        return f"there is no {KVM_DEVICE}"
    except PermissionError:
        return f"no permission to open {KVM_DEVICE} (is this user in the group kvm?)"
    except OSError as error:
        return f"{KVM_DEVICE} cannot be opened: {error.strerror}"
    return None


def _cache_key() -> str:
    """Names this boot of the host and the installed QEMU."""
    program = shutil.which(QEMU)
    if program is None:
        raise HostError(f"{QEMU} is not installed", hint="run ci/setup, or see: harness doctor")
    found = Path(program).stat()
    probe = (PROBE_SECONDS, base_arguments("kvm"))
    return f"{BOOT_ID.read_text().strip()} {program} {found.st_mtime_ns} {found.st_size} {probe}"


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
    temporary = path.with_suffix(f".{os.getpid()}")
    temporary.write_text(json.dumps({"key": key, **asdict(verdict)}))
    temporary.replace(path)
