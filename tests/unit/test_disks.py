"""Which device file an IDE or virtio disk has in the guest."""

from __future__ import annotations

import pytest

from harness.domain.disks import ide_device, virtio_device
from harness.host.errors import GuestError

PORT = "/sys/devices/pci0000:00/0000:00:01.1"
# The guest found the disk of the second port first.
LISTING = f"""{PORT}/ata2/host1/target1:0:0/1:0:0:0/block/sda
{PORT}/ata1/host0/target0:0:0/0:0:0:0/block/sdb
{PORT}/ata1/host0/target0:0:1/0:0:1:0/block/sdc
"""


@pytest.mark.parametrize(("target", "device"), [("hda", "/dev/sdb"), ("hdb", "/dev/sdc"), ("hdc", "/dev/sda")])
def test_the_place_on_the_bus_tells_the_disk(target: str, device: str) -> None:
    assert ide_device(target, LISTING) == device


@pytest.mark.parametrize("listing", [LISTING, "", "/sys/block/sd*"])
def test_a_disk_that_the_guest_does_not_have_is_said_so(listing: str) -> None:
    with pytest.raises(GuestError, match="no disk hdd: nothing at unit 1 of ata2"):
        ide_device("hdd", listing)


VIRTIO_LISTING = "vda vdb\nvdb vdaa\nvdc vda\n"


@pytest.mark.parametrize(("target", "device"), [("vda", "/dev/vdc"), ("vdb", "/dev/vda")])
def test_the_serial_number_tells_the_virtio_disk(target: str, device: str) -> None:
    assert virtio_device(target, VIRTIO_LISTING) == device


@pytest.mark.parametrize("listing", [VIRTIO_LISTING, "", "vd* \n"])
def test_a_virtio_disk_that_the_guest_does_not_have_is_said_so(listing: str) -> None:
    with pytest.raises(GuestError, match="no disk vdc: no virtio disk with that serial number"):
        virtio_device("vdc", listing)
