"""Where built images are kept: ``images/RECIPE/DIGEST`` in the cache, and what is remembered about each recipe.

A digest covers the recipe, the resolved packages, the guests' sources and this package's own code. A directory of that
name appears by one rename, so it is complete whenever it is there.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from harness.host.directories import GUESTS, cache, lock, try_lock
from harness.host.progress import say
from harness.image.initramfs import is_skeleton
from harness.image.modules import is_source
from harness.image.packages import Group, Package, Resolution
from harness.image.recipe import Recipe

KEPT_BUILDS = 3
"""Builds kept of each recipe: a domain that runs may still want the files of the last ones."""

MANIFEST = "manifest.json"
PARTIAL = ".partial-"
_RESOLUTION = "packages.json"


@dataclass(frozen=True)
class ImageInfo:
    """A build as ``harness images list`` shows it.

    :param size: bytes on disk. :param built: seconds since the epoch. :param current: the newest of its recipe.
    """

    name: str
    digest: str
    kernel_version: str
    size: int
    built: float
    current: bool

    @property
    def age(self) -> float:
        """Seconds since it was built."""
        return max(0.0, time.time() - self.built)


def home(name: str) -> Path:
    """The directory of a recipe's builds."""
    return cache("images", name)


def sources(guests: Path) -> Iterator[Path]:
    """Every file below ``guests`` that an image is made from; files that compilers and editors leave are none."""
    for part, wanted in (("agent", is_source), ("drivers", is_source), ("init", is_skeleton)):
        yield from sorted(file for file in (guests / part).rglob("*") if file.is_file() and wanted(file))


def snapshot(target: Path) -> None:
    """Copy the guests' sources, so that what is built and what the digest says cannot differ by a change meanwhile."""
    for file in sources(GUESTS):
        place = target / file.relative_to(GUESTS)
        place.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(file, place)


def digest(recipe: Recipe, groups: Resolution, guests: Path) -> str:
    """The name of the build that these inputs give: 16 hexadecimal digits."""
    total = hashlib.sha256(recipe.file.read_bytes())
    for name, group in sorted(groups.items()):
        for package in group:
            total.update(f"{name} {package.file} {package.sha256}\n".encode())
    own = Path(__file__).parent
    inputs = [(file.relative_to(guests), file) for file in sources(guests)]
    inputs += [(file.relative_to(own), file) for file in sorted(own.glob("*.py"))]
    for label, file in inputs:
        content = file.read_bytes()
        total.update(f"{label} {os.access(file, os.X_OK)} {len(content)}\n".encode() + content)
    return total.hexdigest()[:16]


def _read(file: Path) -> tuple[list[str], dict[str, Group]] | None:
    """What was asked for and what it was resolved to; None if the file is missing or damaged."""
    try:
        stored = json.loads(file.read_text())
        groups = {name: tuple(Package(**package) for package in group) for name, group in stored["groups"].items()}
        return list(stored["requested"]), groups
    except (FileNotFoundError, ValueError, KeyError, TypeError, AttributeError):
        return None


def remembered(recipe: Recipe) -> dict[str, Group] | None:
    """The resolution of the recipe's packages that is in use, or None if there is none for what it asks for now."""
    stored = _read(home(recipe.name) / _RESOLUTION)
    if stored is None or stored[0] != list(recipe.requested):
        return None
    return stored[1]


def remember(recipe: Recipe, groups: Resolution) -> None:
    """Use this resolution until a newer one is asked for."""
    stored = {
        "requested": list(recipe.requested),
        "groups": {name: [asdict(package) for package in group] for name, group in groups.items()},
    }
    target = home(recipe.name) / _RESOLUTION
    temporary = target.with_suffix(".new")
    temporary.write_text(json.dumps(stored, indent=1))
    temporary.rename(target)


def resolutions() -> Iterator[dict[str, Group]]:
    """The resolutions in use, of every recipe that has been built."""
    for recipe in recipes():
        stored = _read(home(recipe) / _RESOLUTION)
        if stored is not None:
            yield stored[1]


def recipes() -> list[str]:
    """The recipes that have something in the cache."""
    return sorted(path.name for path in cache("images").iterdir() if path.is_dir())


def builds(name: str) -> list[Path]:
    """The complete builds of a recipe, the most recently used first."""
    manifests = (cache("images") / name).glob(f"*/{MANIFEST}")
    used = sorted(((file.stat().st_mtime, file.parent) for file in manifests), reverse=True)
    return [directory for _, directory in used]


def infos() -> list[ImageInfo]:
    """All builds of all recipes; the most recently used of each recipe comes first and is the current one."""
    found = []
    for recipe in recipes():
        for index, directory in enumerate(builds(recipe)):
            manifest = json.loads((directory / MANIFEST).read_text())
            size = sum(file.stat().st_blocks * 512 for file in directory.rglob("*") if file.is_file())
            found.append(
                ImageInfo(
                    name=recipe,
                    digest=directory.name,
                    kernel_version=manifest["kernel_version"],
                    size=size,
                    built=manifest["built"],
                    current=index == 0,
                )
            )
    return found


def prune(name: str) -> None:
    """Remove what interrupted builds left and all but the latest builds; the caller holds the build lock."""
    for stale in home(name).glob(f"{PARTIAL}*"):
        shutil.rmtree(stale)
    for old in builds(name)[KEPT_BUILDS:]:
        shutil.rmtree(old)


@contextmanager
def build_lock() -> Iterator[None]:
    """Hold the lock that makes two builds at once one; says so when somebody else holds it."""
    path = cache("images") / ".lock"
    held = try_lock(path)
    if held is None:
        say("Another process is building images; waiting for it …")
        with lock(path):
            yield
        return
    try:
        yield
    finally:
        os.close(held)
