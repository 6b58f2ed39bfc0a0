"""Paths through a driver domain: the domains they need, and what is said of several that share one."""

from __future__ import annotations

from pathlib import Path

import pytest

from harness.compare import report, subjects
from harness.compare.results import Guest, Host, Results
from harness.compare.workloads import ALL, FAIRNESS, IOPS, LATENCY_P50, LATENCY_P99, Sample, together
from harness.domain.ordering import start_order

READ = ALL["randread-4k-qd1"]


@pytest.fixture
def image(tmp_path: Path) -> Path:
    path = tmp_path / "image"
    path.write_bytes(bytes(1 << 20))
    return path


def test_a_driver_domain_has_the_image_and_the_others_have_it_from_there(image: Path) -> None:
    driver, client = subjects.definitions(subjects.chosen(["pv-block@driver", "pv-net@driver"]), image)
    assert driver.driver_domain
    assert [(disk.model, disk.path) for disk in driver.disks] == [("virtio-pmem", image)]
    assert [(disk.model, disk.path, disk.backend) for disk in client.disks] == [("pv", Path("/dev/pmem0"), driver.name)]
    assert [card.backend for card in client.networks] == [driver.name]


def test_a_driver_domain_has_the_image_in_as_many_ways_as_are_compared(image: Path) -> None:
    driver, client = subjects.definitions(subjects.chosen(["pv-block@driver", "pv-block@driver-blk"]), image)
    assert [(disk.target, disk.model, disk.path) for disk in driver.disks] == [
        ("pmem0", "virtio-pmem", image),
        ("vda", "virtio", image),
    ]
    assert [(disk.target, str(disk.path)) for disk in client.disks] == [("xvda", "/dev/pmem0"), ("xvdc", "/dev/vda")]


def test_those_that_share_have_a_disk_each(image: Path) -> None:
    paths = subjects.chosen(["pv-block@driver", "pv-block@driver-2", "pv-block@driver-4", "pv-block"])
    found = subjects.definitions(paths, image)
    assert {one.name for one in start_order(found, ())} == {one.name for one in found}
    assert found[0].name == subjects.DRIVER
    driver, *clients = [one for one in found if one.name != "compare-paravirtual"]
    assert [disk.target for disk in driver.disks] == ["pmem0", "pmem1", "pmem2", "pmem3", "pmem4"]
    assert [[(disk.target, str(disk.path)) for disk in client.disks] for client in clients] == [
        [("xvda", "/dev/pmem0"), ("xvdb", "/dev/pmem1")],
        [("xvdb", "/dev/pmem2")],
        [("xvdb", "/dev/pmem3")],
        [("xvdb", "/dev/pmem4")],
    ]
    assert [name for path in paths for name in subjects.domains(path)] == [
        clients[0].name,
        *(client.name for client in clients[:2]),
        *(client.name for client in clients),
        "compare-paravirtual",
    ]


def test_several_samples_are_added_and_the_slowest_is_told() -> None:
    samples = [Sample({IOPS: rate, LATENCY_P50: 1 / rate, LATENCY_P99: 2 / rate}, int(rate)) for rate in (100.0, 300.0)]
    both = together(samples, IOPS)
    assert both.operations == 400
    assert both.figures == {IOPS: 400.0, LATENCY_P50: 0.01, LATENCY_P99: 0.02, FAIRNESS: 0.5}
    assert together(samples, LATENCY_P50).figures[FAIRNESS] == pytest.approx(0.5)


def test_the_report_tells_how_a_driver_domain_is_shared() -> None:
    results = Results(Host("cpu", 2, "6.1", "7.2", "tcg", "why"), Guest("6.1.0", "minimal"), "now")
    sample = together([Sample({IOPS: rate, LATENCY_P50: 1.0, LATENCY_P99: 1.0}, 1) for rate in (1e3, 3e3)], IOPS)
    results.add(0, "pv-block@driver-2", READ, sample, 1.0)
    heads, row = report.sharing_rows(results)
    assert len(heads) == len(row)
    assert row == ["pv-block@driver-2", READ.name, "2", "4.00 kIOPS", "25%"]
    assert "25%" in report.text(results)
    assert "25%" in report.page(results)
