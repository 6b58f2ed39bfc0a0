"""The nodes of domains and devices, as a real Xen system has them, and how they go away."""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from harness.bus import hotplug, toolstack
from harness.bus.devices import Device, backend_directory, disk_number
from harness.bus.xenbus import XenbusState, read_state, switch_state, wait_for_state
from harness.host.deadline import Deadline
from harness.host.errors import DeadlineExpired, UsageError
from harness.hypervisor.link import Link
from harness.store.client import StoreClient
from harness.store.errors import StoreError
from tests.unit.live_store import live_store, within

DESCRIPTION = toolstack.Description(
    name="domU",
    uuid="e85b90c6-c456-4614-acc4-650a827507b1",
    memory_kib=327680,
    vcpus=1,
    kernel=Path("/cache/vmlinuz"),
    ramdisk=Path("/cache/initramfs"),
    cmdline="console=hvc0 quiet panic=-1",
)
IMAGE = Path("/images/disk.img")
REAL_TREE = Path(__file__).with_name("toolstack_tree.txt")
"""The listing of a real Xen system, without what guests, backends and scripts write, with our paths and frames."""


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[StoreClient]:
    with live_store(tmp_path_factory.mktemp("runtime")) as client:
        yield client


@pytest.fixture
def domain(store: StoreClient) -> Iterator[Link]:
    """Domain 1, without devices."""
    with Link.create(1) as link:
        toolstack.add_domain(store, 1, link, DESCRIPTION)
        try:
            yield link
        finally:
            toolstack.remove_domain(store, 1)


def listing(store: StoreClient, path: str) -> list[str]:
    """Everything at and below a node, in the form and order of xenstore-ls."""
    value = store.read(path).decode()
    if path.endswith("/start_time"):
        assert re.fullmatch(r"\d+\.\d\d", value)
        value = "*"
    lines = [f'{path} = "{value}" ({",".join(store.get_perms(path))})']
    for name in store.directory(path):
        lines += listing(store, f"{path.rstrip('/')}/{name}")
    return lines


def below(lines: list[str], path: str) -> list[str]:
    return [line for line in lines if re.match(re.escape(path) + "[/ ]", line)]


@pytest.mark.parametrize(
    "path",
    ["/local/domain/0/backend/vbd", "/local/domain/0/backend/vif", "/local/domain/0/backend/console"]
    + [f"/local/domain/1/{name}" for name in ("device", "control", "memory", "cpu", "store", "console", "error")]
    + ["/libxl", "/vm", "/local/domain/1"],
)
def test_the_tree_is_that_of_a_real_xen_system(store: StoreClient, domain: Link, path: str) -> None:
    toolstack.add_vbd(store, 1, "xvda", IMAGE, readonly=True)
    toolstack.add_console(store, 1, domain)
    toolstack.add_vif(store, 1, 0, "00:16:3e:00:00:01", "xenbr0")
    real = below(REAL_TREE.read_text().splitlines(), path)
    assert len(real) > 1 or path.endswith("error")
    assert listing(store, path) == real


def test_a_writable_disk_differs_in_two_nodes(store: StoreClient, domain: Link) -> None:
    reader, writer = (
        toolstack.add_vbd(store, 1, name, IMAGE, readonly=readonly)
        for name, readonly in (("xvda", True), ("xvdb", False))
    )
    for node, values in {
        "mode": (b"r", b"w"),
        "discard-enable": (b"0", b"1"),
        "params": (b"/images/disk.img",) * 2,
    }.items():
        assert (store.read(f"{reader.backend}/{node}"), store.read(f"{writer.backend}/{node}")) == values


def test_nothing_is_left_of_a_removed_domain(store: StoreClient) -> None:
    before = listing(store, "/local/domain/0")
    with Link.create(5) as link:
        toolstack.add_domain(store, 5, link, DESCRIPTION)
        disk = toolstack.add_vbd(store, 5, "xvda", IMAGE)
        toolstack.remove_domain(store, 5)
    for path in ("/local/domain/5", "/libxl/5", f"/vm/{DESCRIPTION.uuid}", disk.backend):
        assert not store.exists(path)
    assert [line for line in listing(store, "/local/domain/0") if "/backend" not in line] == [
        line for line in before if "/backend" not in line
    ]
    with pytest.raises(StoreError) as caught:
        toolstack.remove_domain(store, 5)
    assert caught.value.name == "ENOENT"


def test_a_domain_that_cannot_be_described_is_not_introduced(store: StoreClient) -> None:
    broken = toolstack.Description("x", "no/uu id", 1, 1, IMAGE, IMAGE, "")
    with Link.create(6) as link, pytest.raises(StoreError):
        toolstack.add_domain(store, 6, link, broken)
    assert not store.is_introduced(6)
    assert not store.exists("/local/domain/6")


def test_a_watcher_of_devices_sees_a_device_whole(store: StoreClient, domain: Link) -> None:
    directory = backend_directory("vbd", 1)
    store.watch(directory, "devices")
    assert store.read_event(within("the first event")) == (directory, "devices")
    disk = toolstack.add_vbd(store, 1, "xvda", IMAGE)
    store.read_event(within("an event of the new device"))
    assert read_state(store, disk.backend) == read_state(store, disk.frontend) == XenbusState.INITIALISING
    store.unwatch(directory, "devices")
    while store.poll_event() is not None:
        pass


def test_a_device_goes_when_its_backend_has_closed(store: StoreClient, domain: Link) -> None:
    disk = toolstack.add_vbd(store, 1, "xvda", IMAGE)
    other = toolstack.add_vbd(store, 1, "xvdb", IMAGE)
    switch_state(store, disk.backend, XenbusState.CONNECTED)
    seen: list[bytes] = []

    def backend() -> None:
        with StoreClient.connect() as own:
            wait_for_state(own, disk.backend, {XenbusState.CLOSING}, within("the toolstack's wish"))
            seen.append(own.read(f"{disk.backend}/online"))
            switch_state(own, disk.backend, XenbusState.CLOSED)

    thread = threading.Thread(target=backend)
    thread.start()
    hotplug.close_device(store, disk)
    hotplug.remove_device(store, disk, within("the removal"))
    thread.join()
    assert seen == [b"0"]
    for path in (disk.frontend, disk.backend, disk.toolstack):
        assert not store.exists(path)
    for path in (other.frontend, other.backend, other.toolstack):
        assert store.exists(path)


def test_a_device_whose_backend_does_not_close_stays(store: StoreClient, domain: Link) -> None:
    disk = toolstack.add_vbd(store, 1, "xvda", IMAGE)
    switch_state(store, disk.backend, XenbusState.CONNECTED)
    hotplug.close_device(store, disk)
    with pytest.raises(DeadlineExpired):
        hotplug.remove_device(store, disk, Deadline(0.05, "the disk to close"))
    assert read_state(store, disk.backend) == XenbusState.CLOSING
    assert store.exists(disk.toolstack)


@pytest.mark.parametrize(
    ("name", "number"),
    [
        ("xvda", 51712),
        ("xvdb", 51728),
        ("xvdb3", 51731),
        ("xvdp15", 51967),
        ("xvdq", (1 << 28) + (16 << 8)),
        ("xvda16", (1 << 28) + 16),
        ("xvdaa", (1 << 28) + (26 << 8)),
        ("hda", 768),
        ("hdb1", 833),
        ("hdc", 5632),
        ("sda", 2048),
        ("sdb2", 2066),
    ],
)
def test_device_numbers(name: str, number: int) -> None:
    assert disk_number(name) == number


@pytest.mark.parametrize("name", ["", "xvd", "vda", "xvda256", "hde", "sdq", "sda16", "xvdA", "xvda-1", "xvda\n"])
def test_names_of_no_disk(name: str) -> None:
    with pytest.raises(UsageError):
        disk_number(name)


def test_a_driver_domain_owns_its_backends() -> None:
    device = Device("vbd", 3, 51712, backend_domid=2)
    assert device.backend == "/local/domain/2/backend/vbd/3/51712"
    assert device.frontend == "/local/domain/3/device/vbd/51712"
