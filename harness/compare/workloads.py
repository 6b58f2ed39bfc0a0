"""What is measured: the workloads, how a guest runs each, and what its output says.

A workload knows the command and how to read its output; it knows nothing of domains. Figures are in SI units: 1/s,
B/s, bit/s, s.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from harness.host.errors import GuestError

Better = Literal["higher", "lower"]


@dataclass(frozen=True)
class Metric:
    """One figure a workload yields."""

    name: str
    unit: str
    better: Better


IOPS = Metric("iops", "1/s", "higher")
BLOCK_BANDWIDTH = Metric("bandwidth", "B/s", "higher")
NETWORK_BANDWIDTH = Metric("bandwidth", "bit/s", "higher")
LATENCY_P50 = Metric("latency_p50", "s", "lower")
LATENCY_P99 = Metric("latency_p99", "s", "lower")
CPU = Metric("cpu", "cores", "lower")
FAIRNESS = Metric("fairness", "1", "higher")
"""Of several domains that share something: the share of the slowest, as a part of what is equal; 1 is all the same."""


@dataclass(frozen=True)
class Sample:
    """What one run of a workload yielded.

    :param operations: how many requests or round trips it made; 0 where the workload does not count any.
    """

    figures: dict[Metric, float]
    operations: int = 0


def together(samples: Sequence[Sample], headline: Metric) -> Sample:
    """What several domains yielded at once: sums of what they did, the worst of what they waited, and how even it was.

    :param headline: the figure whose distribution counts.
    """
    figures = {
        metric: (max if metric.better == "lower" else sum)(sample.figures[metric] for sample in samples)
        for metric in samples[0].figures
    }
    rates = [sample.figures[headline] for sample in samples]
    if headline.better == "lower":
        rates = [1 / rate for rate in rates]
    figures[FAIRNESS] = min(rates) * len(rates) / sum(rates)
    return Sample(figures, sum(sample.operations for sample in samples))


@dataclass(frozen=True)
class BlockWorkload:
    """A fio job on a whole disk, past the guest's page cache.

    :param rate: operations per second it holds itself to; None: as many as possible.
    """

    name: str
    mode: Literal["randread", "randwrite", "read", "write"]
    block_size: int
    depth: int
    rate: int | None = None

    @property
    def headline(self) -> Metric:
        """The figure that the table shows."""
        if self.rate is not None:
            return CPU
        return IOPS if self.block_size <= 4096 else BLOCK_BANDWIDTH

    def command(self, device: str, *, seconds: float = 1.0, operations: int | None = None) -> list[str]:
        """The command line that runs it for a time, or for a number of operations.

        :param device: such as ``/dev/sda``; a write workload overwrites it.
        """
        # In whole milliseconds: fio takes half a second for none at all, and then runs without an end.
        timed = ["--time_based", f"--runtime={round(seconds * 1000)}ms"]
        limit = [f"--number_ios={operations}"] if operations else timed
        return [
            *("fio", f"--name={self.name}", f"--filename={device}", f"--rw={self.mode}", f"--bs={self.block_size}"),
            *(f"--iodepth={self.depth}", "--ioengine=libaio", "--direct=1", "--norandommap", "--randrepeat=0"),
            *("--output-format=json", *limit, *([f"--rate_iops={self.rate}"] if self.rate else [])),
        ]

    def parse(self, output: bytes) -> Sample:
        """Read fio's JSON (fio HOWTO, "JSON output").

        :raise GuestError: it is not what fio prints.
        """
        side = "write" if "write" in self.mode else "read"
        try:
            # fio may print notes before its JSON.
            job: dict[str, Any] = json.loads(output[output.index(b"{") :])["jobs"][0]
            result = job[side]
            latency = result["clat_ns"]["percentile"]
            figures = {
                IOPS: float(result["iops"]),
                BLOCK_BANDWIDTH: float(result["bw_bytes"]),
                LATENCY_P50: float(latency["50.000000"]) / 1e9,
                LATENCY_P99: float(latency["99.000000"]) / 1e9,
            }
            operations = int(result["total_ios"])
        except (ValueError, KeyError, IndexError, TypeError) as error:
            raise GuestError(f"fio's output for {self.name} makes no sense ({error!r}): {output[:200]!r}") from error
        if job.get("error") or not operations:
            raise GuestError(f"fio reports error {job.get('error')} after {operations} operations in {self.name}")
        return Sample(figures, operations)


@dataclass(frozen=True)
class StreamWorkload:
    """One TCP stream of iperf3, out of the guest or (``reverse``) into it."""

    name: str
    reverse: bool

    headline = NETWORK_BANDWIDTH

    def command(self, host: str, port: int, *, seconds: float) -> list[str]:
        return [
            *("iperf3", "--client", host, "--port", str(port), "--time", f"{max(1, round(seconds))}", "--json"),
            *(["--reverse"] if self.reverse else []),
        ]

    def parse(self, output: bytes) -> Sample:
        """Read iperf3's JSON; the figure is what the receiving end got.

        :raise GuestError: it is not what iperf3 prints, or iperf3 reports an error.
        """
        try:
            report: dict[str, Any] = json.loads(output)
            if "error" in report:
                raise GuestError(f"iperf3 reports in {self.name}: {report['error']}")
            received = float(report["end"]["sum_received"]["bits_per_second"])
        except (ValueError, KeyError, TypeError) as error:
            raise GuestError(f"iperf3's output for {self.name} makes no sense ({error!r}): {output[:200]!r}") from error
        if received <= 0:
            raise GuestError(f"nothing arrived in {self.name}: the network card is deaf")
        return Sample({NETWORK_BANDWIDTH: received})


@dataclass(frozen=True)
class RoundTripWorkload:
    """One byte there and back, over TCP, again and again: a client on the host, an echo in the guest."""

    name: str

    headline = LATENCY_P50

    def parse(self, latencies: Sequence[float], seconds: float) -> Sample:
        """:param latencies: seconds of each round trip, in any order; at least one."""
        ordered = sorted(latencies)
        count = len(ordered)
        figures = {
            IOPS: count / seconds,
            LATENCY_P50: ordered[count // 2],
            LATENCY_P99: ordered[min(count - 1, count * 99 // 100)],
        }
        return Sample(figures, count)


NetworkWorkload = StreamWorkload | RoundTripWorkload
Workload = BlockWorkload | NetworkWorkload

BLOCK: tuple[BlockWorkload, ...] = (
    BlockWorkload("randread-4k-qd1", "randread", 4096, 1),
    BlockWorkload("randread-4k-qd16", "randread", 4096, 16),
    BlockWorkload("randwrite-4k-qd16", "randwrite", 4096, 16),
    BlockWorkload("read-128k-qd4", "read", 128 << 10, 4),
    BlockWorkload("write-128k-qd4", "write", 128 << 10, 4),
)
NETWORK: tuple[NetworkWorkload, ...] = (
    StreamWorkload("tcp-guest-to-host", reverse=False),
    StreamWorkload("tcp-host-to-guest", reverse=True),
    RoundTripWorkload("rr-1b"),
)
PACED = BlockWorkload("randread-4k-paced", "randread", 4096, 1, rate=100)
"""Mostly nothing to find: what it costs the host to wait for the next request is the figure."""

DEFAULT: dict[str, Workload] = {workload.name: workload for workload in (*BLOCK, *NETWORK)}
ALL: dict[str, Workload] = {**DEFAULT, PACED.name: PACED}
