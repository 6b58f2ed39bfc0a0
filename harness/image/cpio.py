"""An initramfs: the newc cpio format, written deterministically.

Written here because no archiver can put device nodes and root's ownership into an archive without being root, and
because two builds from the same sources must give the same bytes.
"""

from __future__ import annotations

import stat
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import BinaryIO

MAGIC = b"070701"
TRAILER = "TRAILER!!!"
DATA_ALIGNMENT = 4
ARCHIVE_ALIGNMENT = 512


@dataclass(frozen=True)
class Entry:
    """One member: ``mode`` as in stat(2); ``source``: file content or link target; ``device``: (major, minor)."""

    mode: int
    source: bytes | Path = b""
    device: tuple[int, int] = (0, 0)

    def content(self) -> bytes:
        return self.source.read_bytes() if isinstance(self.source, Path) else self.source


def _key(path: str) -> str:
    return str(PurePosixPath("/") / path)[1:]


class Archive:
    """A tree of members to be; directories above a member are made as needed (mode 0755). Everything is root's."""

    def __init__(self) -> None:
        self._entries: dict[str, Entry] = {}

    def __contains__(self, path: str) -> bool:
        return _key(path) in self._entries

    def paths(self) -> list[str]:
        """All members, as absolute paths, in archive order."""
        return ["/" + path for path in sorted(self._entries)]

    def directory(self, path: str, mode: int = 0o755) -> None:
        self._add(path, Entry(stat.S_IFDIR | mode))

    def file(self, path: str, source: bytes | Path, mode: int = 0o644) -> None:
        """A regular file; a Path is read when the archive is written."""
        self._add(path, Entry(stat.S_IFREG | mode, source))

    def symlink(self, path: str, target: str) -> None:
        self._add(path, Entry(stat.S_IFLNK | 0o777, target.encode()))

    def character_device(self, path: str, major: int, minor: int, mode: int = 0o600) -> None:
        self._add(path, Entry(stat.S_IFCHR | mode, device=(major, minor)))

    def _add(self, path: str, entry: Entry) -> None:
        key = _key(path)
        for parent in PurePosixPath(key).parents:
            if str(parent) != ".":
                self._entries.setdefault(str(parent), Entry(stat.S_IFDIR | 0o755))
        self._entries[key] = entry

    def write(self, output: BinaryIO) -> None:
        """Write all members, sorted by path: a directory always comes before what is in it."""
        size = 0
        for inode, (path, entry) in enumerate(sorted(self._entries.items()), start=1):
            size += _member(output, path, entry, inode, links=2 if stat.S_ISDIR(entry.mode) else 1)
        size += _member(output, TRAILER, Entry(0), 0, links=1)
        output.write(bytes(-size % ARCHIVE_ALIGNMENT))


def _member(output: BinaryIO, path: str, entry: Entry, inode: int, *, links: int) -> int:
    """Write one member and return its size in bytes, padding included."""
    name = path.encode() + b"\0"
    content = entry.content()
    major, minor = entry.device
    # newc: inode, mode, uid, gid, links, mtime, size, device (2), special device (2), name's size, checksum (unused)
    numbers = (inode, entry.mode, 0, 0, links, 0, len(content), 0, 0, major, minor, len(name), 0)
    header = MAGIC + b"".join(b"%08X" % number for number in numbers) + name
    header += bytes(-len(header) % DATA_ALIGNMENT)
    tail = bytes(-len(content) % DATA_ALIGNMENT)
    return sum(output.write(part) for part in (header, content, tail))
