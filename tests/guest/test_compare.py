"""A real comparison, as short as it can be: every path and kind of workload once."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from harness.compare import report, subjects
from harness.compare.results import Results
from harness.compare.runner import Comparison, Plan
from harness.compare.workloads import ALL

WORKLOADS = ["randread-4k-qd1", "write-128k-qd4", "tcp-guest-to-host", "rr-1b"]
IDE_ACCESSES_PER_READ = 26
"""16 to the ide registers, 9 to piix-bmdma, 1 to bmdma: exact, whatever else the machine does."""


@pytest.fixture(scope="module")
def lines() -> list[str]:
    return []


@pytest.fixture(scope="module")
def results(request: pytest.FixtureRequest, lines: list[str]) -> Results:
    plan = Plan(
        paths=subjects.chosen(list(subjects.DEFAULT)),
        workloads=[ALL[name] for name in WORKLOADS],
        rounds=2,
        boots=1,
        seconds=0.5,
        disk_size=64 << 20,
        accelerator=request.config.getoption("accel"),
    )
    return Comparison(plan, lines.append).run()


def test_every_path_has_samples_of_every_workload_it_can_carry(results: Results) -> None:
    document = json.loads(json.dumps(results.document()))
    measured = {(r["path"], r["workload"], r["metric"]) for r in document["results"]}
    for path in ("ide", "pv-block", "virtio-blk"):
        for metric in ("iops", "bandwidth", "latency_p50", "latency_p99", "cpu"):
            assert (path, "randread-4k-qd1", metric) in measured
    for path in ("ne2000", "pv-net", "virtio-net"):
        assert (path, "tcp-guest-to-host", "bandwidth") in measured
        assert (path, "rr-1b", "latency_p50") in measured
    for result in document["results"]:
        (rounds,) = result["samples"]
        assert len(rounds) == 2
        assert all(value > 0 for value in rounds)
        assert result["ci95"][0] <= result["median"] <= result["ci95"][1]


def test_what_the_figures_depend_on_is_recorded(results: Results) -> None:
    document = results.document()
    assert document["schema"] == 1
    assert document["host"]["accelerator"] in ("tcg", "kvm")
    assert document["host"]["accelerator_reason"]
    assert re.fullmatch(r"\d+\.\d+\.\d+", document["host"]["qemu"])
    assert document["guest"]["kernel"].endswith("-amd64")


def test_an_ide_read_costs_the_known_register_accesses(results: Results) -> None:
    counts = {(c.path, c.workload, c.count): c.per_operation for c in results.counts}
    assert counts["ide", "randread-4k-qd1", "register_accesses"] == IDE_ACCESSES_PER_READ


def test_paths_take_turns_and_the_order_is_reversed_every_other_round(results: Results, lines: list[str]) -> None:
    runs = [re.sub(r".*: ", "", line) for line in lines]
    half = len(runs) // 2
    assert runs[:3] == [f"randread-4k-qd1 on {path}" for path in ("ide", "pv-block", "virtio-blk")]
    assert runs[half:] == runs[:half][::-1]
    assert all("about" in line and "left" in line for line in lines[1:])


def test_the_report_shows_every_path(results: Results) -> None:
    shown = report.text(results)
    for name in (*subjects.DEFAULT, *WORKLOADS):
        assert name in shown


@pytest.mark.parametrize(
    ("paths", "workloads"),
    [
        (["pv-block"], ["randread-4k-qd1"]),
        (["ide", "pv-net"], ["randread-4k-qd1", "rr-1b"]),
        (["pv-block-poll", "pv-net-event", "null-blk"], ["randread-4k-qd1", "rr-1b"]),
        (["pv-block@driver", "pv-block@driver-2", "pv-net@driver-2"], ["randread-4k-qd1", "tcp-host-to-guest"]),
    ],
)
def test_disks_can_be_compared_alone_and_mixed_with_networks(
    paths: list[str], workloads: list[str], request: pytest.FixtureRequest
) -> None:
    plan = Plan(
        paths=subjects.chosen(paths),
        workloads=[ALL[name] for name in workloads],
        rounds=1,
        boots=1,
        seconds=0.3,
        disk_size=16 << 20,
        accelerator=request.config.getoption("accel"),
    )
    found = {(path, workload) for path, workload, _ in Comparison(plan, lambda _: None).run().measured()}
    assert found == {(path.name, workload.name) for workload, path in plan.steps()}
    assert {path for path, _ in found} == set(paths)


def test_a_wrong_name_is_bad_usage_and_lists_the_right_ones(tmp_path: Path) -> None:
    for arguments, right in ((["--paths", "idle"], "pv-block"), (["--workloads", "nothing"], "rr-1b")):
        done = subprocess.run(
            [sys.executable, "-m", "harness.cli.main", "compare", *arguments],
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 2
        assert right in done.stderr
    missing = str(tmp_path / "missing" / "out.json")
    done = subprocess.run(
        [sys.executable, "-m", "harness.cli.main", "compare", "--json", missing],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert missing in done.stderr
