"""The samples of a comparison, and the JSON document they become (schema 1)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from typing import Any

from harness import __version__
from harness.compare.statistics import Boots, compare, summarise
from harness.compare.workloads import CPU, Metric, Sample, Workload

PAIRS: tuple[tuple[str, str], ...] = (
    ("pv-block", "ide"),
    ("pv-block", "virtio-blk"),
    ("pv-block", "virtio-blk-inline"),
    ("pv-block", "virtio-pmem"),
    ("pv-block", "null-blk"),
    ("pv-block@driver", "pv-block"),
    ("pv-block@driver", "virtio-blk"),
    ("pv-block@driver", "virtio-blk-inline"),
    ("pv-block@driver-blk", "pv-block"),
    ("pv-block@driver-blk", "virtio-blk"),
    ("pv-block", "pv-block-event"),
    ("pv-block", "pv-block-poll"),
    ("pv-net", "ne2000"),
    ("pv-net", "e1000"),
    ("pv-net", "virtio-net"),
    ("pv-net@driver", "pv-net"),
    ("pv-net@driver", "virtio-net"),
    ("pv-net", "pv-net-event"),
    ("pv-net", "pv-net-poll"),
)
"""Which ratios are reported: numerator, denominator."""


@dataclass(frozen=True)
class Host:
    """What a figure depends on besides the path."""

    cpu: str
    cores: int
    kernel: str
    qemu: str
    accelerator: str
    accelerator_reason: str


@dataclass(frozen=True)
class Guest:
    kernel: str
    image: str


@dataclass(frozen=True)
class Count:
    """Events per operation: exact where a clock is noisy."""

    path: str
    workload: str
    count: str
    per_operation: float


@dataclass
class Results:
    """Everything one comparison found."""

    host: Host
    guest: Guest
    started: str
    counts: list[Count] = field(default_factory=list)
    _samples: dict[tuple[str, str, Metric], list[list[float]]] = field(default_factory=dict)

    def add(self, boot: int, path: str, workload: Workload, sample: Sample, cores: float) -> None:
        """Add what a run yielded.

        :param boot: 0-based; boots come in order.
        :param cores: processor seconds the host spent on the domain, per second of the run.
        """
        for metric, value in {**sample.figures, CPU: cores}.items():
            boots = self._samples.setdefault((path, workload.name, metric), [])
            while len(boots) <= boot:
                boots.append([])
            boots[boot].append(value)

    def samples(self, path: str, workload: str, metric: Metric) -> Boots:
        """Samples of one figure; empty if it was not measured."""
        return self._samples.get((path, workload, metric), [])

    def measured(self) -> list[tuple[str, str, Metric]]:
        """What was measured: (path, workload, metric), in the order of the first samples."""
        return list(self._samples)

    def ratios(self) -> Iterator[tuple[str, str, str, Metric]]:
        """The (a, b, workload, metric) for which both paths have samples."""
        for a, b in PAIRS:
            for path, workload, metric in self._samples:
                if path == a and (b, workload, metric) in self._samples:
                    yield a, b, workload, metric

    def document(self) -> dict[str, Any]:
        """The JSON document."""
        return {
            "schema": 1,
            "harness": __version__,
            "started": self.started,
            "host": asdict(self.host),
            "guest": asdict(self.guest),
            "results": [self._result(*key) for key in self._samples],
            "counts": [asdict(count) for count in self.counts],
            "ratios": [self._ratio(*key) for key in self.ratios()],
        }

    def _result(self, path: str, workload: str, metric: Metric) -> dict[str, Any]:
        boots = self.samples(path, workload, metric)
        summary = summarise(boots)
        return {
            **{"path": path, "workload": workload, "metric": metric.name, "unit": metric.unit},
            **{"better": metric.better, "samples": boots},
            **{"median": summary.median, "ci95": [summary.low, summary.high]},
        }

    def _ratio(self, a: str, b: str, workload: str, metric: Metric) -> dict[str, Any]:
        ratio = compare(self.samples(a, workload, metric), self.samples(b, workload, metric))
        return {
            **{"a": a, "b": b, "workload": workload, "metric": metric.name},
            **{"ratio": ratio.ratio, "ci95": [ratio.low, ratio.high], "p": ratio.p},
        }
