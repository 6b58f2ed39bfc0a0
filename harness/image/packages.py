"""Debian packages, resolved by name through apt and unpacked in the cache; nothing is installed on the host.

apt gets package lists of its own below the cache, so that neither root is needed nor the host's lists are touched.
Packages come in groups (kernel, headers, programs); a group is unpacked into one tree whose name is a digest of the
packages' hashes, so that a tree that exists is complete and right.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import tempfile
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote

from harness.host.deadline import Deadline
from harness.host.directories import cache
from harness.host.errors import HostError, LaunchError
from harness.host.process import run
from harness.host.progress import step

UPDATE_SECONDS = 300
DOWNLOAD_SECONDS = 1800
UNPACK_SECONDS = 300

_URI = re.compile(r"'(?P<uri>[^']+)' (?P<file>\S+) (?P<size>\d+) SHA256:(?P<sha256>[0-9a-f]{64})")
_HINT = "recipes name Debian packages: this needs apt with Debian's sources, and the network"


@dataclass(frozen=True)
class Package:
    """One resolved package: its file name in the archive (name, version, architecture), bytes, and SHA-256."""

    name: str
    file: str
    size: int
    sha256: str

    @property
    def version(self) -> str:
        return unquote(self.file.split("_")[1])


Group = tuple[Package, ...]
Resolution = Mapping[str, Group]


def parse_uris(text: str) -> list[Package]:
    """Read what ``apt-get --print-uris download`` prints, in its order; other lines are apt's remarks."""
    found = (_URI.fullmatch(line.strip()) for line in text.splitlines())
    return [
        Package(match["file"].split("_")[0], match["file"], int(match["size"]), match["sha256"])
        for match in found
        if match
    ]


def parse_depends(text: str, prefix: str) -> list[str]:
    """The packages in the output of ``apt-cache depends --recurse`` whose names start with ``prefix``, sorted.

    A package that is only named (virtual, in angle brackets) is left out, and so are the indented lines, which repeat
    what has a line of its own.
    """
    return sorted({line.strip() for line in text.splitlines() if line.startswith(prefix)})


def group_digest(group: Iterable[Package]) -> str:
    """What a tree of these packages is called: it changes with any package's contents."""
    return hashlib.sha256("\n".join(sorted(package.sha256 for package in group)).encode()).hexdigest()[:16]


def _options() -> list[str]:
    home = cache("apt")
    for part in ("lists/partial", "archives/partial"):
        (home / part).mkdir(parents=True, exist_ok=True)
    options = {
        "Dir::State::lists": str(home / "lists"),
        "Dir::Cache": str(home),
        # The lists answer for themselves: what the host has installed must not change the result.
        "Dir::State::status": "/dev/null",
        # The sandbox user cannot enter a private cache, and apt would warn about it each time.
        "APT::Sandbox::User": "root" if os.getuid() == 0 else "",
        "Acquire::Languages": "none",
        "Acquire::Retries": "3",
    }
    return [argument for key, value in options.items() if value for argument in ("-o", f"{key}={value}")]


def _apt(what: str, program: str, arguments: list[str], seconds: float, *, cwd: Path | None = None) -> str:
    try:
        return run(what, [program, *_options(), *arguments], Deadline(seconds, what), cwd=cwd)
    except LaunchError as error:
        error.hint = error.hint or _HINT
        raise


def _family(package: str, prefix: str) -> list[str]:
    """A package and those of its direct and indirect dependencies whose names start with ``prefix``."""
    kinds = ["pre-depends", "recommends", "suggests", "conflicts", "breaks", "replaces", "enhances"]
    arguments = ["depends", "--recurse", *(f"--no-{kind}" for kind in kinds), package]
    return parse_depends(_apt(f"looking up {package}", "apt-cache", arguments, UPDATE_SECONDS), prefix)


def _locate(names: Iterable[str]) -> Group:
    wanted = sorted(set(names))
    # An empty directory: apt-get says nothing about a package whose file lies in the current one.
    with tempfile.TemporaryDirectory(dir=cache("apt")) as empty:
        text = _apt("resolving packages", "apt-get", ["--print-uris", "download", *wanted], 120, cwd=Path(empty))
    found = {package.name: package for package in parse_uris(text)}
    missing = [name for name in wanted if name not in found]
    if missing:
        raise HostError(f"apt gave no address for {', '.join(missing)}", hint=_HINT)
    return tuple(found[name] for name in wanted)


def resolve(kernel: str, headers: str, packages: Iterable[str]) -> dict[str, Group]:
    """Fetch the archive's lists and choose the newest packages.

    :param kernel: the package that depends on the kernel image.
    :param headers: the package that depends on the matching headers and build tools.
    :param packages: everything else, by name.
    :return: the groups ``kernel``, ``headers`` and ``programs``.
    :raise HostError: apt is missing, has no network, or knows no such package.
    """
    with step("Fetching Debian's package lists"):
        _apt("fetching the package lists", "apt-get", ["-q", "update", "--error-on=any"], UPDATE_SECONDS)
    return {
        "kernel": _locate(_family(kernel, "linux-image-")),
        "headers": _locate(_family(headers, "linux-")),
        "programs": _locate(packages),
    }


def tree(name: str, group: Group) -> Path:
    """Where the group is (or will be) unpacked."""
    return cache("packages") / f"{name}-{group_digest(group)}"


def unpacked(groups: Resolution) -> bool:
    """Whether every group's tree exists."""
    return all(tree(name, group).is_dir() for name, group in groups.items())


def provide(groups: Resolution) -> dict[str, Path]:
    """Download and unpack the groups that are not there yet; the caller holds the build lock.

    :return: the tree of each group.
    :raise HostError: a download failed or is not what was resolved.
    """
    missing = {name: group for name, group in groups.items() if not tree(name, group).is_dir()}
    if missing:
        megabytes = sum(package.size for group in missing.values() for package in group) / 1e6
        count = sum(len(group) for group in missing.values())
        with tempfile.TemporaryDirectory(prefix=".partial-", dir=cache("packages")) as scratch:
            with step(f"Downloading {count} Debian packages ({megabytes:.0f} MB)"):
                _download([package for group in missing.values() for package in group], Path(scratch))
            with step("Unpacking them"), ThreadPoolExecutor() as pool:
                list(pool.map(lambda name: _unpack(name, missing[name], Path(scratch)), missing))
    return {name: tree(name, group) for name, group in groups.items()}


def _download(packages: list[Package], directory: Path) -> None:
    names = sorted({f"{package.name}={package.version}" for package in packages})
    _apt("downloading packages", "apt-get", ["-q", "download", *names], DOWNLOAD_SECONDS, cwd=directory)
    for package in packages:
        file = directory / package.file
        if not file.is_file():
            raise HostError(f"apt did not download {package.file}", hint="try again, or: harness images build --update")
        with file.open("rb") as content:
            if hashlib.file_digest(content, "sha256").hexdigest() != package.sha256:
                raise HostError(f"{package.file} is not the file that apt's lists describe", hint="try again")


def _unpack(name: str, group: Group, scratch: Path) -> None:
    staging = scratch / name
    staging.mkdir()
    for package in group:
        argv = ["dpkg-deb", "--extract", str(scratch / package.file), str(staging)]
        run(f"unpacking {package.file}", argv, Deadline(UNPACK_SECONDS, f"unpacking {package.file}"))
    staging.rename(tree(name, group))


def prune(resolutions: Iterable[Resolution]) -> None:
    """Remove what no recipe's resolution refers to, and what an interrupted build left; holds with the build lock."""
    used = {tree(name, group) for groups in resolutions for name, group in groups.items()}
    for found in cache("packages").iterdir():
        if found not in used:
            shutil.rmtree(found)
