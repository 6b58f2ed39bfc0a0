"""Recognising a kernel in trouble."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.guest.oops import MAX_REPORT_LINES, Kind, OopsDetector, Trouble, classify

PREFIXES = [
    "",
    "[    0.000000] ",
    "[  123.456789] ",
    "[   12.345678][    T1] ",
    "[    1.234567][  C0] ",
    "<4>[    1.234567] ",
]

REPORTS = [
    (Kind.PANIC, "Kernel panic - not syncing: VFS: Unable to mount root fs on unknown-block(0,0)"),
    (Kind.OOPS, "BUG: kernel NULL pointer dereference, address: 0000000000000010"),
    (Kind.OOPS, "BUG: unable to handle page fault for address: ffffc90000000000"),
    (Kind.OOPS, "Oops: 0002 [#1] PREEMPT SMP NOPTI"),
    (Kind.OOPS, "Unable to handle kernel paging request at virtual address ffffffc0"),
    (Kind.OOPS, "general protection fault, probably for non-canonical address 0xdead000000000100: 0000 [#1] SMP"),
    (Kind.OOPS, "kernel BUG at mm/slub.c:379!"),
    (Kind.OOPS, "invalid opcode: 0000 [#1] PREEMPT SMP"),
    (Kind.OOPS, "BUG: scheduling while atomic: swapper/0/1/0x00000002"),
    (Kind.OOPS, "BUG: KASAN: use-after-free in pvblk_queue+0x10/0x20"),
    (Kind.STALL, "watchdog: BUG: soft lockup - CPU#0 stuck for 26s! [kworker/0:1:10]"),
    (Kind.STALL, "rcu: INFO: rcu_preempt detected stalls on CPUs/tasks:"),
    (Kind.STALL, "rcu: INFO: rcu_sched self-detected stall on CPU"),
    (Kind.STALL, "INFO: task fio:123 blocked for more than 120 seconds."),
    (Kind.WARNING, "WARNING: CPU: 0 PID: 1 at drivers/net/foo.c:12 foo+0x1/0x2 [foo]"),
]

HARMLESS = [
    "",
    "login:",
    "a program says BUG: in the middle",
    "BUG: from a program of the user",
    "WARNING: this program is old",
    "[    0.000000] Command line: panic=-1 oops=panic",
    "[    1.000000] Oops, I did it again",
    "[    0.100000] rcu: Hierarchical RCU implementation.",
    "[    0.100000] NMI watchdog: Enabled. Permanently consumes one hw-PMU counter.",
    "[    0.100000] Kernel panics reboot at once",
    "cat: Linux version",
]


@pytest.mark.parametrize("prefix", PREFIXES)
@pytest.mark.parametrize(("kind", "line"), REPORTS)
def test_headers_with_any_prefix(prefix: str, kind: Kind, line: str) -> None:
    assert classify(prefix + line) is kind


@pytest.mark.parametrize(("kind", "line"), REPORTS)
def test_header_after_an_unfinished_line_of_a_program(kind: Kind, line: str) -> None:
    assert classify(f"/ # [   12.345678] {line}") is kind
    assert classify(f"he said: {line}") is None


@pytest.mark.parametrize("line", HARMLESS)
def test_harmless_lines(line: str) -> None:
    assert classify(line) is None


def test_generic_headers_count_with_a_stamp() -> None:
    assert classify("[    5.000000] BUG: something new") is Kind.OOPS
    assert classify("[    5.000000] WARNING: possible irq lock inversion") is Kind.WARNING


def feed(detector: OopsDetector, *lines: str) -> list[Trouble]:
    return [trouble for line in lines if (trouble := detector.feed(line)) is not None]


def test_report_goes_to_its_end_marker() -> None:
    lines = [
        "[    3.000000] BUG: kernel NULL pointer dereference, address: 0000000000000010",
        "[    3.000001] Oops: 0002 [#1] PREEMPT SMP",
        "[    3.000002] RIP: 0010:pvblk_queue+0x10/0x20",
        "[    3.000003] ---[ end trace 0000000000000000 ]---",
    ]
    (trouble,) = feed(OopsDetector(), "[    2.900000] usual", *lines, "[    3.100000] after")
    assert trouble == Trouble(Kind.OOPS, lines[0], tuple(lines))


def test_oops_that_becomes_a_panic_is_a_panic() -> None:
    detector = OopsDetector()
    assert feed(detector, "[    3.000000] kernel BUG at a.c:1!", "[    3.100000] RIP: 0010:f") == []
    panic = "[    3.200000] Kernel panic - not syncing: Fatal exception"
    (trouble,) = feed(detector, panic, "[    3.300000] ---[ end Kernel panic - not syncing: Fatal exception ]---")
    assert (trouble.kind, trouble.headline) == (Kind.PANIC, panic)
    assert "kernel BUG at" in trouble.lines[0]


def test_warning_that_becomes_an_oops_is_an_oops() -> None:
    detector = OopsDetector()
    feed(detector, "[    3.000000] WARNING: CPU: 0 PID: 1 at a.c:1 f+0x1/0x2", "[    3.1] RIP: 0010:f")
    (trouble,) = feed(detector, "[    3.2] x", "Oops: 0000 [#1] SMP", "---[ end trace 0 ]---")
    assert trouble.kind is Kind.OOPS


def test_unfinished_report_is_not_lost() -> None:
    detector = OopsDetector()
    assert feed(detector, "Kernel panic - not syncing: x") == []
    assert detector.collecting
    trouble = detector.finish()
    assert trouble is not None
    assert trouble.lines == ("Kernel panic - not syncing: x",)
    assert detector.finish() is None


def test_endless_report_is_cut() -> None:
    found = feed(OopsDetector(), "Kernel panic - not syncing: x", *["noise"] * (MAX_REPORT_LINES + 50))
    assert [len(trouble.lines) for trouble in found] == [MAX_REPORT_LINES]


@pytest.mark.parametrize("allowed", [0, 1, 2])
def test_a_boot_too_many(allowed: int) -> None:
    detector = OopsDetector(boots=allowed)
    boot = "[    0.000000] Linux version 6.1.0-18-amd64 (debian-kernel@lists.debian.org)"
    assert feed(detector, *[boot] * allowed) == []
    assert not detector.collecting
    feed(detector, boot)
    trouble = detector.finish()
    assert trouble is not None
    assert trouble.kind is Kind.REBOOT


def test_an_expected_boot_is_no_trouble() -> None:
    detector = OopsDetector(boots=1)
    detector.expect_boot()
    feed(detector, "Linux version 6.1.0", "Linux version 6.1.0")
    assert not detector.collecting


@given(st.lists(st.sampled_from([line for _, line in REPORTS] + HARMLESS) | st.text(max_size=30), max_size=60))
def test_every_reported_line_was_printed_and_trouble_is_never_dropped(lines: list[str]) -> None:
    detector = OopsDetector()
    found = feed(detector, *lines)
    if (last := detector.finish()) is not None:
        found.append(last)
    assert all(set(trouble.lines) <= set(lines) and trouble.headline in trouble.lines for trouble in found)
    assert bool(found) == any(classify(line) is not None for line in lines)
    panicked = any(classify(line) is Kind.PANIC for line in lines)
    assert panicked == any(trouble.kind is Kind.PANIC for trouble in found)
