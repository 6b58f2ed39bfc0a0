"""What each kind of guest sees: which devices there are, and which drivers hold them. Read from its sysfs."""

from __future__ import annotations

from harness.domain.domain import Domain

OURS = {"pvbus", "pvblk", "pvnet", "pvcon"}

LIST_PCI = """
for device in /sys/bus/pci/devices/*; do
    driver=$(readlink "$device/driver")
    echo "$(cat "$device/vendor") $(cat "$device/device") $(cat "$device/class") ${driver##*/}"
done
"""
IDE = ("0x8086", "0x7010")
NE2000 = ("0x10ec", "0x8029")
IVSHMEM = ("0x1af4", "0x1110")


def pci(domain: Domain) -> dict[tuple[str, str], str]:
    """(vendor, device) of each PCI device and the driver bound to it."""
    lines = domain.execute(["sh", "-c", LIST_PCI]).check().text.splitlines()
    found = {}
    for line in lines:
        vendor, device, _, *driver = line.split(" ")
        found[vendor, device] = driver[0]
    return found


def modules(domain: Domain) -> set[str]:
    return {line.split()[0] for line in domain.execute(["cat", "/proc/modules"]).check().text.splitlines()}


def read_link(domain: Domain, path: str) -> str:
    return domain.execute(["readlink", "-f", path]).check().text


def test_the_unmodified_guest_uses_stock_drivers_on_emulated_devices(hvm: Domain) -> None:
    devices = pci(hvm)
    assert devices[IDE] == "ata_piix"
    assert devices[NE2000] == "ne2k-pci"
    assert IVSHMEM not in devices
    assert not any(vendor == "0x1af4" for vendor, _ in devices)
    assert not OURS & modules(hvm)
    assert hvm.execute(["cat", "/proc/sys/kernel/tainted"]).check().text == "0"
    # The disk hangs below the IDE controller and the network card is the NE2000: by path, not by name.
    controller = next(line for line in read_link(hvm, "/sys/block/sda").split("/") if line.startswith("ata"))
    assert controller == "ata1"
    assert "ne2k" in read_link(hvm, "/sys/class/net/eth0/device/driver")


def test_the_paravirtual_guest_has_no_emulated_disk_or_card(pv: Domain) -> None:
    devices = pci(pv)
    assert devices[IVSHMEM] == "pvbus"
    assert NE2000 not in devices
    assert modules(pv) >= OURS
    disks = set(pv.execute(["ls", "/sys/block"]).check().text.split())
    assert disks == {"xvda"}
    cards = set(pv.execute(["ls", "/sys/class/net"]).check().text.split())
    assert cards == {"lo", "eth0"}
    assert read_link(pv, "/sys/class/net/eth0/device/subsystem").endswith("/bus/pvbus")


def test_both_run_the_same_kernel_and_image(hvm: Domain, pv: Domain) -> None:
    assert hvm.image == pv.image
    versions = {domain.execute(["cat", "/proc/version"]).check().text for domain in (hvm, pv)}
    assert len(versions) == 1
