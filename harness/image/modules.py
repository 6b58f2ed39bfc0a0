"""Kernel modules: those of the stock kernel that a recipe names, with what they depend on, and our own."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable
from pathlib import Path

from harness.host.deadline import Deadline
from harness.host.errors import HostError
from harness.host.process import run

_MODINFO_SECONDS = 30
_DEPMOD_SECONDS = 60
_MAKE_SECONDS = 600
SOURCE_SUFFIXES = (".c", ".h")
SOURCE_NAMES = ("Kbuild", "Makefile")


def kernel_version(kernel: Path) -> str:
    """The version (``uname -r``) of the one kernel in a tree of unpacked packages."""
    versions = sorted(path.name for path in (kernel / "lib/modules").iterdir())
    if len(versions) != 1:
        raise HostError(f"expected one kernel in {kernel}, found: {', '.join(versions) or 'none'}")
    return versions[0]


def _canonical(name: str) -> str:
    """A name as modprobe compares it: dash and underscore are the same."""
    return name.replace("-", "_")


def _depends(files: list[Path]) -> set[str]:
    text = run("reading module dependencies", ["modinfo", "-F", "depends", *map(str, files)],
               Deadline(_MODINFO_SECONDS, "modinfo"))  # fmt: skip
    return {_canonical(name) for line in text.splitlines() for name in line.split(",") if name}


def stock(kernel: Path, wanted: Iterable[str]) -> list[Path]:
    """The files of the named modules and of all that they depend on, sorted; modules built into the kernel have none.

    :param kernel: the unpacked kernel package.
    :raise HostError: the kernel has no module of that name.
    """
    root = kernel / "lib/modules" / kernel_version(kernel)
    files = {_canonical(path.stem): path for path in (root / "kernel").rglob("*.ko")}
    built_in = {_canonical(Path(line).stem) for line in (root / "modules.builtin").read_text().splitlines()}
    chosen: dict[str, Path] = {}
    queue = {_canonical(name) for name in wanted}
    while queue:
        unknown = sorted(name for name in queue if name not in files and name not in built_in)
        if unknown:
            raise HostError(
                f"the kernel {root.name} has no module {', '.join(unknown)}",
                hint="correct the recipe's modules",
            )
        new = {name: files[name] for name in queue if name in files}
        chosen |= new
        queue = (_depends(list(new.values())) if new else set()) - chosen.keys()
    return sorted(chosen.values())


def is_source(file: Path) -> bool:
    """Whether a file below ``guests/drivers`` or ``guests/agent`` takes part in a build (what make leaves does not)."""
    return not file.name.endswith(".mod.c") and (file.suffix in SOURCE_SUFFIXES or file.name in SOURCE_NAMES)


def build_ours(drivers: Path, headers: Path, version: str) -> list[Path]:
    """Build our drivers where their sources are, against the guest kernel's headers.

    The headers are used where they are unpacked: giving make their two halves (sources and build output) by option
    avoids the absolute path of an installed system in the top Makefile.

    :param drivers: a copy of ``guests/drivers``.
    :return: the modules, sorted, with debug information.
    :raise LaunchError: it does not compile; carries the compiler's words.
    """
    output = headers / "usr/src" / f"linux-headers-{version}"
    common = headers / "usr/src" / f"linux-headers-{version.removesuffix('-amd64')}-common"
    argv = ["make", "-s", f"-j{os.cpu_count() or 1}", "-C", str(common), f"O={output}", f"M={drivers}", "modules"]
    run("building the guest's drivers", argv, Deadline(_MAKE_SECONDS, "building the guest's drivers"))
    return sorted(drivers.rglob("*.ko"))


def strip(module: Path, target: Path) -> None:
    """Copy a module without its debug information."""
    target.parent.mkdir(parents=True, exist_ok=True)
    argv = ["strip", "--strip-debug", "-o", str(target), str(module)]
    run(f"stripping {module.name}", argv, Deadline(_MODINFO_SECONDS, "strip"))


def install(kernel: Path, files: Iterable[Path], ours: Iterable[Path], directory: Path) -> Path:
    """Make a ``lib/modules/VERSION`` with these modules and the indices that modprobe reads.

    :param directory: what ``lib/modules`` is made in.
    :return: the directory of that version.
    """
    version = kernel_version(kernel)
    original = kernel / "lib/modules" / version
    target = directory / "lib/modules" / version
    for file in files:
        place = target / file.relative_to(original)
        place.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(file, place)
    for module in ours:
        strip(module, target / "updates" / module.name)
    for index in ("modules.builtin", "modules.builtin.modinfo", "modules.order"):
        shutil.copyfile(original / index, target / index)
    run("indexing the modules", ["depmod", "-b", str(directory), version], Deadline(_DEPMOD_SECONDS, "depmod"))
    return target
