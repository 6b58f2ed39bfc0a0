"""Which accelerator to use, decided by running a guest and not by looking for /dev/kvm.

KVM counts when the guest of :mod:`harness.machine.probe_guest` comes to its end under it.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

from harness.host.errors import HostError, UsageError
from harness.machine.command_line import base_arguments
from harness.machine.probe import Verdict, remembered, run_probe

AcceleratorName = Literal["tcg", "kvm"]
AcceleratorRequest = Literal["auto", "kvm", "tcg"]

KVM_DEVICE = Path("/dev/kvm")


@dataclass(frozen=True)
class Accelerator:
    """What runs the guest's instructions, and in plain words why."""

    name: AcceleratorName
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
    """Whether KVM runs guests here; see :func:`harness.machine.probe.remembered`."""
    obstacle = _device_obstacle()
    if obstacle is not None:
        return Verdict(False, obstacle)
    return remembered("kvm", lambda: run_probe("kvm"), base_arguments("kvm"))


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
