"""The bus in the guest: it comes and goes whoever uses it, and its idle processor looks at rings as it is told to."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import pytest

from harness.bus.features import Notification, Notifications
from harness.domain.domain import Domain
from harness.pytest_plugin.plugin import StartDomain
from tests.guest.conftest import named

STRATEGIES = {
    "xvda": (51712, Notification.ADAPTIVE),
    "xvdb": (51728, Notification.EVENT),
    "xvdc": (51744, Notification.POLL),
}
"""Of each disk: the number of its device, and how the guest learns of responses."""
IDLE_DRIVER = "/sys/devices/system/cpu/cpuidle/current_driver"

READ_ALL = """
for disk in xvda xvdb xvdc; do
    until [ -b /dev/$disk ]; do :; done
    dd if=/dev/$disk of=/dev/null bs=64k count=16 iflag=direct 2>/dev/null || exit
done
xenstore-read name
"""


@pytest.fixture(scope="module")
def domain(request: pytest.FixtureRequest, start_domain_for_module: StartDomain) -> Domain:
    """A guest with a disk for each strategy of its own; the backend's is the usual one."""
    definition = named("pv", request)
    (disk,) = definition.disks
    disks = [
        replace(disk, target=target, size=16 << 20, notifications=Notifications(frontend=strategy))
        for target, (_, strategy) in STRATEGIES.items()
    ]
    return start_domain_for_module(replace(definition, disks=tuple(disks)))


def shell(domain: Domain, script: str, timeout: float = 60.0) -> str:
    return domain.execute(["sh", "-c", script], timeout=timeout).check().text


def looks(domain: Domain, number: int) -> tuple[int, int]:
    """How often the idle processor has looked at the rings of a disk, and found something, or nothing."""
    found = in_vain = 0
    for line in shell(domain, "cat /sys/bus/pvbus/idle").splitlines():
        name, _, hits, _, misses, _, _ = line.split()
        if name.startswith(f"vbd-{number}-"):
            found, in_vain = found + int(hits), in_vain + int(misses)
    return found, in_vain


@pytest.mark.parametrize("target", STRATEGIES)
def test_the_idle_processor_looks_when_the_strategy_says_so(domain: Domain, target: str) -> None:
    number, strategy = STRATEGIES[target]
    before = looks(domain, number)
    # Requests that are too long to be waited for where they are submitted: the processor idles until the answer.
    shell(domain, f"dd if=/dev/{target} of=/dev/null bs=128k iflag=direct 2>/dev/null")
    found, in_vain = (after - earlier for after, earlier in zip(looks(domain, number), before, strict=True))
    if strategy is Notification.EVENT:
        assert (found, in_vain) == (0, 0)
    else:
        assert found + in_vain > 0
    if strategy is Notification.POLL:
        assert found > 0


@contextmanager
def stopped(pid: int) -> Iterator[None]:
    """A process that does nothing for a while."""
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


def test_a_device_leaves_its_driver_although_the_backend_hangs(domain: Domain) -> None:
    device = f"vbd-{domain.domid}-51728"
    driver = "$(readlink -f /sys/bus/pvbus/devices/" + device + "/driver)"
    with stopped(domain.parts.record.pids["backend"]):
        where = shell(domain, f"driver={driver}; echo {device} >$driver/unbind; echo $driver")
        assert "xvdb" not in shell(domain, "ls /sys/block").split()
    shell(domain, f"until echo {device} >{where}/bind; do :; done")
    assert shell(domain, READ_ALL) == domain.name


def test_the_link_goes_and_comes_while_programs_use_it(domain: Domain) -> None:
    link = shell(domain, "basename $(dirname $(ls -d /sys/bus/pci/drivers/pvbus/*/config))")
    said = shell(
        domain,
        f"""
        exec 3<>/dev/xen/xenbus
        xenstore-watch data/x 2>&1 >/dev/null &
        echo {link} >/sys/bus/pci/drivers/pvbus/unbind
        cat <&3 2>&1
        (xenstore-read name) 2>&1 >/dev/null | grep -c -i "no such"
        kill $! 2>/dev/null
        wait
        echo {link} >/sys/bus/pci/drivers/pvbus/bind
        """,
    )
    assert "No such device" in said
    assert shell(domain, READ_ALL) == domain.name


def test_the_drivers_can_be_unloaded(domain: Domain) -> None:
    assert shell(domain, f"cat {IDLE_DRIVER}") == "pvbus"
    script = f"""
    rmmod pvblk && rmmod pvnet && rmmod pvcon && rmmod pvbus || exit
    cat {IDLE_DRIVER}
    modprobe pvbus && modprobe pvblk && modprobe pvnet && modprobe pvcon || exit
    cat {IDLE_DRIVER}
    """
    assert shell(domain, script).split() == ["none", "pvbus"]
    assert shell(domain, READ_ALL) == domain.name
    trouble = [line for line in shell(domain, "dmesg").splitlines() if "BUG" in line or "WARNING" in line]
    assert trouble == []
