"""Guests that have booted already: a template of each kind, saved in the cache, from which domains go on.

A template is a guest without disks and cards, and without a link: those are plugged in when a paravirtual domain goes
on from it. So it fits every such domain of the same image, memory, room for disks in memory and number of processors,
and has seen no disk yet.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from pathlib import Path

from harness.domain.definition import Definition
from harness.domain.restoring import Saved
from harness.domain.saving import processor
from harness.host.deadline import Deadline
from harness.host.directories import cache, lock
from harness.host.errors import UsageError
from harness.host.process import run
from harness.host.progress import step
from harness.image.build import BuiltImage
from harness.machine.accelerator import Accelerator
from harness.machine.command_line import CPU, KERNEL_ARGUMENTS, QEMU

KEPT = 4
"""How many templates stay in the cache: each takes about a third to a half of its guest's memory."""
VERSION_SECONDS = 30.0
SUFFIX = ".guest"


def is_possible(definition: Definition) -> bool:
    """Whether such a domain need not boot by itself: its devices can be plugged in."""
    models = {*(disk.model for disk in definition.disks), *(network.model for network in definition.networks)}
    return definition.kind == "pv" and models <= {"pv", "virtio", "virtio-pmem"}


def require_possible(definition: Definition) -> None:
    """:raise UsageError: such a domain has to boot by itself."""
    if not is_possible(definition):
        raise UsageError(
            f"domain {definition.name} cannot start warm: its guest finds emulated devices while it boots",
            hint="only domains of kind pv, with devices of model pv, virtio or virtio-pmem, can; let it boot",
        )


def template(
    definition: Definition, image: BuiltImage, accelerator: Accelerator, boot: Callable[[Definition, Path], None]
) -> Saved:
    """The guest for a domain to go on from, booted now if there is none yet; the caller closes it.

    :param definition: of a domain for which :func:`require_possible` holds.
    :param boot: boots a domain, and saves it to a file.
    :raise HarnessError: it cannot be booted; says why.
    """
    directory = cache("warm")
    key = _key(definition, image, accelerator)
    file = directory / f"{key}{SUFFIX}"
    # Whoever wants the same one waits for it.
    with lock(directory / f"{key}.lock"):
        try:
            found = Saved(file)
        except UsageError:
            # It is not there, or somebody has damaged it.
            with step("Booting a guest for domains to start from"):
                boot(_definition(definition, key), file)
            _prune(directory, file)
            found = Saved(file)
        os.utime(file)
        return found


def _definition(wanted: Definition, key: str) -> Definition:
    return Definition(
        # Also one of another cache, which another lock guards, may be booting just now.
        name=f"template-{key}-{os.getpid()}",
        kind="hvm",
        image=wanted.image,
        memory=wanted.memory,
        vcpus=wanted.vcpus,
        disks=(),
        networks=(),
        file=wanted.file,
        spare=wanted.room,
    )


def _key(definition: Definition, image: BuiltImage, accelerator: Accelerator) -> str:
    """Names everything that a guest without devices depends on, also what a saved state is worth nothing without."""
    qemu = run("QEMU", [QEMU, "--version"], Deadline(VERSION_SECONDS, "QEMU's version"))
    parts = (
        qemu,
        accelerator.name,
        CPU[accelerator.name],
        " ".join(KERNEL_ARGUMENTS),
        f"{image.name} {image.digest}",
        f"{definition.memory} {definition.vcpus} {definition.room}",
        processor(),
    )
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]


def _prune(directory: Path, fresh: Path) -> None:
    """Remove those that have not been used for longest. Who has one open keeps it."""
    others = [path for path in directory.glob(f"*{SUFFIX}") if path != fresh]
    for path in sorted(others, key=lambda path: path.stat().st_mtime)[: -(KEPT - 1)]:
        path.unlink(missing_ok=True)
