"""Stand-ins for shared libraries that a program is linked to but that its work here never calls.

Debian's fio links the client libraries of every remote storage it knows, about 80 MB with what they need in turn, and
is bound to them when it starts (it is linked with ``-z now``). The loader wants each library to exist, to define the
symbol versions asked of it, and every symbol to be found somewhere. One stub library with all of that, under all the
names, satisfies it; calling one of the functions ends the program with a message.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from pathlib import Path

from harness.host.deadline import Deadline
from harness.host.process import run
from harness.image.elf import readelf

_COMPILE_SECONDS = 60
_SYMBOL = re.compile(
    r"^\s*\d+: [0-9a-f]+\s+\S+ \w+\s+(?P<binding>\w+)\s+\w+\s+(?P<section>\S+)"
    r"\s+(?P<name>\w+)(?:@+(?P<version>[\w.]+))?"
)
_NEEDED_FILE = re.compile(r"File: (\S+)\s+Cnt:")
_NEEDED_VERSION = re.compile(r"Name: (\S+)\s+Flags:")

_SOURCE = """\
extern long write(int descriptor, const void *data, unsigned long size);
extern void _exit(int status) __attribute__((noreturn));

static void absent(void)
{
	static const char text[] = "this image has no storage libraries: see images/README.md\\n";

	write(2, text, sizeof(text) - 1);
	_exit(127);
}
"""


@dataclass(frozen=True)
class Symbol:
    """A dynamic symbol that a file defines or wants; ``version`` is None when it has none."""

    name: str
    version: str | None
    defined: bool
    weak: bool


def parse_symbols(text: str) -> list[Symbol]:
    """Read the output of ``readelf --dyn-syms``."""
    matches = filter(None, map(_SYMBOL.match, text.splitlines()))
    return [
        Symbol(match["name"], match["version"], match["section"] != "UND", match["binding"] == "WEAK")
        for match in matches
    ]


def parse_versions(text: str) -> dict[str, set[str]]:
    """Read the needs section of ``readelf -V``: the symbol versions wanted of each library."""
    wanted: dict[str, set[str]] = defaultdict(set)
    library = ""
    for line in text[text.find("Version needs section") :].splitlines():
        if match := _NEEDED_FILE.search(line):
            library = match[1]
        elif library and (match := _NEEDED_VERSION.search(line)):
            wanted[library].add(match[1])
    return dict(wanted)


def wanted_symbols(
    symbols: Iterable[Symbol], versions: dict[str, set[str]], sonames: Collection[str], real: Collection[str]
) -> dict[str | None, list[str]]:
    """Which symbols the stub must define, by version.

    :param symbols: the program's dynamic symbols.
    :param versions: the symbol versions that the program wants of each library.
    :param sonames: the libraries to replace.
    :param real: names that the libraries which stay define: an unversioned symbol does not say whose it is.
    """
    replaced = {version for soname in sonames for version in versions.get(soname, ())}
    result: dict[str | None, list[str]] = {version: [] for version in sorted(replaced)}
    for symbol in symbols:
        if symbol.defined or symbol.weak:
            continue
        if symbol.version in replaced or (symbol.version is None and symbol.name not in real):
            result.setdefault(symbol.version, []).append(symbol.name)
    return {version: sorted(names) for version, names in result.items()}


def source(symbols: dict[str | None, list[str]]) -> tuple[str, str]:
    """The stub library's C source and linker version script."""
    names = sorted({name for group in symbols.values() for name in group})
    code = _SOURCE + "".join(f'\nvoid {name}(void) __attribute__((alias("absent")));' for name in names) + "\n"
    script = ""
    for version, group in symbols.items():
        members = "".join(f" {name};" for name in group)
        if version is not None:
            script += f"{version} {{ global:{members or ' '} }};\n"
    return code, script


def build(program: Path, kept: Iterable[Path], sonames: Collection[str], directory: Path) -> Path:
    """Compile the stub library that stands for ``sonames`` in the eyes of ``program``.

    :param kept: the real libraries that the program will be loaded with.
    :param directory: scratch space; the library is made in it.
    """
    real = {symbol.name for file in kept for symbol in parse_symbols(readelf(file, "--dyn-syms")) if symbol.defined}
    symbols = wanted_symbols(
        parse_symbols(readelf(program, "--dyn-syms")), parse_versions(readelf(program, "-V")), sonames, real
    )
    code, script = source(symbols)
    (directory / "stubs.c").write_text(code)
    (directory / "stubs.map").write_text(script)
    argv = [
        "gcc",
        "-shared",
        "-fPIC",
        "-O2",
        "-nostdlib",
        "-Wl,--version-script=stubs.map",
        "-o",
        "stubs.so",
        "stubs.c",
    ]
    run("compiling the stub libraries", argv, Deadline(_COMPILE_SECONDS, "compiling the stub libraries"), cwd=directory)
    return directory / "stubs.so"
