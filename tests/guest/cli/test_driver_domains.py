"""Two files, one command: driver domains and those that they serve, as people use them."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from harness.host.directories import GUESTS
from tests.guest.cli.commands import HARNESS
from tests.leftovers import leftovers

SECONDS = 180.0
DRIVER, GUEST = (str(GUESTS / f"{name}.yaml") for name in ("driver", "pv-driver"))
Run = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def harness() -> Iterator[Run]:
    """Runs a command to its end, with a runtime directory of its own; nothing may be left there."""
    with tempfile.TemporaryDirectory(prefix="harness-") as name:

        def run(*arguments: str) -> subprocess.CompletedProcess[str]:
            environment = {**os.environ, "HARNESS_RUNTIME": name}
            return subprocess.run(
                [*HARNESS, *arguments],
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                env=environment,
                timeout=SECONDS,
                check=False,
            )

        try:
            yield run
        finally:
            for fields in reversed(listing(run)):
                run("destroy", fields["name"])
            assert leftovers(Path(name)) == []


def listing(harness: Run) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(harness("list", "--json").stdout)
    return found


def checked(harness: Run, *arguments: str) -> str:
    done = harness(*arguments)
    assert done.returncode == 0, done.stderr
    return done.stdout


def wait_for(what: str, true: Callable[[], bool]) -> None:
    end = time.monotonic() + SECONDS
    while not true():
        assert time.monotonic() < end, what
        time.sleep(0.1)


def test_two_files_one_command_and_it_comes_back(harness: Run) -> None:
    checked(harness, "create", GUEST, DRIVER)
    driver, guest = listing(harness)
    assert (driver["name"], driver["kind"], driver["driver_domain"]) == ("driver", "pv", True)
    assert (guest["name"], guest["driver_domain"], guest["waits_for"]) == ("pv-driver", False, [])
    for verb in ("block-list", "network-list"):
        head, line = (text.split() for text in checked(harness, verb, "pv-driver").splitlines())
        assert line[head.index("BE")] == str(driver["domid"])
        assert line[-1].startswith(f"/local/domain/{driver['domid']}/backend/")
    checked(harness, "exec", "pv-driver", "--", "dd", "if=/dev/zero", "of=/dev/xvda", "bs=1M", "count=1", "conv=fsync")
    os.kill(driver["processes"]["qemu"], signal.SIGKILL)
    # It is read when the driver domain serves it again, and not before.
    checked(
        harness, "exec", "pv-driver", "--", "dd", "if=/dev/xvda", "of=/dev/null", "bs=1M", "count=1", "iflag=direct"
    )
    wait_for("its return", lambda: [one["waits_for"] for one in listing(harness)] == [[], []])
    again, _ = listing(harness)
    assert (again["domid"], again["state"], again["backend_restarts"]) == (driver["domid"], "running", 1)
    assert "driver" in checked(harness, "ssh", "driver", "--", "echo", "driver")


def test_devices_come_from_a_driver_domain_and_go(harness: Run) -> None:
    checked(harness, "create", DRIVER)
    checked(harness, "create", str(GUESTS / "pv.yaml"))
    checked(harness, "block-attach", "pv", "xvdb", "/dev/pmem0", "backend=driver")
    checked(harness, "network-attach", "pv", "backend=driver")
    lines = checked(harness, "block-list", "pv").splitlines()
    number = next(one["domid"] for one in listing(harness) if one["name"] == "driver")
    assert [line.split()[2] for line in lines] == ["BE", "0", str(number)]
    checked(harness, "exec", "pv", "--", "dd", "if=/dev/xvdb", "of=/dev/null", "bs=1M", "count=1")
    checked(harness, "block-detach", "pv", "xvdb")
    checked(harness, "network-detach", "pv", "1")
    assert len(checked(harness, "block-list", "pv").splitlines()) == 2


def test_one_that_ends_is_waited_for_until_its_disk_is_taken_away(harness: Run) -> None:
    checked(harness, "create", DRIVER, GUEST)
    checked(harness, "destroy", "driver")
    wait_for("the news", lambda: [one["waits_for"] for one in listing(harness)] == [["driver"]])
    assert "running, waits for driver" in checked(harness, "list")
    refused = harness("block-detach", "pv-driver", "xvda")
    assert refused.returncode == 4
    assert "--force" in refused.stderr
    checked(harness, "block-detach", "pv-driver", "xvda", "--force")
    checked(harness, "network-detach", "pv-driver", "0", "--force")
    # Another one may serve it then.
    checked(harness, "create", DRIVER)
    checked(harness, "block-attach", "pv-driver", "xvda", "/dev/pmem0", "backend=driver")
    checked(harness, "exec", "pv-driver", "--", "dd", "if=/dev/xvda", "of=/dev/null", "bs=1M", "count=1")


@pytest.mark.parametrize("victim", ["supervisor", "qemu"])
def test_nothing_is_left_of_a_guest_that_is_killed(victim: str, harness: Run) -> None:
    checked(harness, "create", DRIVER, GUEST)
    driver, guest = listing(harness)
    os.kill(guest["processes"][victim], signal.SIGKILL)
    wait_for("its end", lambda: [one["name"] for one in listing(harness)] == ["driver"])

    def served() -> str:
        return checked(harness, "exec", "driver", "--", "ls", "/sys/bus/pvbus/devices")

    wait_for("the end of what served it", lambda: served().split() == [f"console-{driver['domid']}-first"])
    checked(harness, "create", GUEST)


def test_what_cannot_start_is_refused_with_its_name(harness: Run, tmp_path: Path) -> None:
    alone = harness("create", GUEST)
    assert alone.returncode == 2
    assert "has driver as a back end, and no driver domain of that name runs" in alone.stderr
    assert "harness create driver.yaml pv-driver.yaml" in alone.stderr
    for name, backend in (("a", "b"), ("b", "a")):
        text = f"kind: pv\ndriver-domain: true\nnetworks: [{{model: pv, backend: {backend}}}]\n"
        (tmp_path / f"{name}.yaml").write_text(text)
    circle = harness("create", str(tmp_path / "a.yaml"), str(tmp_path / "b.yaml"))
    assert circle.returncode == 2
    assert "a waits for b waits for a" in circle.stderr
    both = harness("create", DRIVER, GUEST, "--name", "x")
    assert both.returncode == 2
    assert listing(harness) == []


def test_a_guest_is_saved_and_restored_while_its_driver_domain_has_its_disk(harness: Run, tmp_path: Path) -> None:
    file = str(tmp_path / "saved")
    checked(harness, "create", DRIVER, GUEST)
    checked(harness, "exec", "pv-driver", "--", "mke2fs", "-q", "-t", "ext4", "/dev/xvda")
    served = harness("save", "driver", file)
    assert (served.returncode, "while it serves pv-driver" in served.stderr) == (2, True)
    for _ in range(2):
        checked(harness, "save", "pv-driver", file)
        assert [one["name"] for one in listing(harness)] == ["driver"]
        checked(harness, "restore", file)
        checked(harness, "exec", "pv-driver", "--", "e2fsck", "-fn", "/dev/xvda")
    checked(harness, "save", "pv-driver", file)
    checked(harness, "destroy", "driver")
    alone = harness("restore", file)
    assert alone.returncode == 2
    assert "no driver domain of that name runs" in alone.stderr
    assert f"harness create driver.yaml; then: harness restore {file}" in alone.stderr
    # Its disk has gone with it, and another one is as large.
    checked(harness, "create", DRIVER)
    changed = harness("restore", file)
    assert changed.returncode == 2
    assert "/dev/pmem0 of driver domain driver of disk xvda has changed since" in changed.stderr
    assert [one["name"] for one in listing(harness)] == ["driver"]
