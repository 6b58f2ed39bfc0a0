"""Domains for tests of driver domains: the one that serves, and those that it serves."""

from __future__ import annotations

import os
import re
import signal
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest

from harness.domain.definition import Definition, Disk, Network
from harness.domain.domain import Domain
from harness.host.deadline import Deadline
from harness.host.errors import GuestError
from tests.guest.conftest import named

MIB = 1 << 20
SECONDS = 120.0

PANIC = "echo c > /proc/sysrq-trigger"
POLL = 0.05
"""Seconds between looks at what nobody tells of."""


def driver_definition(request: pytest.FixtureRequest, *, disks: int = 2, **changes: object) -> Definition:
    """The ready-made driver domain with some small disks: vda, vdb, and so on."""
    own = tuple(Disk(f"vd{chr(ord('a') + number)}", "virtio", None, 16 * MIB) for number in range(disks))
    return replace(named("driver", request, disks=own), **changes)  # type: ignore[arg-type]


def served_definition(
    request: pytest.FixtureRequest,
    driver: Domain,
    paths: Sequence[str] = (),
    *,
    cards: int = 0,
    suffix: str = "",
    **changes: object,
) -> Definition:
    """A guest that has these disks of a driver domain, as xvda, xvdb and so on, and some cards on its bridge."""
    plain = named("pv-driver", request)
    disks = tuple(
        Disk(f"xvd{chr(ord('a') + number)}", "pv", Path(path), 0, backend=driver.name)
        for number, path in enumerate(paths)
    )
    networks = (Network("pv", backend=driver.name),) * cards
    name = plain.name + suffix
    return replace(plain, name=name, disks=disks, networks=networks, **changes)  # type: ignore[arg-type]


def image(driver: Domain, target: str) -> Path:
    """The image on this host of a disk of the driver domain."""
    return Path(driver.parts.record.scratch[0], f"{target}.img")


def make_file(driver: Domain, path: str, size: int = MIB) -> str:
    """Make a file of random bytes in the driver domain; returns its SHA-256."""
    script = 'head -c "$2" /dev/urandom >"$1" && sha256sum "$1"'
    return driver.execute(["sh", "-c", script, "sh", path, str(size)]).check().text.split()[0]


def linked_domains(domain: Domain) -> set[int]:
    """The domains with which a guest has links, as its bus has found them."""
    said = domain.execute(["sh", "-c", "ls /sys/bus/pci/drivers/pvbus | grep :; dmesg"]).check().text
    present = set(re.findall(r"^(0000:\S+)$", said, re.MULTILINE))
    found = re.findall(r"pvbus (0000:\S+): link to domain (\d+)", said)
    # A slot may have had another link before.
    return {int(domid) for slot, domid in dict(found).items() if slot in present}


def wait_for_links(domain: Domain, domids: set[int]) -> None:
    """Wait until a guest has links with these domains and no others."""
    deadline = Deadline(SECONDS, f"links of domain {domain.name} with {domids}")
    while linked_domains(domain) != domids:
        deadline.check()


def kill(domain: Domain) -> None:
    os.kill(domain.parts.record.pids["qemu"], signal.SIGKILL)


def panic(domain: Domain) -> None:
    with suppress(GuestError):
        domain.execute(["sh", "-c", PANIC])


def until(what: str, true: Callable[[], bool]) -> None:
    deadline = Deadline(SECONDS, what)
    while not true():
        deadline.check()
        time.sleep(POLL)
