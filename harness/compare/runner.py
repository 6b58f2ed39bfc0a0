"""Runs a comparison: boots the domains, then goes round by round through every workload on every path."""

from __future__ import annotations

import datetime
import os
import platform
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from harness.compare import counters, subjects
from harness.compare.burner import busy_cores
from harness.compare.network import ECHO_PORT, IPERF_PORT, Peer
from harness.compare.results import Count, Guest, Host, Results
from harness.compare.subjects import DevicePath, DiskPath
from harness.compare.workloads import BlockWorkload, RoundTripWorkload, Sample, StreamWorkload, Workload
from harness.domain import logs, scratch
from harness.domain.domain import Domain
from harness.domain.janitor import Janitor
from harness.domain.leases import Lease
from harness.host.progress import step

GRACE = 60.0
"""Seconds a run may take beyond its own length before the guest counts as silent."""
COUNTED_OPERATIONS = 200
NULL_BLOCK = ("modprobe", "null_blk", "queue_mode=2", "irqmode=0", "gb=4")
"""The guest's disk without a device: requests through the whole block layer, answered at once."""
CHUNK = 1 << 20


@dataclass(frozen=True)
class Plan:
    """What to compare, and how long.

    :param rounds: how often each workload runs on each path in each boot.
    :param boots: how often the domains are started anew; at least 1.
    :param seconds: length of one run.
    :param disk_size: bytes of the disk image that all disk paths share.
    :param busy: processes that keep a core of the host busy meanwhile.
    """

    paths: list[DevicePath]
    workloads: list[Workload]
    rounds: int
    boots: int
    seconds: float
    disk_size: int
    accelerator: str = "auto"
    busy: int = 0

    def steps(self) -> list[tuple[Workload, DevicePath]]:
        """The runs of one round: workload by workload, so that the paths of one follow each other closely."""
        found: list[tuple[Workload, DevicePath]] = []
        for workload in self.workloads:
            on_disk = isinstance(workload, BlockWorkload)
            found += [(workload, path) for path in self.paths if isinstance(path, DiskPath) == on_disk]
        return found


class Comparison:
    """One comparison under way.

    :param tell: is given a line of progress before each workload.
    """

    def __init__(self, plan: Plan, tell: Callable[[str], None]) -> None:
        self._plan = plan
        self._tell = tell
        self._total = plan.boots * plan.rounds * len(plan.steps())
        self._done = 0
        self._spent = 0.0
        self._boot_spent = 0.0

    def run(self) -> Results:
        """Run the plan to its end.

        :raise HarnessError: a domain did not start or failed; nothing is left running.
        """
        started = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
        results: Results | None = None
        with _disk_image(self._plan.disk_size) as image:
            for boot in range(self._plan.boots):
                with ExitStack() as stack:
                    begun = time.monotonic()
                    with step(f"booting the guests, {boot + 1} of {self._plan.boots}"):
                        domains = self._boot(image, stack)
                    self._boot_spent = time.monotonic() - begun
                    first = next(iter(domains.values()))
                    results = results or Results(_host(first), _guest(first), started)
                    peer = _peer(domains, stack)
                    stack.enter_context(busy_cores(self._plan.busy))
                    self._measure(boot, domains, peer, results)
        if results is None:
            raise ValueError("a plan needs at least one boot")
        return results

    def _boot(self, image: Lease, stack: ExitStack) -> dict[str, Domain]:
        """Start the domains of this plan; returns them, ready, by name."""
        domains: dict[str, Domain] = {}
        for definition in subjects.definitions(self._plan.paths, image.path):
            domain = Domain(definition, accelerator=self._plan.accelerator, shared_lease=image)
            # They boot side by side: all are launched before any is waited for.
            domains[definition.name] = stack.enter_context(domain)
            domain.launch()
        for domain in domains.values():
            domain.wait_ready()
            if domain.addresses:
                domain.start_service(["nc", "-ll", "-p", str(ECHO_PORT), "-e", "cat"])
        return domains

    def _measure(self, boot: int, domains: dict[str, Domain], peer: Peer | None, results: Results) -> None:
        for number in range(self._plan.rounds):
            steps = self._plan.steps()
            # Every other round runs backwards, so that no path is always the one that finds the caches warm.
            for workload, path in steps if number % 2 == 0 else reversed(steps):
                self._announce(boot, number, workload, path)
                started = time.monotonic()
                self._step(boot, domains[f"compare-{path.domain}"], path, workload, peer, results)
                self._spent += time.monotonic() - started
                self._done += 1

    def _announce(self, boot: int, number: int, workload: Workload, path: DevicePath) -> None:
        left = ""
        if self._done:
            runs = self._spent / self._done * (self._total - self._done)
            left = f", about {runs + self._boot_spent * (self._plan.boots - boot - 1):.0f} s left"
        where = f"boot {boot + 1}, round {number + 1}"
        self._tell(f"[{self._done + 1}/{self._total}{left}] {where}: {workload.name} on {path.name}")

    def _step(
        self, boot: int, domain: Domain, path: DevicePath, workload: Workload, peer: Peer | None, results: Results
    ) -> None:
        first = not results.samples(path.name, workload.name, workload.headline)
        interrupts = self._interrupts(domain) if first else 0
        processor, started = counters.processor_seconds(domain.pids), time.monotonic()
        sample = self._run(domain, path, workload, peer)
        cores = (counters.processor_seconds(domain.pids) - processor) / (time.monotonic() - started)
        results.add(boot, path.name, workload, sample, cores)
        if first and sample.operations:
            taken = self._interrupts(domain) - interrupts
            results.counts.append(Count(path.name, workload.name, "interrupts", taken / sample.operations))
        if first and isinstance(workload, BlockWorkload) and isinstance(path, DiskPath) and path.registers:
            results.counts.append(self._register_accesses(domain, path, workload))

    def _interrupts(self, domain: Domain) -> int:
        return counters.interrupts(domain.execute(["cat", "/proc/interrupts"]).check().stdout)

    def _register_accesses(self, domain: Domain, path: DiskPath, workload: BlockWorkload) -> Count:
        """Counted in a run of its own, since tracing slows the guest down."""
        command = workload.command(self._device(domain, path), operations=COUNTED_OPERATIONS)
        taken = counters.register_accesses(
            domain, path.registers, lambda: domain.execute(command, timeout=GRACE).check()
        )
        return Count(path.name, workload.name, "register_accesses", taken / COUNTED_OPERATIONS)

    def _device(self, domain: Domain, path: DiskPath) -> str:
        """The guest's device file of a disk path."""
        if path.model is not None:
            return domain.device(path.target)
        domain.execute(NULL_BLOCK).check()
        return f"/dev/{path.target}"

    def _run(self, domain: Domain, path: DevicePath, workload: Workload, peer: Peer | None) -> Sample:
        seconds = self._plan.seconds
        match workload, path, peer:
            case BlockWorkload(), DiskPath(), _:
                command = workload.command(self._device(domain, path), seconds=seconds)
                return workload.parse(domain.execute(command, timeout=seconds + GRACE).check().stdout)
            case StreamWorkload(), _, Peer():
                command = workload.command(peer.address, IPERF_PORT, seconds=seconds)
                return workload.parse(domain.execute(command, timeout=seconds + GRACE).stdout)
            case RoundTripWorkload(), _, Peer():
                return workload.parse(peer.round_trips(domain.addresses[0], seconds), seconds)
            case _:
                raise ValueError(f"{workload.name} does not run on {path.name}")


def _peer(domains: dict[str, Domain], stack: ExitStack) -> Peer | None:
    """The far end of the network paths; None when no domain has a network card."""
    for domain in domains.values():
        if domain.addresses:
            peer = Peer(domain.network, domain.logs / "iperf3.log")
            stack.callback(peer.close)
            return peer
    return None


@contextmanager
def _disk_image(size: int) -> Iterator[Lease]:
    """A raw image full of data that does not compress, leased once for all the domains that take turns on it."""
    janitor = Janitor(logs.make("compare") / "janitor.log")
    try:
        with scratch.directory("compare", janitor) as directory:
            path = directory / "disk.img"
            with step(f"filling a disk image of {size >> 20} MiB"), path.open("wb") as image:
                for _ in range(size // CHUNK):
                    image.write(os.urandom(CHUNK))
            with Lease(path, readonly=False) as lease:
                yield lease
    finally:
        janitor.dismiss()


def _host(domain: Domain) -> Host:
    facts = Path("/proc/cpuinfo").read_text().splitlines()
    model = next(
        (line.partition(":")[2].strip() for line in facts if line.startswith("model name")), platform.machine()
    )
    return Host(
        cpu=model,
        cores=os.cpu_count() or 1,
        kernel=platform.release(),
        qemu=domain.qemu_version(),
        accelerator=domain.accelerator.name,
        accelerator_reason=domain.accelerator.reason,
    )


def _guest(domain: Domain) -> Guest:
    return Guest(kernel=domain.image.kernel_version, image=domain.definition.image)
