"""Finding shared libraries in unpacked packages, and standing in for unwanted ones."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from harness.host.errors import HostError
from harness.image import elf, stubs

LIBRARIES = "usr/lib/x86_64-linux-gnu"


def compile_c(output: Path, source: str, *options: str) -> None:
    output.parent.mkdir(parents=True, exist_ok=True)
    subprocess.run(
        ["gcc", "-x", "c", "-", "-x", "none", "-o", str(output), *options], input=source.encode(), check=True
    )


def library(tree: Path, soname: str, source: str, *options: str) -> Path:
    file = tree / LIBRARIES / soname
    compile_c(file, source, "-shared", "-fPIC", "-nostdlib", f"-Wl,-soname,{soname}", *options)
    return file


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A program that needs libone and (through it) libtwo, and versioned symbols of libbig."""
    script = tmp_path / "big.map"
    script.write_text("BIG_1 { global: big_old; };\nBIG_2 { global: big_new; } BIG_1;\n")
    two = library(tmp_path, "libtwo.so.2", "int two(void) { return 2; }")
    one = library(tmp_path, "libone.so.1", "int two(void); int one(void) { return two() - 1; }", str(two))
    big = library(
        tmp_path,
        "libbig.so.9",
        "int big_old(void) { return 0; } int big_new(void) { return 0; }",
        f"-Wl,--version-script={script}",
    )
    plain = library(tmp_path, "libplain.so.3", "int plain(void) { return 0; }")
    compile_c(
        tmp_path / "usr/bin/program",
        """
        int one(void); int big_old(void); int big_new(void); int plain(void);
        int main(int argc, char **argv)
        {
                if (argc > 1)
                        return big_new();
                if (argc > 2)
                        return big_old() + plain();
                return one() == 1 ? 42 : 1;
        }
        """,
        *(str(file) for file in (one, big, plain)),
        "-Wl,-z,now",
        f"-Wl,-rpath-link,{two.parent}",
    )
    return tmp_path


def test_direct_and_indirect_needs_are_found(tree: Path) -> None:
    found = elf.libraries(tree, ["/usr/bin/program"], provided=["libc.so.6", "libbig.so.9", "libplain.so.3"])
    assert found == [
        "/lib64/ld-linux-x86-64.so.2",
        f"/{LIBRARIES}/libone.so.1",
        f"/{LIBRARIES}/libtwo.so.2",
    ]


def test_a_missing_library_is_named_with_what_needs_it(tree: Path) -> None:
    (tree / LIBRARIES / "libtwo.so.2").unlink()
    with pytest.raises(HostError, match=r"libone\.so\.1 needs libtwo\.so\.2.*\n.*add the Debian package"):
        elf.libraries(tree, ["/usr/bin/program"], provided=["libc.so.6", "libbig.so.9", "libplain.so.3"])


def test_the_host_does_not_help(tree: Path) -> None:
    with pytest.raises(HostError, match=r"libc\.so\.6"):
        elf.libraries(tree, ["/usr/bin/program"], provided=["libbig.so.9", "libplain.so.3"])


def test_a_program_is_loaded_with_stubs_and_calling_one_ends_it(tree: Path, tmp_path: Path) -> None:
    kept = [tree / LIBRARIES / name for name in ("libone.so.1", "libtwo.so.2")]
    libc = Path("/lib/x86_64-linux-gnu/libc.so.6")
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    sonames = ["libbig.so.9", "libplain.so.3"]
    stub = stubs.build(tree / "usr/bin/program", [*kept, libc], sonames, scratch)
    for soname in sonames:
        (tree / LIBRARIES / soname).unlink()
        (tree / LIBRARIES / soname).symlink_to(stub)
    environment = {"LD_LIBRARY_PATH": str(tree / LIBRARIES)}
    program = str(tree / "usr/bin/program")
    assert subprocess.run([program], env=environment, check=False).returncode == 42
    called = subprocess.run([program, "x"], env=environment, capture_output=True, check=False)
    assert called.returncode == 127
    assert b"images/README.md" in called.stderr


def test_symbols_that_real_libraries_define_are_not_replaced() -> None:
    symbols = [
        stubs.Symbol("inflate", None, defined=False, weak=False),
        stubs.Symbol("rbd_open", None, defined=False, weak=False),
        stubs.Symbol("optional", None, defined=False, weak=True),
        stubs.Symbol("main", None, defined=True, weak=False),
        stubs.Symbol("nbd_create", "LIBNBD_1.0", defined=False, weak=False),
        stubs.Symbol("printf", "GLIBC_2.2.5", defined=False, weak=False),
    ]
    versions = {"libnbd.so.0": {"LIBNBD_1.0"}, "libempty.so.1": {"EMPTY_1"}, "libc.so.6": {"GLIBC_2.2.5"}}
    wanted = stubs.wanted_symbols(symbols, versions, ["libnbd.so.0", "librbd.so.1", "libempty.so.1"], {"inflate"})
    assert wanted == {"EMPTY_1": [], "LIBNBD_1.0": ["nbd_create"], None: ["rbd_open"]}
