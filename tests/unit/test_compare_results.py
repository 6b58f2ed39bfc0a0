"""Reading what the measuring programs print, and the document and tables made from it."""

from __future__ import annotations

import json
from html.parser import HTMLParser

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.compare import report
from harness.compare.results import Count, Guest, Host, Results
from harness.compare.workloads import (
    ALL,
    BLOCK_BANDWIDTH,
    IOPS,
    LATENCY_P99,
    NETWORK_BANDWIDTH,
    PACED,
    BlockWorkload,
    RoundTripWorkload,
    StreamWorkload,
)
from harness.host.errors import GuestError

READ = ALL["randread-4k-qd1"]
WRITE = ALL["randwrite-4k-qd16"]
OUT = ALL["tcp-guest-to-host"]


def fio(side: str, iops: float, error: int = 0) -> bytes:
    zero = {"iops": 0, "bw_bytes": 0, "total_ios": 0, "clat_ns": {}}
    used = {
        "iops": iops,
        "bw_bytes": iops * 4096,
        "total_ios": 100,
        "clat_ns": {"percentile": {"50.000000": 2000, "99.000000": 9000}},
    }
    sides = {"read": zero, "write": zero} | {side: used}
    return b"note: a warning comes first\n" + json.dumps({"jobs": [{"error": error, **sides}]}).encode()


def results() -> Results:
    host = Host("a <cpu>", 2, "6.1", "7.2", "tcg", "KVM makes no progress")
    return Results(host, Guest("6.1.0", "minimal"), "2026-01-01T00:00:00+00:00")


def test_fio_is_read_on_the_side_that_was_used() -> None:
    assert isinstance(READ, BlockWorkload)
    assert isinstance(WRITE, BlockWorkload)
    sample = READ.parse(fio("read", 500.0))
    assert (sample.figures[IOPS], sample.figures[BLOCK_BANDWIDTH], sample.operations) == (500.0, 2048000.0, 100)
    assert sample.figures[LATENCY_P99] == pytest.approx(9e-6)
    assert WRITE.parse(fio("write", 7.0)).figures[IOPS] == 7.0
    with pytest.raises(GuestError, match="makes no sense"):
        WRITE.parse(fio("read", 7.0))


def test_a_failed_fio_is_not_a_result() -> None:
    assert isinstance(READ, BlockWorkload)
    with pytest.raises(GuestError, match="error 5"):
        READ.parse(fio("read", 500.0, error=5))


@given(
    st.binary(max_size=60)
    | st.recursive(st.none() | st.integers() | st.text(), st.lists).map(lambda v: json.dumps(v).encode())
)
def test_nonsense_from_the_guest_is_the_guests_fault(output: bytes) -> None:
    for workload in ALL.values():
        if isinstance(workload, BlockWorkload | StreamWorkload):
            with pytest.raises(GuestError):
                workload.parse(output)


def test_iperf_reports_what_was_received_or_its_error() -> None:
    assert isinstance(OUT, StreamWorkload)
    sums = {"sum_sent": {"bits_per_second": 9e9}, "sum_received": {"bits_per_second": 8e9}}
    assert OUT.parse(json.dumps({"end": sums}).encode()).figures == {NETWORK_BANDWIDTH: 8e9}
    with pytest.raises(GuestError, match="unable to connect"):
        OUT.parse(b'{"error": "unable to connect"}')
    with pytest.raises(GuestError, match="nothing arrived"):
        OUT.parse(json.dumps({"end": {"sum_received": {"bits_per_second": 0}}}).encode())


def test_round_trips_become_percentiles() -> None:
    rr = ALL["rr-1b"]
    assert isinstance(rr, RoundTripWorkload)
    sample = rr.parse([value / 1000 for value in range(100, 0, -1)], seconds=2.0)
    assert (sample.figures[IOPS], sample.figures[LATENCY_P99], sample.operations) == (50.0, 0.1, 100)


def test_the_document_holds_samples_by_boot_and_ratios() -> None:
    found = results()
    assert isinstance(READ, BlockWorkload)
    for boot in range(2):
        for _ in range(3):
            for path, iops in (("pv-block", 600.0), ("ide", 200.0)):
                found.add(boot, path, READ, READ.parse(fio("read", iops)), cores=1.5)
    found.counts.append(Count("ide", READ.name, "interrupts", 1.0))
    document = json.loads(json.dumps(found.document()))
    assert document["schema"] == 1
    one = next(r for r in document["results"] if (r["path"], r["metric"]) == ("ide", "iops"))
    assert one["samples"] == [[200.0] * 3] * 2
    assert (one["median"], one["unit"], one["better"]) == (200.0, "1/s", "higher")
    ratio = next(r for r in document["ratios"] if r["metric"] == "iops")
    assert (ratio["a"], ratio["b"]) == ("pv-block", "ide")
    assert ratio["ratio"] == pytest.approx(3.0)
    assert document["counts"] == [{"path": "ide", "workload": READ.name, "count": "interrupts", "per_operation": 1.0}]


def test_the_table_shows_an_advantage_above_one_also_for_latency() -> None:
    found = results()
    rr = ALL["rr-1b"]
    assert isinstance(rr, RoundTripWorkload)
    for path, latency in (("pv-net", 0.001), ("ne2000", 0.004)):
        found.add(0, path, rr, rr.parse([latency], 1.0), cores=1.0)
    (table,) = report.tables(found)
    assert table[0] == ["workload", "pv-net", "ne2000", "pv-net / ne2000"]
    assert table[1][1:3] == ["1.00 ms", "4.00 ms"]
    assert table[1][3].startswith("4.00×")


def test_the_page_is_whole_and_escapes_what_it_is_given() -> None:
    found = results()
    assert isinstance(READ, BlockWorkload)
    found.add(0, "ide", READ, READ.parse(fio("read", 200.0)), cores=1.0)
    tags: list[str] = []

    class Tags(HTMLParser):
        def handle_starttag(self, tag: str, attrs: object) -> None:
            tags.append(tag)

    page = report.page(found)
    Tags().feed(page)
    assert tags.count("td") == 2
    assert "cpu" not in tags
    assert "200 IOPS" in page


@pytest.mark.parametrize(
    ("value", "unit", "shown"),
    [(0.0, "s", "0 s"), (12345.0, "1/s", "12.3 kIOPS"), (8.5e-5, "s", "85.0 µs"), (2.5e9, "bit/s", "2.50 Gbit/s")],
)
def test_quantities_have_three_digits(value: float, unit: str, shown: str) -> None:
    assert report.quantity(value, unit) == shown


def test_the_report_says_which_strategy_wins_where() -> None:
    found = results()
    assert isinstance(READ, BlockWorkload)
    for path, iops in (("pv-block", 300.0), ("pv-block-event", 100.0), ("pv-block-poll", 200.0), ("virtio-blk", 900.0)):
        for _ in range(2):
            found.add(0, path, READ, READ.parse(fio("read", iops)), cores=1.0)
    header, row = report.strategy_rows(found)
    assert len(header) == len(row)
    assert row == ["pv-block", READ.name, "adaptive", "1.50× [1.50–1.50] poll"]
    assert "adaptive" in report.text(found)


def test_a_strategy_alone_wins_nothing() -> None:
    found = results()
    assert isinstance(READ, BlockWorkload)
    found.add(0, "pv-block-event", READ, READ.parse(fio("read", 5.0)), cores=1.0)
    assert len(report.strategy_rows(found)) == 1


def test_of_paced_requests_the_processor_time_is_the_figure_and_less_is_better() -> None:
    found = results()
    for path, cores in (("pv-block-event", 0.1), ("pv-block-poll", 0.8)):
        found.add(0, path, PACED, PACED.parse(fio("read", 100.0)), cores=cores)
    assert report.strategy_rows(found)[1][2] == "event"
    assert "--rate_iops=100" in PACED.command("/dev/xvda", seconds=1)
