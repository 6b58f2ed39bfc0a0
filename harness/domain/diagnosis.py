"""What this machine can do for domains, found out by trying wherever that is possible."""

from __future__ import annotations

import os
import platform
import shutil
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass

from harness.backend.network_client import NetworkClient
from harness.host.deadline import Deadline
from harness.host.directories import cache, runtime
from harness.host.errors import HarnessError
from harness.host.process import run
from harness.image import build as images
from harness.machine import accelerator, memory
from harness.machine.command_line import QEMU
from harness.machine.inline_io import inline_verdict

PYTHON = (3, 11)
DEVICES = ("ivshmem-doorbell", "piix3-ide", "ide-hd", "ne2k_pci", "virtio-blk-pci", "virtio-net-pci", "pvpanic-pci")
"""QEMU's names of what the harness gives to guests."""
PROGRAMS = {"setpriv": "util-linux", "nsenter": "util-linux", "ip": "iproute2", "sh": "dash", "rm": "coreutils"}
"""What a running domain needs besides QEMU, and Debian's package of each."""
BUILD_PACKAGES = {
    "gcc": "gcc",
    "make": "make",
    "strip": "binutils",
    "readelf": "binutils",
    "depmod": "kmod",
    "modinfo": "kmod",
    "dpkg-deb": "dpkg",
    "apt-get": "apt",
    "apt-cache": "apt",
}
GUEST_MEMORY = 256
"""MiB that the ready-made guests have."""
CACHE_SPACE = 2048
"""MiB that packages, images and logs come to."""
MIB = 1 << 20
ANSWER_SECONDS = 20.0


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at.

    :param required: nothing works without it.
    :param mend: the exact command that mends it, if there is one and it is needed.
    """

    name: str
    ok: bool
    text: str
    mend: str | None = None
    required: bool = True


def examine() -> list[Finding]:
    """Look at everything; a check that fails is a finding, too."""
    return [_checked(name, check) for name, check in CHECKS.items()]


def _checked(name: str, check: Callable[[], Finding]) -> Finding:
    try:
        return check()
    except HarnessError as error:
        return Finding(name, False, error.what, error.hint)
    except OSError as error:
        return Finding(name, False, str(error))


def _install(packages: set[str]) -> str:
    sudo = "" if os.geteuid() == 0 else "sudo "
    return f"{sudo}apt-get install -y {' '.join(sorted(packages))}"


def python() -> Finding:
    wanted = ".".join(map(str, PYTHON))
    return Finding(
        "python",
        sys.version_info >= PYTHON,
        f"{platform.python_version()}, {wanted} or newer is needed",
        mend=_install({f"python{wanted}", f"python{wanted}-venv"}) if sys.version_info < PYTHON else None,
    )


def qemu() -> Finding:
    if shutil.which(QEMU) is None:
        return Finding("qemu", False, f"{QEMU} is not installed", _install({"qemu-system-x86"}))
    deadline = Deadline(ANSWER_SECONDS, f"an answer of {QEMU}")
    version = run(QEMU, [QEMU, "--version"], deadline).splitlines()[0].removeprefix("QEMU emulator version ")
    listing = run(QEMU, [QEMU, "-device", "help"], deadline)
    missing = [device for device in DEVICES if f'name "{device}"' not in listing]
    if missing:
        return Finding("qemu", False, f"{version} lacks {', '.join(missing)}", _install({"qemu-system-x86"}))
    return Finding("qemu", True, f"{version}, with ivshmem-doorbell and all other devices")


def kvm() -> Finding:
    verdict = accelerator.kvm_verdict()
    if verdict.works:
        return Finding("kvm", True, verdict.reason, required=False)
    text = f"{verdict.reason}; guests are emulated (TCG), which works and is slower"
    device = accelerator.KVM_DEVICE
    denied = device.exists() and not os.access(device, os.R_OK | os.W_OK)
    return Finding("kvm", False, text, mend='sudo usermod -aG kvm "$USER"' if denied else None, required=False)


def io_uring() -> Finding:
    verdict = inline_verdict()
    without = "driver domains reach their disks through threads, which works and is slower"
    reason = "QEMU's disks may use it" if verdict.works else f"{verdict.reason}; {without}"
    return Finding("io_uring", verdict.works, reason, required=False)


def programs() -> Finding:
    return _found("programs", PROGRAMS, required=True)


def build_tools() -> Finding:
    return _found("build tools", {tool: BUILD_PACKAGES.get(tool, tool) for tool in images.TOOLS}, required=not _built())


def _found(name: str, packages: dict[str, str], *, required: bool) -> Finding:
    missing = [program for program in packages if shutil.which(program) is None]
    if missing:
        mend = _install({packages[program] for program in missing})
        return Finding(name, False, f"not installed: {', '.join(missing)}", mend, required)
    return Finding(name, True, ", ".join(packages), required=required)


def network() -> Finding:
    """Makes the private network and a TAP port in it, if no domain has made it yet."""
    with NetworkClient.connect() as client:
        os.close(client.tap("doctor", vnet_hdr=True))
        return Finding("network", True, f"a private namespace, a bridge at {client.host_address}, and TAP ports on it")


def enough_memory() -> Finding:
    left, need = memory.available() // MIB, GUEST_MEMORY + memory.QEMU_MEMORY
    return Finding("memory", left >= need, f"{left} MiB available; a ready-made guest needs {need} MiB")


def cache_directory() -> Finding:
    directory = cache()
    with tempfile.TemporaryFile(dir=directory):
        left = shutil.disk_usage(directory).free // MIB
    enough = left >= CACHE_SPACE or _built()
    return Finding(
        "cache",
        enough,
        f"{directory}, {left} MiB free" + ("" if enough else f" of the {CACHE_SPACE} MiB that images need"),
        mend=None if enough else "export HARNESS_CACHE=DIRECTORY, one with room",
    )


def runtime_directory() -> Finding:
    directory = runtime()
    with tempfile.TemporaryFile(dir=directory):
        return Finding("runtime", True, f"{directory}")


def image() -> Finding:
    if not _built():
        return Finding(
            "image", False, "not built yet; the first boot does that, too", "harness images build", required=False
        )
    newest = images.list_images()[0]
    return Finding("image", True, f"{newest.name} {newest.digest}, Linux {newest.kernel_version}", required=False)


def _built() -> bool:
    return bool(images.list_images())


CHECKS: dict[str, Callable[[], Finding]] = {
    "python": python,
    "qemu": qemu,
    "kvm": kvm,
    "io_uring": io_uring,
    "programs": programs,
    "network": network,
    "memory": enough_memory,
    "cache": cache_directory,
    "runtime": runtime_directory,
    "build tools": build_tools,
    "image": image,
}
