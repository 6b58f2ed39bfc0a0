"""What a program needs to be loaded: found through ELF's own records and only inside unpacked packages.

``ldd`` would answer from the host's libraries; what is there must not decide what goes into an image.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from pathlib import Path

from harness.host.deadline import Deadline
from harness.host.errors import HostError
from harness.host.process import run

LIBRARY_DIRECTORIES = ("lib/x86_64-linux-gnu", "usr/lib/x86_64-linux-gnu", "lib", "usr/lib")
"""Where Debian's loader looks, in its order, without a leading slash."""

_READ_SECONDS = 30
_NEEDED = re.compile(r"\(NEEDED\)\s+Shared library: \[(.+)\]")
_INTERPRETER = re.compile(r"\[Requesting program interpreter: (.+)\]")


@dataclass(frozen=True)
class Needs:
    """What one ELF file asks for: the loader's path (None for a library or static program) and sonames."""

    interpreter: str | None
    libraries: tuple[str, ...]


def readelf(file: Path, *options: str) -> str:
    """What binutils' readelf says about a file."""
    return run(f"reading {file.name}", ["readelf", "-W", *options, str(file)], Deadline(_READ_SECONDS, "readelf"))


def parse_needs(text: str) -> Needs:
    """Read the output of ``readelf -l -d``."""
    interpreter = _INTERPRETER.search(text)
    return Needs(interpreter[1] if interpreter else None, tuple(_NEEDED.findall(text)))


def _locate(tree: Path, soname: str) -> str | None:
    for directory in LIBRARY_DIRECTORIES:
        if (tree / directory / soname).is_file():
            return f"/{directory}/{soname}"
    return None


def libraries(tree: Path, programs: Iterable[str], *, provided: Collection[str] = ()) -> list[str]:
    """All libraries and loaders that the programs need, directly or not.

    :param tree: where the packages are unpacked.
    :param programs: absolute paths in the tree.
    :param provided: sonames that come from somewhere else.
    :return: absolute paths in the tree, sorted.
    :raise HostError: a library is in none of the packages; names it and what needs it.
    """
    found: set[str] = set()
    satisfied = set(provided)
    queue = sorted(programs)
    while queue:
        path = queue.pop()
        needs = parse_needs(readelf(tree / path.lstrip("/"), "-l", "-d"))
        if needs.interpreter:
            found.add(needs.interpreter)
            # The loader is in memory under its soname before anything asks for it.
            satisfied.add(Path(needs.interpreter).name)
        for soname in needs.libraries:
            if soname in satisfied:
                continue
            location = _locate(tree, soname)
            if location is None:
                raise HostError(
                    f"{path} needs {soname}, which is in none of the recipe's packages",
                    hint=f"add the Debian package that contains {soname} to the recipe's packages",
                )
            satisfied.add(soname)
            found.add(location)
            queue.append(location)
    return sorted(found)
