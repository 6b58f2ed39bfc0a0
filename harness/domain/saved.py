"""The file of a saved domain: what it consists of, and the state of its machine.

First a header of fixed length: :data:`MAGIC`, the version of the format, the lengths of the two parts that follow, and
their SHA-256; then the state, as QEMU has written it; then the description, JSON. The directory ``FILE.disks`` beside
it holds the images that lived and died with the domain.

Nobody but its owner may read the file: it holds everything that was in the guest's memory.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import struct
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from harness.host.closing import Closing
from harness.host.deadline import Deadline
from harness.host.errors import HostError, UsageError
from harness.host.process import run

MAGIC = b"harness domain\n\0"
VERSION = 2
HEADER = struct.Struct(">16sIQQ32s")
DESCRIPTION_LIMIT = 1 << 20
CHUNK = 1 << 20


def disks_directory(file: Path) -> Path:
    """Where the scratch images of a saved domain are."""
    return file.with_name(f"{file.name}.disks")


class Writer:
    """Makes the file of a saved domain, which is there whole at the end of :meth:`finish`, and before that not at all.

    :raise HostError: it cannot be made there.
    """

    def __init__(self, file: Path) -> None:
        self._file = file
        self._fresh = file.with_name(f"{file.name}.new")
        self._fresh_disks = disks_directory(self._fresh)
        try:
            # One that is there has been left by a save that was cut short.
            self._fresh.unlink(missing_ok=True)
            shutil.rmtree(self._fresh_disks, ignore_errors=True)
            self._descriptor = os.open(self._fresh, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise HostError(f"cannot save a domain to {file}: {error.strerror}") from error
        # The header comes last: without one the file is none.
        os.ftruncate(self._descriptor, HEADER.size)
        os.lseek(self._descriptor, HEADER.size, os.SEEK_SET)

    @property
    def descriptor(self) -> int:
        """What to write the machine's state to, from its present offset on."""
        return self._descriptor

    def add_disk(self, name: str, image: Path, deadline: Deadline) -> Path:
        """Copy an image that would go with the domain; returns the copy.

        :raise HostError: there is no room for it.
        """
        self._fresh_disks.mkdir(mode=0o700, exist_ok=True)
        copy = self._fresh_disks / name
        copy_image(image, copy, deadline)
        return copy

    def finish(self, description: Mapping[str, Any]) -> None:
        """Write what the state belongs to, and put the file in its place.

        :raise HostError: there is no room for it.
        """
        try:
            length = os.fstat(self._descriptor).st_size - HEADER.size
            text = json.dumps(description, ensure_ascii=False).encode()
            os.pwrite(self._descriptor, text, HEADER.size + length)
            digest = _digest(self._descriptor)
            os.pwrite(self._descriptor, HEADER.pack(MAGIC, VERSION, length, len(text), digest), 0)
            os.fsync(self._descriptor)
            self._fresh.rename(self._file)
            # Should this fail, the file has the wrong images, or none, which is noticed.
            shutil.rmtree(disks_directory(self._file), ignore_errors=True)
            if self._fresh_disks.exists():
                self._fresh_disks.rename(disks_directory(self._file))
        except UnicodeEncodeError as error:
            raise UsageError(f"a domain with a path like {error.object!r} cannot be saved: it is not UTF-8") from error
        except OSError as error:
            raise HostError(f"cannot save a domain to {self._file}: {error.strerror}") from error

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        os.close(self._descriptor)
        self._fresh.unlink(missing_ok=True)
        shutil.rmtree(self._fresh_disks, ignore_errors=True)


class Reader(Closing):
    """The file of a saved domain, looked at as a whole.

    :raise UsageError: it does not exist, is none, or is damaged.

    :ivar description: what :meth:`Writer.finish` was given; its contents are not checked yet.
    """

    def __init__(self, file: Path) -> None:
        self.file = file
        try:
            self._descriptor = os.open(file, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        except OSError as error:
            raise UsageError(f"cannot restore a domain from {file}: {error.strerror}") from error
        try:
            self.description, self._text_offset = self._read()
        except OSError as error:
            self.close()
            raise UsageError(f"cannot restore a domain from {file}: {error.strerror}") from error
        except BaseException:
            self.close()
            raise

    def _read(self) -> tuple[dict[str, Any], int]:
        header = os.pread(self._descriptor, HEADER.size, 0)
        if not header.startswith(MAGIC):
            raise UsageError(f"{self.file} is no saved domain", hint="make one: harness save NAME FILE")
        if len(header) < HEADER.size:
            raise self._damaged("it ends within its header")
        _, version, state, text, digest = HEADER.unpack(header)
        if version != VERSION:
            raise UsageError(f"{self.file} has version {version} of the format, this is for version {VERSION}")
        size = os.fstat(self._descriptor).st_size
        if HEADER.size + state + text != size or text > DESCRIPTION_LIMIT:
            raise self._damaged(f"it has {size} bytes, its header tells of {HEADER.size + state + text}")
        if _digest(self._descriptor) != digest:
            raise self._damaged("its checksum is wrong")
        try:
            description = json.loads(os.pread(self._descriptor, text, HEADER.size + state))
        except (ValueError, RecursionError) as error:
            raise self._damaged(f"its description is no JSON: {error}") from error
        if not isinstance(description, dict):
            raise self._damaged("its description is no JSON object")
        return description, HEADER.size + state

    def _damaged(self, why: str) -> UsageError:
        return UsageError(f"the saved domain {self.file} is damaged: {why}")

    def state(self) -> int:
        """The descriptor to read the machine's state from, from its present offset on."""
        os.lseek(self._descriptor, HEADER.size, os.SEEK_SET)
        return self._descriptor

    def disk(self, name: str) -> Path:
        """The copy of an image that went with the domain."""
        return disks_directory(self.file) / name

    def close(self) -> None:
        os.close(self._descriptor)


def copy_image(image: Path, copy: Path, deadline: Deadline) -> None:
    """Copy an image, and of that only what has ever been written.

    :raise HostError: it cannot be read, or there is no room for it.
    """
    command = ["cp", "--sparse=always", "--reflink=auto", "--no-target-directory", "--", str(image), str(copy)]
    run(f"copying {image}", command, deadline)


def _digest(descriptor: int) -> bytes:
    """SHA-256 of everything behind the header."""
    digest, offset = hashlib.sha256(), HEADER.size
    while piece := os.pread(descriptor, CHUNK, offset):
        digest.update(piece)
        offset += len(piece)
    return digest.digest()
