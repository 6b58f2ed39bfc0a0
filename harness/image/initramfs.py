"""Puts a guest's root file system together."""

from __future__ import annotations

import os
from pathlib import Path

from harness.host.deadline import Deadline
from harness.host.errors import HostError
from harness.host.process import run
from harness.image import elf, stubs
from harness.image.cpio import Archive
from harness.image.keys import Keys
from harness.image.recipe import Recipe

BUSYBOX = "/bin/busybox"
KERNELS_MODPROBE = "/sbin/modprobe"
"""What the kernel runs when it wants a module by name."""
AGENT = "/usr/sbin/agent"
INDICES = ("modules.alias", "modules.builtin", "modules.dep", "modules.symbols")
"""What busybox's modprobe reads of depmod's output."""

_COMPILE_SECONDS = 120


def is_skeleton(file: Path) -> bool:
    """Whether a file below ``guests/init`` goes into guests."""
    return file.name != "README.md" and not file.name.endswith(("~", ".swp"))


def _skeleton(archive: Archive, root: Path) -> None:
    """Directories that are mounted on, the devices the kernel wants before devtmpfs is there, and ``guests/init``."""
    for directory in ("dev", "proc", "sys", "run", "mnt", "var/log"):
        archive.directory(directory)
    archive.directory("root", 0o700)
    archive.directory("tmp", 0o1777)
    archive.character_device("dev/console", 5, 1)
    archive.character_device("dev/null", 1, 3, 0o666)
    for file in root.rglob("*"):
        if file.is_file():
            mode = 0o755 if os.access(file, os.X_OK) else 0o644
            archive.file(str(file.relative_to(root)), file, mode)


def _programs(archive: Archive, recipe: Recipe, tree: Path, scratch: Path) -> None:
    """The recipe's programs, their libraries and stubs, and busybox's names for what is not there otherwise.

    One program under several names, which is one file with several links in its package, is stored once.
    """
    stored: dict[int, str] = {}
    for program in recipe.programs:
        file = tree / program.lstrip("/")
        if file.is_symlink():
            archive.symlink(program, str(file.readlink()))
        elif file.is_file():
            first = stored.setdefault(file.stat().st_ino, program)
            if first == program:
                archive.file(program, file, 0o755)
            else:
                archive.symlink(program, first)
        else:
            raise HostError(
                f"{program} is in none of the packages of {recipe.file}", hint="correct programs or packages"
            )
    found = elf.libraries(tree, recipe.programs, provided=recipe.stub_libraries)
    for library in found:
        archive.file(library, _follow(tree, library), 0o755)
    if recipe.stub_libraries:
        _stub_libraries(archive, recipe, tree, found, scratch)
    if BUSYBOX in recipe.programs:
        argv = [str(tree / BUSYBOX.lstrip("/")), "--list"]
        present = {Path(path).name for path in archive.paths()}
        for applet in run("listing busybox's applets", argv, Deadline(10, "busybox --list")).split():
            if applet not in present:
                archive.symlink(f"/bin/{applet}", BUSYBOX)
        archive.symlink(KERNELS_MODPROBE, BUSYBOX)


def _follow(tree: Path, path: str) -> Path:
    """The file behind a path of the unpacked packages, whose absolute links mean the packages' root."""
    file = tree / path.lstrip("/")
    while file.is_symlink():
        target = file.readlink()
        file = tree / str(target).lstrip("/") if target.is_absolute() else file.parent / target
    return file


def _stub_libraries(archive: Archive, recipe: Recipe, tree: Path, kept: list[str], scratch: Path) -> None:
    directory = "/" + elf.LIBRARY_DIRECTORIES[1]
    for program in recipe.programs:
        file = tree / program.lstrip("/")
        wanted = set(elf.parse_needs(elf.readelf(file, "-l", "-d")).libraries) & set(recipe.stub_libraries)
        if not wanted:
            continue
        stub = stubs.build(file, [_follow(tree, path) for path in kept], sorted(wanted), scratch)
        name = f"{directory}/{Path(program).name}-stubs.so"
        archive.file(name, stub, 0o755)
        for soname in wanted:
            archive.symlink(f"{directory}/{soname}", Path(name).name)


def _agent(archive: Archive, sources: Path, scratch: Path) -> None:
    output = scratch / "agent"
    argv = ["make", "-s", "-f", str(sources / "Makefile"), f"OUT={scratch}"]
    run("building the agent", argv, Deadline(_COMPILE_SECONDS, "building the agent"))
    run("stripping the agent", ["strip", str(output)], Deadline(_COMPILE_SECONDS, "strip"))
    archive.file(AGENT, output, 0o755)


def _ssh(archive: Archive, keys: Keys) -> None:
    archive.file("/etc/dropbear/dropbear_ed25519_host_key", keys.host_dropbear(), 0o600)
    archive.directory("/root/.ssh", 0o700)
    archive.file("/root/.ssh/authorized_keys", keys.client_public().encode() + b"\n", 0o600)


def _modules(archive: Archive, modules: Path) -> None:
    base = f"/lib/modules/{modules.name}"
    for file in sorted(modules.rglob("*.ko")):
        archive.file(f"{base}/{file.relative_to(modules)}", file)
    for index in INDICES:
        archive.file(f"{base}/{index}", modules / index)


def assemble(recipe: Recipe, keys: Keys, *, guests: Path, tree: Path, modules: Path, scratch: Path) -> Archive:
    """The guest's root file system.

    :param guests: a copy of the checkout's ``guests``.
    :param tree: the unpacked packages that the programs come from.
    :param modules: a ``lib/modules/VERSION`` made by :func:`harness.image.modules.install`.
    :param scratch: a directory for what is compiled; it must outlive the archive's writing.
    """
    archive = Archive()
    _skeleton(archive, guests / "init")
    _programs(archive, recipe, tree, scratch)
    _agent(archive, guests / "agent", scratch)
    _ssh(archive, keys)
    _modules(archive, modules)
    return archive
