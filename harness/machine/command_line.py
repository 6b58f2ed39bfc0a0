"""From what a machine shall be to QEMU's command line: a pure function, no process, no file.

Everything the machine talks through is an inherited descriptor, so that there is no socket file to guard or to leak.
"""

from __future__ import annotations

import itertools
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from harness.hypervisor.layout import FIRST_LINK_SLOT

QEMU = "qemu-system-x86_64"

SANDBOX = "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny"

CPU = {
    # Emulated, `rep movsb` is several times slower than plain moves, and the kernel's memcpy uses it when ERMS or FSRM
    # is shown.
    "tcg": "max,erms=off,fsrm=off",
    "kvm": "host",
}

KERNEL_ARGUMENTS = (
    "console=ttyS0",
    # A crashed guest ends at once (-no-reboot turns its reboot into QEMU's exit) and with its report on the console.
    "panic=-1",
    "oops=panic",
    # Half a second of every boot would go into testing ciphers that nobody uses.
    "cryptomgr.notests",
    # Nothing in a guest is secret from anything else in it.
    "mitigations=off",
    # For that reason, too: a page is cleared by `rep stosq`, which costs, emulated, two thirds of what copying it does,
    # and a driver domain's card would pay that for every page that it receives in.
    "init_on_alloc=0",
    # On a busy host the check of the timer can take the machine's pauses for a missing interrupt, and panic.
    "no_timer_check",
)

IDE_TARGETS = ("hda", "hdb", "hdc", "hdd")

PANIC_SLOT = 2
FIRST_DEVICE_SLOT = 3
"""Before it are bridges and the panic device; links to driver domains get what is left behind the devices."""

NIC_DEVICES = {"ne2000": "ne2k_pci", "e1000": "e1000", "virtio": "virtio-net-pci"}


@dataclass(frozen=True)
class MachineDisk:
    """A disk that QEMU itself serves.

    :param target: its name (``hda``, ``vda``), which is its serial number; says where on the IDE bus it sits.
    :param path: raw image. The harness holds its own locks on it, so QEMU does not lock.
    :param block_device: whether the path is one, and not a file.
    :param lease_fds: those locks: QEMU keeps them open, so that the image stays locked for as long as it runs.
    :param size: bytes; asked for of a ``virtio-pmem`` disk, which is mapped into the guest's memory.
    :param inline: of a virtio disk: a processor of the guest does the disk's I/O when it rings the doorbell, see
        :mod:`harness.machine.inline_io`.
    """

    model: Literal["ide", "virtio", "virtio-pmem"]
    target: str
    path: Path
    size: int = 0
    readonly: bool = False
    block_device: bool = False
    lease_fds: tuple[int, ...] = ()
    inline: bool = False


@dataclass(frozen=True)
class MachineNetwork:
    """A network card that QEMU itself serves.

    :param tap_fd: an open TAP port; whether frames carry a virtio-net header, QEMU asks the descriptor.
    """

    model: Literal["ne2000", "e1000", "virtio"]
    mac: str
    tap_fd: int


@dataclass(frozen=True)
class MachineLink:
    """A link on which the domain grants, over ivshmem.

    :param fd: a stream socket on which the ivshmem server's messages arrive.
    :param vectors: interrupt vectors the device has.
    :param name: of the device.
    :param slot: where on the PCI bus it is.
    """

    fd: int
    vectors: int = 8
    name: str = "link0"
    slot: int = FIRST_LINK_SLOT


@dataclass(frozen=True)
class Machine:
    """All that QEMU is told.

    :param memory: MiB.
    :param console_fd: socket of the first serial port, ttyS0.
    :param agent_fd: socket of the second serial port, ttyS1.
    :param link: that to Domain 0.
    :param further_links: those to driver domains, in a machine that had them when it was saved; others plug them in.
    :param kernel_arguments: appended to those that every guest gets.
    :param incoming: the guest is not to boot, but to go on from a state that :mod:`harness.machine.migration` loads.
    :param bare: disks and cards are not there from the start, but plugged in later, by :meth:`QemuProcess.plug_in`.
    :param room: MiB of addresses behind the memory that the guest uses for nothing but disks mapped there.
    """

    name: str
    accelerator: Literal["tcg", "kvm"]
    memory: int
    vcpus: int
    kernel: Path
    initramfs: Path
    console_fd: int
    agent_fd: int
    disks: tuple[MachineDisk, ...] = ()
    networks: tuple[MachineNetwork, ...] = ()
    link: MachineLink | None = None
    further_links: tuple[MachineLink, ...] = ()
    kernel_arguments: tuple[str, ...] = field(default=())
    incoming: bool = False
    bare: bool = False
    room: int = 0

    def descriptors(self) -> list[int]:
        """The descriptors QEMU has to inherit."""
        return [
            self.console_fd,
            self.agent_fd,
            *(descriptor for disk in self.disks for descriptor in disk.lease_fds),
            *(network.tap_fd for network in self.networks),
            *([] if self.link is None else [self.link.fd]),
            *(link.fd for link in self.further_links),
        ]


def escape(text: str | Path) -> str:
    """Text as a value in one of QEMU's ``key=value,…`` options, where a comma is written twice."""
    return str(text).replace(",", ",,")


def base_arguments(accelerator: str) -> list[str]:
    """What every QEMU of ours starts with: no configuration files, no default devices, no window."""
    return [
        QEMU,
        "-no-user-config",
        "-nodefaults",
        *("-display", "none"),
        *("-machine", "pc,usb=off,vmport=off,dump-guest-core=off"),
        *("-accel", accelerator),
        *("-cpu", CPU[accelerator]),
        "-no-reboot",
        *("-sandbox", SANDBOX),
    ]


def _serial_port(name: str, fd: int) -> list[str]:
    return ["-chardev", f"socket,id={name},fd={fd}", "-serial", f"chardev:{name}"]


def sorted_disks(machine: Machine) -> list[MachineDisk]:
    """The disks in the order in which the guest is to find them: virtio ones get their letters by it."""
    return sorted(machine.disks, key=lambda disk: disk.target)


@dataclass(frozen=True)
class DeviceObjects:
    """What a device is to QEMU.

    :param kind: of what is behind it: how QEMU calls that on its command line.
    :param behind: the image or the port.
    :param device: itself.
    """

    kind: Literal["blockdev", "netdev", "object"]
    behind: dict[str, Any]
    device: dict[str, Any]


def device_objects(machine: Machine) -> list[DeviceObjects]:
    """The disks, as :func:`sorted_disks` has them, and then the cards of a machine.

    Each has its place on the PCI bus, however it comes there: what was plugged in is on the command line when a saved
    machine is restored, and has to be where the guest knows it.
    """
    found = [_disk(disk) for disk in sorted_disks(machine)]
    found += [_network(number, network) for number, network in enumerate(machine.networks)]
    slots = itertools.count(FIRST_DEVICE_SLOT)
    for one in found:
        if "bus" not in one.device:
            one.device["addr"] = f"{next(slots):#x}"
    return found


def _disk(disk: MachineDisk) -> DeviceObjects:
    return _mapped_disk(disk) if disk.model == "virtio-pmem" else _block_disk(disk)


def _mapped_disk(disk: MachineDisk) -> DeviceObjects:
    # The guest's stores reach the host's page cache; they are durable when its flush has been answered.
    memory = {
        "qom-type": "memory-backend-file",
        "id": f"disk-{disk.target}",
        "mem-path": str(disk.path),
        "size": disk.size,
        "share": True,
    }
    return DeviceObjects("object", memory, {"id": disk.target, "driver": "virtio-pmem-pci", "memdev": memory["id"]})


def _block_disk(disk: MachineDisk) -> DeviceObjects:
    node = f"disk-{disk.target}"
    image = {
        "driver": "raw",
        "node-name": node,
        "read-only": disk.readonly,
        # Writes reach the host's page cache and are durable when the guest's flush has been answered.
        "cache": {"direct": False, "no-flush": False},
        "file": {
            # Each takes only its own kind.
            "driver": "host_device" if disk.block_device else "file",
            "filename": str(disk.path),
            "locking": "off",
            "aio": "io_uring" if disk.inline else "threads",
        },
    }
    device: dict[str, str | int | bool] = {
        "id": disk.target,
        "drive": node,
        "serial": disk.target,
        "write-cache": "on",
        # QEMU's own choice is to stop the machine when the host's disk is full, which looks like a guest that hangs.
        "rerror": "report",
        "werror": "report",
    }
    if disk.model == "ide":
        position = IDE_TARGETS.index(disk.target)
        device |= {"driver": "ide-hd", "bus": f"ide.{position // 2}", "unit": position % 2}
    else:
        device |= {"driver": "virtio-blk-pci", "ioeventfd": not disk.inline}
    return DeviceObjects("blockdev", image, device)


def _network(number: int, network: MachineNetwork) -> DeviceObjects:
    port = {"type": "tap", "id": f"tap{number}", "fd": str(network.tap_fd), "vhost": False}
    device = {
        "driver": NIC_DEVICES[network.model],
        "id": f"net{number}",
        "netdev": f"tap{number}",
        "mac": network.mac,
        # Empty, it leaves out the card's network boot ROM, which only costs time.
        "romfile": "",
    }
    return DeviceObjects("netdev", port, device)


def _memory(machine: Machine) -> str:
    size = f"size={machine.memory}M"
    return f"{size},maxmem={machine.memory + machine.room}M" if machine.room else size


def _link(link: MachineLink) -> list[str]:
    # By its place the guest knows it.
    place = f"master=on,addr={link.slot:#x}"
    device = f"ivshmem-doorbell,id={link.name},chardev={link.name},vectors={link.vectors},{place}"
    return ["-chardev", f"socket,id={link.name},fd={link.fd}", "-device", device]


def command_line(machine: Machine, qmp_fd: int) -> list[str]:
    """QEMU's argument vector, program first. The machine starts paused (``-S``).

    :param qmp_fd: the socket on which QEMU speaks QMP.
    """
    arguments = [
        *base_arguments(machine.accelerator),
        *("-name", f"guest={escape(machine.name)}"),
        *("-m", _memory(machine)),
        *("-smp", str(machine.vcpus)),
        "-S",
        *(("-incoming", "defer") if machine.incoming else ()),
        *("-chardev", f"socket,id=qmp,fd={qmp_fd}", "-mon", "chardev=qmp,mode=control"),
        *_serial_port("console", machine.console_fd),
        *_serial_port("agent", machine.agent_fd),
        *("-device", f"pvpanic-pci,addr={PANIC_SLOT:#x}"),
        # Tells a guest that goes on from a saved state so, before it can give the same random numbers once more.
        *("-device", "vmgenid,guid=auto"),
        *("-kernel", str(machine.kernel)),
        *("-initrd", str(machine.initramfs)),
        *("-append", " ".join([*KERNEL_ARGUMENTS, *machine.kernel_arguments])),
    ]
    if machine.link is not None:
        arguments += _link(machine.link)
    if machine.bare:
        return arguments
    arguments += _devices(machine)
    for link in machine.further_links:
        arguments += _link(link)
    return arguments


def _devices(machine: Machine) -> list[str]:
    arguments = []
    for one in device_objects(machine):
        arguments += [f"-{one.kind}", json.dumps(one.behind), "-device", json.dumps(one.device)]
    return arguments
