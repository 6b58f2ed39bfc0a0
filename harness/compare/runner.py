"""Runs a comparison: boots the domains, then goes round by round through every workload on every path."""

from __future__ import annotations

import datetime
import os
import platform
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from harness.compare import counters, subjects
from harness.compare.burner import busy_cores
from harness.compare.network import ECHO_PORT, IPERF_PORT, Peer
from harness.compare.plugging import plugged
from harness.compare.results import Count, Guest, Host, Results
from harness.compare.subjects import DevicePath, DiskPath
from harness.compare.workloads import BlockWorkload, RoundTripWorkload, Sample, StreamWorkload, Workload, together
from harness.domain import logs, scratch
from harness.domain.domain import Domain
from harness.domain.janitor import Janitor
from harness.domain.leases import Lease
from harness.domain.life import DomainState
from harness.host.progress import step

GRACE = 60.0
"""Seconds a run may take beyond its own length before the guest counts as silent."""
COUNTED_OPERATIONS = 200
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
                    peer = _peer(domains, max(path.clients for path in self._plan.paths), stack)
                    stack.enter_context(busy_cores(self._plan.busy))
                    self._measure(boot, domains, image, peer, results)
        if results is None:
            raise ValueError("a plan needs at least one boot")
        return results

    def _boot(self, image: Lease, stack: ExitStack) -> dict[str, Domain]:
        """Start the domains of this plan; returns them, ready, by name."""
        domains: dict[str, Domain] = {}
        for definition in subjects.definitions(self._plan.paths, image.path):
            domain = Domain(definition, accelerator=self._plan.accelerator, shared_lease=image)
            # They boot side by side: all are launched before any is waited for, except by whom they need.
            domains[definition.name] = stack.enter_context(domain)
            domain.launch()
            if definition.driver_domain:
                domain.wait_ready()
        for domain in domains.values():
            if domain.state is DomainState.STARTING:
                domain.wait_ready()
            if domain.addresses:
                domain.start_service(["nc", "-ll", "-p", str(ECHO_PORT), "-e", "cat"])
        return domains

    def _measure(
        self, boot: int, domains: dict[str, Domain], image: Lease, peer: Peer | None, results: Results
    ) -> None:
        for number in range(self._plan.rounds):
            steps = self._plan.steps()
            # Every other round runs backwards, so that no path is always the one that finds the caches warm.
            for workload, path in steps if number % 2 == 0 else reversed(steps):
                self._announce(boot, number, workload, path)
                started = time.monotonic()
                with ExitStack() as stack:
                    runs = []
                    for client, name in enumerate(subjects.domains(path)):
                        device = stack.enter_context(plugged(domains[name], path, image))
                        runs.append(Run(domains[name], path, device, workload, peer, IPERF_PORT + client))
                    self._step(boot, runs, domains.get(subjects.DRIVER) if path.driver else None, results)
                self._spent += time.monotonic() - started
                self._done += 1

    def _announce(self, boot: int, number: int, workload: Workload, path: DevicePath) -> None:
        left = ""
        if self._done:
            runs = self._spent / self._done * (self._total - self._done)
            left = f", about {runs + self._boot_spent * (self._plan.boots - boot - 1):.0f} s left"
        where = f"boot {boot + 1}, round {number + 1}"
        self._tell(f"[{self._done + 1}/{self._total}{left}] {where}: {workload.name} on {path.name}")

    def _step(self, boot: int, runs: list[Run], driver: Domain | None, results: Results) -> None:
        path, workload = runs[0].path, runs[0].workload
        first = not results.samples(path.name, workload.name, workload.headline)
        before = _events(runs) if first else {}
        pids = [pid for domain in (*(run.domain for run in runs), driver) if domain is not None for pid in domain.pids]
        processor, started = counters.processor_seconds(pids), time.monotonic()
        sample = _measure_at_once(runs, self._plan.seconds)
        cores = (counters.processor_seconds(pids) - processor) / (time.monotonic() - started)
        results.add(boot, path.name, workload, sample, cores)
        if not first:
            return
        if sample.operations:
            for name, count in _events(runs).items():
                results.counts.append(Count(path.name, workload.name, name, (count - before[name]) / sample.operations))
        results.counts += runs[0].register_accesses()


@dataclass(frozen=True)
class Run:
    """One workload on one path.

    :param device: the guest's device file, or its address.
    :param port: of the peer's iperf3 server that is this run's.
    """

    domain: Domain
    path: DevicePath
    device: str
    workload: Workload
    peer: Peer | None
    port: int

    def measure(self, seconds: float) -> Sample:
        match self.workload, self.path, self.peer:
            case BlockWorkload() as workload, DiskPath(), _:
                command = workload.command(self.device, seconds=seconds)
                return workload.parse(self.domain.execute(command, timeout=seconds + GRACE).check().stdout)
            case StreamWorkload() as workload, _, Peer() as peer:
                command = workload.command(peer.address, self.port, seconds=seconds)
                return workload.parse(self.domain.execute(command, timeout=seconds + GRACE).stdout)
            case RoundTripWorkload() as workload, _, Peer() as peer:
                return workload.parse(peer.round_trips(self.device, seconds), seconds)
            case _:
                raise ValueError(f"{self.workload.name} does not run on {self.path.name}")

    def events(self) -> dict[str, int]:
        """What the guest has counted so far."""
        found = {"interrupts": counters.interrupts(self._read("/proc/interrupts"))}
        if self.path.model == "pv":
            found["doorbells"] = counters.doorbells(self._read(counters.STATISTICS))
        return found

    def _read(self, pattern: str) -> bytes:
        return self.domain.execute(["sh", "-c", f"cat {pattern}"]).check().stdout

    def register_accesses(self) -> list[Count]:
        """Counted in a run of its own, since tracing slows the guest down."""
        path, workload = self.path, self.workload
        if not isinstance(workload, BlockWorkload) or not isinstance(path, DiskPath) or not path.registers:
            return []
        command = workload.command(self.device, operations=COUNTED_OPERATIONS)
        taken = counters.register_accesses(
            self.domain, path.registers, lambda: self.domain.execute(command, timeout=GRACE).check()
        )
        return [Count(path.name, workload.name, "register_accesses", taken / COUNTED_OPERATIONS)]


def _measure_at_once(runs: list[Run], seconds: float) -> Sample:
    """What a path yields in all the domains that use it."""
    if len(runs) == 1:
        return runs[0].measure(seconds)
    with ThreadPoolExecutor(len(runs)) as pool:
        return together([*pool.map(lambda run: run.measure(seconds), runs)], runs[0].workload.headline)


def _events(runs: list[Run]) -> Counter[str]:
    counted: Counter[str] = Counter()
    for run in runs:
        counted.update(run.events())
    return counted


def _peer(domains: dict[str, Domain], clients: int, stack: ExitStack) -> Peer | None:
    """The far end of the network paths; None when no domain has a network card."""
    for domain in domains.values():
        if domain.addresses:
            peer = Peer(domain.network, domain.logs / "iperf3.log", clients)
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
