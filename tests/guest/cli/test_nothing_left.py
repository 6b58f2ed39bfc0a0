"""Whatever happens to a command or a part of a domain, nothing is left."""

from __future__ import annotations

import os
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from harness.host.directories import GUESTS
from tests.guest.cli.commands import HARNESS, SECONDS, record, scratch, wait_for
from tests.leftovers import leftovers


@pytest.fixture
def own_runtime(environment: dict[str, str]) -> Iterator[tuple[Path, dict[str, str]]]:
    with tempfile.TemporaryDirectory(prefix="harness-") as directory:
        yield Path(directory), {**environment, "HARNESS_RUNTIME": directory}


@pytest.mark.parametrize("end", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT], ids=lambda end: end.name)
@pytest.mark.parametrize(
    ("verb", "state"),
    # A domain that runs is create's work done: then a signal to create may come too late to undo it.
    [("boot", "created"), ("boot", "starting"), ("boot", "running"), ("create", "created"), ("create", "starting")],
)
def test_a_signal_leaves_nothing(
    verb: str, state: str, end: signal.Signals, name: str, own_runtime: tuple[Path, dict[str, str]], tmp_path: Path
) -> None:
    """``created``: the record is written, processes are being started; ``starting``: the guest boots."""
    runtime, environment = own_runtime
    with (tmp_path / "output").open("wb") as output:
        process = subprocess.Popen(
            [*HARNESS, verb, str(GUESTS / "pv.yaml"), "--name", name],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            env=environment,
        )
    order = ["created", "starting", "running"]

    def reached() -> bool:
        found = record(runtime, name)
        return found is not None and order.index(found["state"]) >= order.index(state)

    try:
        wait_for(reached, process)
        process.send_signal(end)
        status = process.wait(SECONDS)
    finally:
        process.kill()
        process.wait()
    if verb == "create" and status == 0:
        # It was done before the signal came.
        assert record(runtime, name) is not None
        subprocess.run([*HARNESS, "destroy", name], env=environment, timeout=SECONDS, check=True)
    else:
        assert status == (-end if end == signal.SIGKILL else 130)
    assert leftovers(runtime) == []
    assert scratch(name) == []


@pytest.mark.parametrize("victim", ["supervisor", "qemu"])
def test_a_killed_part_of_a_running_domain_takes_all_with_it(
    victim: str, name: str, own_runtime: tuple[Path, dict[str, str]]
) -> None:
    runtime, environment = own_runtime
    command = [*HARNESS, "create", str(GUESTS / "pv.yaml"), "--name", name]
    subprocess.run(command, env=environment, stdin=subprocess.DEVNULL, timeout=SECONDS, check=True)
    for attach in (["block-attach", name, "xvdb", "size=1MiB"], ["network-attach", name]):
        subprocess.run([*HARNESS, *attach], env=environment, timeout=SECONDS, check=True)
    found = record(runtime, name)
    assert found is not None
    assert list(scratch(name)[0].glob("xvdb.img"))
    os.kill(found["pids"][victim], signal.SIGKILL)
    assert leftovers(runtime) == []
    assert scratch(name) == []
