"""Images by recipe name: build (or find the build that is already there), list, remove."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from harness.host.directories import GUESTS
from harness.host.errors import HostError, UsageError
from harness.host.progress import say, step
from harness.image import initramfs, kernel, keys, modules, packages, recipe, store
from harness.image.recipe import Recipe
from harness.image.store import ImageInfo

TOOLS = ("gcc", "make", "strip", "readelf", "depmod", "modinfo", "dpkg-deb", "apt-get", "apt-cache")
"""Programs of the host that a build runs."""


KERNEL = "kernel"
INITRAMFS = "initramfs.cpio"


@dataclass(frozen=True)
class BuiltImage:
    """What a guest boots from, and how to reach it.

    :param kernel: what to give QEMU as kernel: an ELF file, or a bzImage if the kernel has no other entry point.
    :param initramfs: an uncompressed cpio archive.
    :param modules_dir: our modules with their debug information, for the host's debuggers.
    :param ssh_host_key: the guest's public host key, ``ssh-ed25519 AAAA…``.
    :param ssh_client_key: file of the private key (OpenSSH format) that root in the guest accepts.
    :param kernel_version: what ``uname -r`` says in the guest.
    :param digest: names this build; the same digest is the same image.
    """

    name: str
    digest: str
    kernel: Path
    initramfs: Path
    modules_dir: Path
    ssh_host_key: str
    ssh_client_key: Path
    kernel_version: str


def build(name: str = "minimal", *, update: bool = False) -> BuiltImage:
    """The image of a recipe, built first unless what it is made from has not changed.

    :param update: resolve the packages anew, so that newer ones are used.
    :raise UsageError: there is no such recipe, or it is not valid.
    :raise HostError: packages cannot be had, a tool is missing, or something does not compile.
    """
    wanted = recipe.find(name)
    if not update and (found := _find(wanted)):
        return found
    try:
        with store.build_lock():
            return _build(wanted, update=update)
    except OSError as error:
        raise HostError(f"cannot build the image {name}: {error}") from error


def _build(wanted: Recipe, *, update: bool) -> BuiltImage:
    """What :func:`build` does under the build lock."""
    # Whoever held the lock may have built just this.
    if not update and (found := _find(wanted)):
        return found
    _check_tools()
    groups, trees = _packages(wanted, update=update)
    store.remember(wanted, groups)
    built = _find(wanted) or _make(wanted, groups, trees)
    store.prune(wanted.name)
    packages.prune(store.resolutions())
    return built


def _find(wanted: Recipe) -> BuiltImage | None:
    """The finished build of what the recipe and the sources are now, marked as used."""
    groups = store.remembered(wanted)
    if groups is None:
        return None
    directory = store.home(wanted.name) / store.digest(wanted, groups, GUESTS)
    if not _whole(directory):
        return None
    os.utime(directory / store.MANIFEST)
    return _open(directory)


def _whole(directory: Path) -> bool:
    """Whether a build is there with all that a guest boots from: somebody may have tidied the cache by hand."""
    return all((directory / name).is_file() for name in (store.MANIFEST, KERNEL, INITRAMFS))


def _open(directory: Path) -> BuiltImage:
    manifest = json.loads((directory / store.MANIFEST).read_text())
    return BuiltImage(
        name=directory.parent.name,
        digest=directory.name,
        kernel=directory / KERNEL,
        initramfs=directory / INITRAMFS,
        modules_dir=directory / "modules",
        ssh_host_key=manifest["ssh_host_key"],
        ssh_client_key=directory.parent / "keys" / keys.CLIENT,
        kernel_version=manifest["kernel_version"],
    )


def _check_tools() -> None:
    missing = [tool for tool in TOOLS if shutil.which(tool) is None]
    if missing:
        raise HostError(f"building an image needs {', '.join(missing)}, not installed here", hint="run ci/setup")


def _packages(wanted: Recipe, *, update: bool) -> tuple[packages.Resolution, dict[str, Path]]:
    """What the recipe's packages are, and where they are unpacked."""
    groups = None if update else store.remembered(wanted)
    if groups is not None:
        try:
            return groups, packages.provide(groups)
        except HostError as error:
            # The archive forgets old versions: what was resolved some time ago may be gone.
            say(f"{error.what}: resolving the packages anew")
    fresh = packages.resolve(wanted.kernel, wanted.headers, wanted.packages)
    return fresh, packages.provide(fresh)


def _make(wanted: Recipe, groups: packages.Resolution, trees: dict[str, Path]) -> BuiltImage:
    """Build everything in a scratch directory and put the result in place; the caller holds the build lock."""
    home = store.home(wanted.name)
    pair = keys.ensure(home / "keys")
    with tempfile.TemporaryDirectory(prefix=store.PARTIAL, dir=home) as temporary:
        guests, scratch, result = (Path(temporary) / part for part in ("guests", "scratch", "result"))
        scratch.mkdir()
        result.mkdir()
        store.snapshot(guests)
        version = _contents(wanted, trees, pair, guests=guests, scratch=scratch, result=result)
        manifest = {
            "kernel_version": version,
            "built": time.time(),
            "ssh_host_key": pair.host_public(),
            "packages": {package.name: package.version for group in groups.values() for package in group},
        }
        (result / store.MANIFEST).write_text(json.dumps(manifest, indent=1))
        directory = home / store.digest(wanted, groups, guests)
        if not _whole(directory):
            shutil.rmtree(directory, ignore_errors=True)
            result.rename(directory)
    return _open(directory)


def _contents(
    wanted: Recipe, trees: dict[str, Path], pair: keys.Keys, *, guests: Path, scratch: Path, result: Path
) -> str:
    """Fill ``result`` and return the kernel's version.

    :param guests: a copy of the checkout's ``guests``; the drivers are built in it.
    :param scratch: an empty directory.
    """
    version = modules.kernel_version(trees["kernel"])
    with step(f"Building the guest's drivers for Linux {version}"):
        ours = modules.build_ours(guests / "drivers", trees["headers"], version)
    with step(f"Putting the image {wanted.name} together"):
        stock = modules.stock(trees["kernel"], wanted.modules)
        installed = modules.install(trees["kernel"], stock, ours, scratch)
        archive = initramfs.assemble(
            wanted, pair, guests=guests, tree=trees["programs"], modules=installed, scratch=scratch
        )
        with (result / INITRAMFS).open("wb") as output:
            archive.write(output)
        (result / KERNEL).write_bytes(kernel.provide(trees["kernel"], version))
        (result / "modules").mkdir()
        for module in ours:
            shutil.copyfile(module, result / "modules" / module.name)
    return version


def list_images() -> list[ImageInfo]:
    """The builds in the cache."""
    return store.infos()


def remove(name: str) -> list[ImageInfo]:
    """Remove all builds of a recipe, its keys, and packages that nothing else uses.

    :return: what was removed.
    :raise UsageError: there is no build of that name.
    """
    with store.build_lock():
        available = store.recipes()
        if name not in available:
            raise UsageError(f"no image {name!r} has been built", hint=f"built: {', '.join(available) or 'none'}")
        removed = [info for info in store.infos() if info.name == name]
        shutil.rmtree(store.home(name))
        packages.prune(store.resolutions())
    return removed
