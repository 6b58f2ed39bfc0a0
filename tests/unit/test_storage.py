"""What a driver domain may give out: facts about its block devices, and what they mean."""

from __future__ import annotations

import pytest

from harness.domain.storage import Survey
from harness.host.errors import GuestError, UsageError

FACTS = """
part 254:1 254:0
part 254:2 254:0
part 254:17 254:16
part 253:0 254:17
volume 253:0 /dev/mapper/vg0-one
part 253:1 254:17
volume 253:1 /dev/mapper/vg0-two
loop 7:0 /dev/loop0 file 21:5
loop 7:1 /dev/loop1 file 21:5
loop 7:2 /dev/loop2 device fe:30
loop 7:3 /dev/loop3 file 21:6
loop 7:4 /dev/loop4 device fe:61
part 254:97 254:96
part 259:0 7:3
mount 0:21 /tmp rw
mount 254:2 /tmp/a\\040b rw
mount 254:64 /tmp/ro ro
mount 253:1 /tmp/two rw
swap /dev/vdf device fe:50
swap /tmp/swap file 21:7
"""
"""vda has two partitions, vdb one with two logical volumes, vdd a loop device on it, vde a file system, vdf swap, vdg
a partition with a loop device."""

VDA, VDA1, VDA2 = "device fe:0", "device fe:1", "device fe:2"
VDB, VDB1, ONE, TWO = "device fe:10", "device fe:11", "device fd:0", "device fd:1"
VDC, VDD, VDE, VDF, VDG = (f"device fe:{minor}" for minor in (20, 30, 40, 50, 60))
LOOP0, LOOP1, LOOP2, LOOP3, LOOP3P1 = "device 7:0", "device 7:1", "device 7:2", "device 7:3", "device 103:0"
VDG1, LOOP4 = "device fe:61", "device 7:4"
FILE, OTHER_FILE, SWAP_FILE = "file 21:5", "file 21:6", "file 21:7"
ALL = [
    VDA,
    VDA1,
    VDA2,
    VDB,
    VDB1,
    ONE,
    TWO,
    VDC,
    VDD,
    VDE,
    VDF,
    VDG,
    VDG1,
    LOOP0,
    LOOP1,
    LOOP2,
    LOOP3,
    LOOP3P1,
    FILE,
    OTHER_FILE,
    LOOP4,
]


def survey(wanted: str) -> Survey:
    return Survey.parse("driver", "/dev/it", f"wanted {wanted}\n{FACTS.strip()}\n")


@pytest.mark.parametrize(
    ("one", "others"),
    [
        (VDA, {VDA1, VDA2}),
        (VDA1, {VDA}),
        (VDB, {VDB1, ONE, TWO}),
        (VDB1, {VDB, ONE, TWO}),
        (ONE, {VDB, VDB1}),
        (VDC, set()),
        (VDD, {LOOP2}),
        (LOOP2, {VDD}),
        (FILE, {LOOP0, LOOP1}),
        (LOOP0, {LOOP1, FILE}),
        (LOOP3P1, {LOOP3, OTHER_FILE}),
        (VDG, {VDG1, LOOP4}),
        (LOOP4, {VDG, VDG1}),
        (OTHER_FILE, {LOOP3, LOOP3P1}),
    ],
)
def test_what_lies_on_the_same_bytes(one: str, others: set[str]) -> None:
    assert {other for other in ALL if survey(one).overlaps(survey(other).identity)} == {one, *others}


@pytest.mark.parametrize(
    ("wanted", "why", "hint"),
    [
        (VDA2, r"is mounted there on /tmp/a b", r"harness exec driver -- umount '/tmp/a b'"),
        (VDA, r"is mounted there on /tmp/a b", r"umount"),
        (TWO, r"is mounted there on /tmp/two", r"umount /tmp/two"),
        (VDF, r"is swapped to there", r"swapoff /dev/vdf"),
        (SWAP_FILE, r"is swapped to there", r"swapoff /tmp/swap"),
    ],
)
def test_what_the_domain_itself_writes_to_is_given_to_nobody(wanted: str, why: str, hint: str) -> None:
    for readonly in (True, False):
        with pytest.raises(UsageError, match=f"/dev/it of driver domain driver {why}") as caught:
            survey(wanted).require_unused(set(), readonly=readonly)
        assert hint in (caught.value.hint or "")


@pytest.mark.parametrize(
    ("wanted", "why", "hint"),
    [
        (VDE, "is mounted there on /tmp/ro", "umount /tmp/ro"),
        (VDD, "is in use there by /dev/loop2", "losetup -d /dev/loop2; or use /dev/loop2"),
        (FILE, "is in use there by /dev/loop0", "losetup -d /dev/loop0; or use /dev/loop0"),
        (LOOP0, "is in use there by /dev/loop1", "losetup -d /dev/loop1"),
    ],
)
def test_what_the_domain_itself_has_is_not_written_to_by_others(wanted: str, why: str, hint: str) -> None:
    survey(wanted).require_unused(set(), readonly=True)
    with pytest.raises(UsageError, match=why) as caught:
        survey(wanted).require_unused(set(), readonly=False)
    assert hint in (caught.value.hint or "")


def test_a_disk_with_logical_volumes_in_use_is_not_given_out() -> None:
    facts = "\n".join(line for line in FACTS.splitlines() if not line.startswith("mount"))
    for wanted in (VDB, VDB1):
        found = Survey.parse("driver", "/dev/it", f"wanted {wanted}\n{facts.strip()}\n")
        found.require_unused(set(), readonly=True)
        with pytest.raises(UsageError, match="is in use there by /dev/mapper/vg0-one") as caught:
            found.require_unused(set(), readonly=False)
        assert "lvchange --activate n /dev/mapper/vg0-one" in (caught.value.hint or "")


@pytest.mark.parametrize("wanted", [VDA1, ONE, VDC, LOOP2, LOOP3P1])
def test_what_is_nobody_elses_can_be_written_to(wanted: str) -> None:
    survey(wanted).require_unused(set(), readonly=False)


def test_loop_devices_of_those_that_are_served_are_no_use_of_its_own() -> None:
    survey(FILE).require_unused({"/dev/loop0", "/dev/loop1"}, readonly=False)
    survey(OTHER_FILE).require_unused({"/dev/loop3"}, readonly=False)


@pytest.mark.parametrize(
    "line", ["wanted device 1", "wanted", "wanted device x:y", "part 1:1", "loop 7:0", "mount 1:1 /a"]
)
def test_nonsense_is_reported(line: str) -> None:
    with pytest.raises(GuestError, match="driver domain driver says nonsense about /dev/it"):
        Survey.parse("driver", "/dev/it", f"wanted {VDA}\n{line}\n")
    with pytest.raises(GuestError, match="does not say what /dev/it is"):
        Survey.parse("driver", "/dev/it", "")


def test_devices_that_lie_on_each_other_are_no_end_of_it() -> None:
    facts = f"wanted {VDA}\npart 254:0 254:1\npart 254:1 254:0\nloop 7:0 /dev/loop0 device 7:0\n"
    found = Survey.parse("driver", "/dev/it", facts)
    assert found.overlaps("254:1")
    assert not found.overlaps("7:0")
