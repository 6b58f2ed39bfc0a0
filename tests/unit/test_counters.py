"""Counting events: the parsers, on what Linux and QEMU print."""

from __future__ import annotations

import os
import time

import pytest

from harness.compare.counters import count_regions, doorbells, interrupts, processor_seconds
from harness.host.errors import GuestError

TABLE = b"""           CPU0       CPU1
  0:         45          0   IO-APIC   2-edge      timer
  4:       1000         10   IO-APIC   4-edge      ttyS0
 11:        200         22   IO-APIC  11-fasteoi   eth0, uhci
 14:          7          0   IO-APIC  14-edge      ata_piix
NMI:          5          5   Non-maskable interrupts
LOC:      99999      99999   Local timer interrupts
"""


def test_device_interrupts_are_counted_over_all_processors() -> None:
    assert interrupts(TABLE) == 200 + 22 + 7


@pytest.mark.parametrize("table", [b"", b"CPU0\n 1: many IO-APIC edge eth0\n"])
def test_a_table_that_makes_no_sense_is_the_guests_fault(table: bytes) -> None:
    with pytest.raises(GuestError, match="makes no sense"):
        interrupts(table)


def test_doorbells_are_summed_over_the_queues_of_all_devices() -> None:
    block = b"queue-0/requests 9\nqueue-0/doorbells 4\nqueue-1/doorbells 3\n"
    net = b"queue-0/rx-doorbells 10\nqueue-0/tx-packets 99\nqueue-0/tx-doorbells 20\n"
    assert doorbells(block + net) == 37
    assert doorbells(b"") == 0
    with pytest.raises(GuestError, match="make no sense"):
        doorbells(b"queue-0/doorbells many\n")


def test_register_accesses_are_counted_by_the_regions_name() -> None:
    trace = b"".join(
        b"memory_region_ops_%s cpu 0 mr 0x55 addr 0x1f0 value 0x0 size 2 name '%s'\n" % pair
        for pair in [
            (b"read", b"ide"),
            (b"write", b"ide"),
            (b"write", b"serial"),
            (b"read", b"bmdma"),
            (b"read", b"xide"),
        ]
    )
    assert count_regions(trace + b"name 'ide'\n", ["ide", "bmdma"]) == 3


def test_processor_time_is_that_of_the_process() -> None:
    before = processor_seconds([os.getpid()])
    end = time.process_time() + 0.1
    while time.process_time() < end:
        pass
    assert 0.05 < processor_seconds([os.getpid()]) - before < 1.0
