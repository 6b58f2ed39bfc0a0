"""The initramfs writer, judged by cpio(1)."""

from __future__ import annotations

import io
import subprocess
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from harness.image.cpio import ARCHIVE_ALIGNMENT, Archive

NAMES = st.text("abcXYZ019._-+", min_size=1, max_size=12).filter(lambda name: name not in (".", ".."))
PATHS = st.lists(NAMES, min_size=1, max_size=4).map("/".join)


def written(archive: Archive) -> bytes:
    output = io.BytesIO()
    archive.write(output)
    return output.getvalue()


def listing(data: bytes, *options: str) -> list[str]:
    done = subprocess.run(["cpio", "-it", "--quiet", *options], input=data, capture_output=True, check=True)
    assert done.stderr == b""
    return done.stdout.decode().splitlines()


@given(st.dictionaries(PATHS, st.binary(max_size=700), max_size=8))
def test_cpio_extracts_what_was_put_in(files: dict[str, bytes]) -> None:
    archive = Archive()
    kept: dict[str, bytes] = {}
    for path, content in files.items():
        # A path cannot be a file and a directory.
        if not any(other.startswith(path + "/") or path.startswith(other + "/") for other in kept):
            kept[path] = content
            archive.file(path, content)
    data = written(archive)
    assert len(data) % ARCHIVE_ALIGNMENT == 0
    for path, content in kept.items():
        extracted = subprocess.run(
            ["cpio", "-i", "--quiet", "--to-stdout", "--", path],
            input=data,
            capture_output=True,
            check=True,
        )
        assert extracted.stdout == content


def test_kinds_owners_and_times() -> None:
    archive = Archive()
    archive.directory("/tmp", 0o1777)
    archive.character_device("dev/console", 5, 1)
    archive.file("/sbin/x", b"data", 0o755)
    archive.symlink("/sbin/y", "x")
    lines = {line.split()[-1]: line.split() for line in listing(written(archive), "-v", "--numeric-uid-gid")}
    assert lines["tmp"][0] == "drwxrwxrwt"
    assert lines["dev"][0] == "drwxr-xr-x"
    assert lines["dev/console"][0] == "crw-------"
    assert lines["dev/console"][4:6] == ["5,", "1"]
    assert lines["sbin/x"][0] == "-rwxr-xr-x"
    assert lines["x"][-3:] == ["sbin/y", "->", "x"]
    for fields in lines.values():
        assert fields[2:4] == ["0", "0"]
        assert "1970" in fields


def test_directories_come_before_what_is_in_them() -> None:
    archive = Archive()
    archive.file("/a/b/c", b"")
    archive.file("/a-first", b"")
    assert listing(written(archive)) == ["a", "a-first", "a/b", "a/b/c"]
    assert archive.paths() == ["/a", "/a-first", "/a/b", "/a/b/c"]


def test_order_of_additions_does_not_matter(tmp_path: Path) -> None:
    source = tmp_path / "file"
    source.write_bytes(b"content")
    one, other = Archive(), Archive()
    one.file("/etc/x", source)
    one.directory("/etc")
    one.symlink("/b", "etc/x")
    other.symlink("b", "etc/x")
    other.file("etc/x", b"content")
    assert written(one) == written(other)
