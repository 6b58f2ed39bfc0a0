"""Which image is behind which disk: of files and of block devices, whatever their order in the definition."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from harness.domain.definition import Disk
from harness.domain.domain import Domain
from harness.domain.leases import Lease
from harness.host.errors import UsageError
from harness.pytest_plugin.plugin import StartDomain
from tests.guest.conftest import GUESTS, named
from tests.loop_devices import attach

SECTOR = 512
SECTORS = {"a": 4001, "b": 3008, "d": 2008}
"""How long each disk is, by the letter of its target."""


@dataclass(frozen=True)
class Rig:
    """A domain with three disks, the last letter first: d and b are on loop devices, a is on a file.

    :param files: the bytes of each disk on the host, by letter: for a loop device, the file behind it.
    """

    domain: Domain
    files: dict[str, Path]

    def disk(self, letter: str) -> Disk:
        return next(disk for disk in self.domain.definition.disks if disk.target.endswith(letter))

    def device(self, letter: str) -> str:
        return self.domain.device(self.disk(letter).target)

    def run(self, script: str, letter: str) -> str:
        """What a script prints that gets the disk's device file as ``$1``."""
        return self.domain.execute(["sh", "-c", script, "sh", self.device(letter)]).check().text


@pytest.fixture(scope="module", params=GUESTS)
def rig(
    request: pytest.FixtureRequest, start_domain_for_module: StartDomain, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Rig]:
    definition = named(request.param, request, networks=())
    (first,) = definition.disks
    directory = tmp_path_factory.mktemp("images")
    generator = random.Random(2)
    files, paths = {}, {}
    with ExitStack() as stack:
        for letter, sectors in SECTORS.items():
            files[letter] = paths[letter] = directory / letter
            files[letter].write_bytes(generator.randbytes(sectors * SECTOR))
            if letter != "a":
                paths[letter] = stack.enter_context(attach(files[letter]))
        disks = [
            replace(first, target=first.target[:-1] + letter, path=paths[letter], size=SECTORS[letter] * SECTOR)
            for letter in "dba"
        ]
        if first.model != "ide":
            disks[0] = replace(disks[0], readonly=True)
        yield Rig(start_domain_for_module(replace(definition, disks=tuple(disks))), files)
        # The domain goes on to the end of the module; a loop device that is detached now goes with its last user.


@pytest.mark.parametrize("letter", SECTORS)
def test_each_target_is_its_own_image(rig: Rig, letter: str) -> None:
    assert int(rig.run('blockdev --getsz "$1"', letter)) == SECTORS[letter]
    seen = rig.run('blockdev --flushbufs "$1" && sha256sum "$1"', letter).split()[0]
    assert seen == hashlib.sha256(rig.files[letter].read_bytes()).hexdigest()


def test_targets_without_a_gap_are_the_names_in_the_guest(rig: Rig) -> None:
    names = {letter: rig.device(letter) for letter in SECTORS}
    expected = {
        "ide": names,
        "pv": {"a": "/dev/xvda", "b": "/dev/xvdb", "d": "/dev/xvdd"},
        # There is no vdc, so that vdd is the third one that the guest finds.
        "virtio": {"a": "/dev/vda", "b": "/dev/vdb", "d": "/dev/vdc"},
    }
    assert names == expected[rig.disk("a").model]
    assert len(set(names.values())) == len(names)


@pytest.mark.parametrize("letter", ["a", "b"])
def test_what_the_guest_writes_is_in_the_file_and_in_no_other(rig: Rig, letter: str) -> None:
    before = {other: path.read_bytes() for other, path in rig.files.items()}
    pattern = random.Random(letter).randbytes(5 * SECTOR)
    start = SECTORS[letter] - 5
    rig.domain.write_file("/tmp/pattern", pattern)
    rig.run(f'dd if=/tmp/pattern of="$1" bs={SECTOR} seek={start} conv=fsync status=none', letter)
    expected = before | {letter: before[letter][: start * SECTOR] + pattern}
    assert {other: path.read_bytes() for other, path in rig.files.items()} == expected


def test_a_device_refuses_writes_just_when_it_is_attached_read_only(rig: Rig) -> None:
    """All but IDE disks, which cannot be."""
    readonly = rig.disk("d").readonly
    before = rig.files["d"].read_bytes()
    done = rig.domain.execute(["dd", "if=/dev/zero", f"of={rig.device('d')}", "bs=512", "count=1", "conv=fsync"])
    assert done.ok != readonly
    assert rig.run('blockdev --getro "$1"', "d") == str(int(readonly))
    assert (rig.files["d"].read_bytes() == before) == readonly


def test_neither_the_device_nor_its_file_can_be_written_to_besides(rig: Rig) -> None:
    path = rig.disk("b").path
    assert path is not None
    for alias in (path, rig.files["b"], rig.files["a"]):
        with pytest.raises(UsageError, match=f"{alias} is in use by"):
            Lease(alias, readonly=False)
