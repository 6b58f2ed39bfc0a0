"""QEMU's command line: what is always there, and each device."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from harness.machine.command_line import (
    CPU,
    IDE_TARGETS,
    SANDBOX,
    Machine,
    MachineDisk,
    MachineLink,
    MachineNetwork,
    base_arguments,
    command_line,
    device_objects,
)

BARE = Machine("guest", "tcg", 256, 2, Path("/k,1"), Path("/i,2"), console_fd=10, agent_fd=11)


def values(argv: list[str], option: str) -> list[str]:
    """The values that follow each occurrence of an option."""
    return [argv[n + 1] for n, word in enumerate(argv) if word == option]


def devices(argv: list[str]) -> list[dict[str, Any]]:
    """The devices, whichever syntax they are written in."""
    return [_device(value) for value in values(argv, "-device")]


def _device(value: str) -> dict[str, Any]:
    if value.startswith("{"):
        return dict(json.loads(value))
    driver, *rest = value.split(",")
    return {"driver": driver, **dict(word.split("=", 1) for word in rest)}


def test_every_machine() -> None:
    argv = command_line(BARE, 12)
    assert {"-nodefaults", "-no-user-config", "-no-reboot", "-S"} <= set(argv)
    assert values(argv, "-sandbox") == [SANDBOX]
    assert values(argv, "-display") == ["none"]
    assert values(argv, "-m") == ["size=256M"]
    assert values(argv, "-smp") == ["2"]
    assert values(argv, "-mon") == ["chardev=qmp,mode=control"]
    assert values(argv, "-chardev") == ["socket,id=qmp,fd=12", "socket,id=console,fd=10", "socket,id=agent,fd=11"]
    # The order decides which of them is ttyS0.
    assert values(argv, "-serial") == ["chardev:console", "chardev:agent"]
    assert {"console=ttyS0", "panic=-1", "oops=panic"} <= set(values(argv, "-append")[0].split())


def test_devices_are_those_asked_for() -> None:
    assert [device["driver"] for device in devices(command_line(BARE, 12))] == ["pvpanic-pci", "vmgenid"]


@pytest.mark.parametrize("accelerator", ["tcg", "kvm"])
def test_accelerator_and_its_cpu(accelerator: str) -> None:
    argv = base_arguments(accelerator)
    assert values(argv, "-accel") == [accelerator]
    assert values(argv, "-cpu") == [CPU[accelerator]]


def test_paths_are_passed_as_they_are() -> None:
    argv = command_line(replace(BARE, disks=(MachineDisk("ide", "hda", Path('/a,b="{c'), readonly=False),)), 12)
    assert values(argv, "-kernel") == ["/k,1"]
    assert values(argv, "-initrd") == ["/i,2"]
    assert json.loads(values(argv, "-blockdev")[0])["file"]["filename"] == '/a,b="{c'


def test_comma_in_a_name_is_doubled() -> None:
    assert values(command_line(replace(BARE, name="a,b"), 12), "-name") == ["guest=a,,b"]


def test_a_machine_may_wait_for_a_saved_state() -> None:
    assert "-incoming" not in command_line(BARE, 12)
    assert values(command_line(replace(BARE, incoming=True), 12), "-incoming") == ["defer"]


def test_kernel_arguments_are_appended() -> None:
    argv = command_line(replace(BARE, kernel_arguments=("quiet", "x=1")), 12)
    assert values(argv, "-append")[0].endswith(" quiet x=1")


def test_ide_disks_have_their_places() -> None:
    disks = tuple(MachineDisk("ide", target, Path(f"/{target}")) for target in IDE_TARGETS)
    found = devices(command_line(replace(BARE, disks=disks), 12))[2:]
    assert [(device["driver"], device["bus"], device["unit"]) for device in found] == [
        ("ide-hd", "ide.0", 0),
        ("ide-hd", "ide.0", 1),
        ("ide-hd", "ide.1", 0),
        ("ide-hd", "ide.1", 1),
    ]


def test_disk_image_is_written_back_and_not_locked_by_qemu() -> None:
    argv = command_line(replace(BARE, disks=(MachineDisk("virtio", "vda", Path("/v"), readonly=True),)), 12)
    image = json.loads(values(argv, "-blockdev")[0])
    assert image["driver"] == "raw"
    assert image["read-only"] is True
    assert image["cache"] == {"direct": False, "no-flush": False}
    assert image["file"]["locking"] == "off"
    device = devices(argv)[-1]
    assert (device["driver"], device["drive"], device["serial"]) == ("virtio-blk-pci", image["node-name"], "vda")


@pytest.mark.parametrize("disk", [MachineDisk("ide", "hda", Path("/a")), MachineDisk("virtio", "vda", Path("/v"))])
def test_errors_of_the_image_are_the_guests_to_handle(disk: MachineDisk) -> None:
    device = devices(command_line(replace(BARE, disks=(disk,)), 12))[-1]
    assert (device["rerror"], device["werror"]) == ("report", "report")


@pytest.mark.parametrize("inline", [False, True])
def test_inline_io_takes_both_ends(inline: bool) -> None:
    argv = command_line(replace(BARE, disks=(MachineDisk("virtio", "vda", Path("/v"), inline=inline),)), 12)
    asynchronous = json.loads(values(argv, "-blockdev")[0])["file"]["aio"] == "io_uring"
    assert (asynchronous, devices(argv)[-1]["ioeventfd"]) == (inline, not inline)


@pytest.mark.parametrize(("block_device", "driver"), [(False, "file"), (True, "host_device")])
def test_files_and_block_devices_have_drivers_of_their_own(block_device: bool, driver: str) -> None:
    disk = MachineDisk("ide", "hda", Path("/d"), block_device=block_device)
    image = json.loads(values(command_line(replace(BARE, disks=(disk,)), 12), "-blockdev")[0])
    assert image["file"] == {"driver": driver, "filename": "/d", "locking": "off", "aio": "threads"}


def test_virtio_disks_are_on_the_bus_in_the_order_of_their_letters() -> None:
    disks = tuple(MachineDisk("virtio", f"vd{letter}", Path("/v")) for letter in "cab")
    found = devices(command_line(replace(BARE, disks=disks), 12))[2:]
    assert [device["serial"] for device in found] == ["vda", "vdb", "vdc"]


def test_a_disk_in_memory_is_the_image_itself_at_addresses_kept_for_it() -> None:
    disk = MachineDisk("virtio-pmem", "pmem0", Path("/p,1"), size=6 << 20)
    argv = command_line(replace(BARE, disks=(disk,), room=1024), 12)
    assert values(argv, "-m") == ["size=256M,maxmem=1280M"]
    (image,) = map(json.loads, values(argv, "-object"))
    assert (image["qom-type"], image["mem-path"], image["size"]) == ("memory-backend-file", "/p,1", 6 << 20)
    assert image["share"] is True
    device = devices(argv)[-1]
    assert (device["driver"], device["memdev"]) == ("virtio-pmem-pci", image["id"])
    assert not values(argv, "-blockdev")


def test_devices_have_the_same_places_whether_plugged_in_or_there_from_the_start() -> None:
    machine = replace(
        BARE,
        disks=(
            MachineDisk("virtio", "vda", Path("/v")),
            MachineDisk("ide", "hda", Path("/h")),
            MachineDisk("virtio-pmem", "pmem0", Path("/p"), size=6 << 20),
        ),
        networks=(MachineNetwork("virtio", "52:54:00:00:00:02", 21),),
    )
    plugged = {one.device["id"]: one.device.get("addr") for one in device_objects(machine)}
    assert {one["id"]: one.get("addr") for one in devices(command_line(machine, 12))[2:]} == plugged
    assert plugged.pop("hda") is None
    assert len({*plugged.values(), "0x2", "0x1f"}) == len(plugged) + 2


def test_networks_and_links() -> None:
    machine = replace(
        BARE,
        networks=(MachineNetwork("ne2000", "52:54:00:00:00:01", 20), MachineNetwork("virtio", "52:54:00:00:00:02", 21)),
        link=MachineLink(30, vectors=4),
    )
    argv = command_line(machine, 12)
    assert [json.loads(port) for port in values(argv, "-netdev")] == [
        {"type": "tap", "id": "tap0", "fd": "20", "vhost": False},
        {"type": "tap", "id": "tap1", "fd": "21", "vhost": False},
    ]
    found = devices(argv)
    drivers = [device["driver"] for device in found]
    assert drivers == ["pvpanic-pci", "vmgenid", "ivshmem-doorbell", "ne2k_pci", "virtio-net-pci"]
    assert (found[2]["vectors"], found[2]["addr"]) == ("4", "0x1f")
    assert [device["mac"] for device in found[3:]] == ["52:54:00:00:00:01", "52:54:00:00:00:02"]
    assert values(argv, "-chardev")[3:] == ["socket,id=link0,fd=30"]
    assert machine.descriptors() == [10, 11, 20, 21, 30]


def test_what_is_plugged_in_later_leaves_its_descriptors() -> None:
    machine = replace(
        BARE,
        disks=(MachineDisk("virtio", "vda", Path("/a"), lease_fds=(40,)),),
        networks=(MachineNetwork("virtio", "52:54:00:00:00:02", 21),),
        bare=True,
    )
    argv = command_line(machine, 12)
    assert len(devices(argv)) == len(devices(command_line(BARE, 12)))
    assert not values(argv, "-blockdev") + values(argv, "-netdev")
    assert machine.descriptors() == [10, 11, 40, 21]


def test_lock_of_an_image_is_inherited_for_as_long_as_qemu_runs() -> None:
    disks = (MachineDisk("ide", "hda", Path("/a"), lease_fds=(40, 41)), MachineDisk("ide", "hdb", Path("/b")))
    assert replace(BARE, disks=disks).descriptors() == [10, 11, 40, 41]


def test_links_to_driver_domains_have_the_places_that_they_had() -> None:
    machine = replace(
        BARE,
        networks=(MachineNetwork("e1000", "52:54:00:00:00:01", 20),),
        link=MachineLink(30),
        further_links=(MachineLink(31, 4, "driver7", 5), MachineLink(32, 8, "driver9", 4)),
    )
    assert machine.descriptors() == [10, 11, 20, 30, 31, 32]
    assert command_line(machine, 12)[-8:] == [
        *("-chardev", "socket,id=driver7,fd=31"),
        *("-device", "ivshmem-doorbell,id=driver7,chardev=driver7,vectors=4,master=on,addr=0x5"),
        *("-chardev", "socket,id=driver9,fd=32"),
        *("-device", "ivshmem-doorbell,id=driver9,chardev=driver9,vectors=8,master=on,addr=0x4"),
    ]


def test_descriptors_named_on_the_command_line_are_those_to_inherit() -> None:
    machine = replace(BARE, networks=(MachineNetwork("e1000", "52:54:00:00:00:01", 20),), link=MachineLink(30))
    argv = command_line(machine, 12)
    named = {int(word.split("=")[1]) for value in argv for word in value.split(",") if word.startswith("fd=")}
    named |= {int(json.loads(port)["fd"]) for port in values(argv, "-netdev")}
    assert named == {*machine.descriptors(), 12}
