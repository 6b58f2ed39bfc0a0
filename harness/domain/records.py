"""What is written down about each domain before anything of it is spawned.

A record is a directory ``<runtime>/domains/<domid>``. Its owner holds a lock on the file ``lock`` in it for as long as
it lives, so whoever finds the lock free knows that the owner is gone, whatever process IDs say.
"""

from __future__ import annotations

import itertools
import json
import os
import shutil
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from harness.host.directories import lock, runtime, try_lock
from harness.host.errors import UsageError

FIRST_RESERVED_DOMID = 0x7FF0
"""DOMID_FIRST_RESERVED of xen.h: domains have smaller numbers."""


_writing = threading.Lock()


@dataclass
class Record:
    """One domain as others see it.

    :param pids: of every process that belongs to this domain alone, by role (``qemu``, ``backend``, ``supervisor``).
    :param scratch: files and directories outside the record that go with the domain.
    :param addresses: IPv4 addresses of its cards.
    :param started: seconds since the epoch.
    :param restarts: how many backend processes have died and were replaced, and how often the domain itself was.
    :param driver_domain: whether it serves others, by what it says at :attr:`driver_socket`.
    :param waits_for: driver domains of this domain that have gone, so that what they serve makes no progress.
    """

    name: str
    domid: int
    kind: str
    state: str
    owner: int
    logs: str
    pids: dict[str, int] = field(default_factory=dict)
    scratch: list[str] = field(default_factory=list)
    addresses: list[str] = field(default_factory=list)
    started: float = field(default_factory=time.time)
    restarts: int = 0
    driver_domain: bool = False
    waits_for: list[str] = field(default_factory=list)

    @property
    def directory(self) -> Path:
        return directory_of(self.domid)

    @property
    def control_socket(self) -> Path:
        """Where the owner takes requests, if it does."""
        return self.directory / "control.sock"

    @property
    def driver_socket(self) -> Path:
        """Where the owner of a driver domain takes in those that it serves."""
        return self.directory / "driver.sock"

    def write(self) -> None:
        """Put the record on disk, whole or not at all; any thread may call this."""
        path = self.directory / "record.json"
        fresh = path.with_suffix(".new")
        with _writing:
            fresh.write_text(json.dumps(asdict(self)))
            fresh.rename(path)


def directory_of(domid: int) -> Path:
    return runtime("domains") / str(domid)


def _load(directory: Path) -> Record | None:
    """The record in a directory, or None where there is none that makes sense."""
    try:
        fields: dict[str, Any] = json.loads((directory / "record.json").read_text())
        return Record(**fields)
    except (OSError, ValueError, TypeError):
        return None


def _directories() -> list[Path]:
    return sorted((path for path in runtime("domains").iterdir() if path.name.isdigit()), key=lambda p: int(p.name))


def records() -> Iterator[Record]:
    """The records of all domains whose owner lives, by domid."""
    for directory in _directories():
        record = _load(directory)
        if record is not None and not _abandoned(directory):
            yield record


def find(name: str) -> Record:
    """The record of the running domain with this name or domid.

    :raise UsageError: there is none.
    """
    known = list(records())
    for record in known:
        if name in (record.name, str(record.domid)):
            return record
    names = ", ".join(record.name for record in known) or "none"
    raise UsageError(f"no domain is called {name}; running: {names}", hint="see: harness list")


def _abandoned(directory: Path) -> bool:
    descriptor = try_lock(directory / "lock") if directory.exists() else None
    if descriptor is None:
        return False
    os.close(descriptor)
    return True


class Claim:
    """A record and the lock that says its owner lives."""

    def __init__(self, record: Record, descriptor: int) -> None:
        self.record = record
        self._descriptor = descriptor

    def release(self) -> None:
        """Remove the record and what it names; the domid is free again."""
        remove(self.record.directory, self.record.scratch)
        os.close(self._descriptor)


def claim(name: str, kind: str, logs: Path, *, driver_domain: bool = False) -> Claim:
    """Take a free domid and the name, and write the record.

    :raise UsageError: a running domain has this name already.
    """
    with lock(runtime() / "domains.lock"):
        collect()
        known = list(records())
        if any(record.name == name for record in known):
            raise UsageError(
                f"a domain called {name} is running already",
                hint=f"choose another name with --name, or end it: harness destroy {name}",
            )
        domid = _next_domid(runtime() / "domains.lock")
        directory_of(domid).mkdir(mode=0o700)
        descriptor = try_lock(directory_of(domid) / "lock")
        if descriptor is None:
            raise UsageError(f"somebody locked the new record of domain {domid}", hint="try: harness gc")
        record = Record(name, domid, kind, "created", os.getpid(), str(logs), driver_domain=driver_domain)
        record.write()
        return Claim(record, descriptor)


def _next_domid(counter: Path) -> int:
    """The number after the last one given; the caller holds the lock on the file that tells which that was.

    As in Xen, a number is not used again soon: whoever is late to remove a domain's record removes nobody else's.
    """
    text = counter.read_text()
    last = min(int(text) if text.isdecimal() else 0, FIRST_RESERVED_DOMID - 1)
    taken = {int(path.name) for path in _directories()}
    for domid in itertools.chain(range(last + 1, FIRST_RESERVED_DOMID), range(1, last + 1)):
        if domid not in taken:
            counter.write_text(str(domid))
            return domid
    raise UsageError("all domain numbers are in use", hint="end some domains: harness list, harness destroy")


def collect() -> list[str]:
    """End and remove what owners left behind that are gone; returns a line for each thing done."""
    done = []
    for directory in _directories():
        if not _abandoned(directory):
            continue
        record = _load(directory)
        if record is not None:
            done += [f"killed {role} {pid} of {record.name}" for role, pid in record.pids.items() if _kill(pid, record)]
        remove(directory, record.scratch if record else [])
        done.append(f"removed the record of {record.name if record else directory.name}")
    return done


def _kill(pid: int, record: Record) -> bool:
    # The number may have been given to somebody else since: only a process that names this record is ours.
    try:
        entries = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    except OSError:
        return False
    if not any(f"{key}={value}".encode() in entries for key, value in environment(record.domid).items()):
        return False
    with suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)
        return True
    return False


def environment(domid: int) -> dict[str, str]:
    """The environment entry by which a process of a domain is known."""
    return {"HARNESS_DOMAIN": str(directory_of(domid))}


def remove(directory: Path, scratch: list[str]) -> None:
    """Remove a record and what it names."""
    for path in [*map(Path, scratch), directory]:
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path, ignore_errors=True)
        else:
            with suppress(OSError):
                path.unlink()
