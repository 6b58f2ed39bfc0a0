"""The device of a path in its domain: there from the start, made in the guest, or plugged in for one run."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

from harness.bus.features import Notifications
from harness.compare.subjects import DevicePath, DiskPath, NetworkPath
from harness.domain.definition import Disk, Network
from harness.domain.domain import Domain
from harness.domain.leases import Lease

NULL_BLOCK = ("modprobe", "null_blk", "queue_mode=2", "irqmode=0", "gb=4")
"""The guest's disk without a device: requests go through the whole block layer and are answered at once."""

SWITCH_CARD = """
for address in /sys/class/net/*/address; do
    if [ "$(cat "$address")" = "$1" ]; then
        card=${address%/address}
        exec ip link set "${card##*/}" "$2"
    fi
done
exit 1
"""


@contextmanager
def plugged(domain: Domain, path: DevicePath, image: Lease) -> Iterator[str]:
    """The path's device, for as long as it is measured: the guest's device file, or its address.

    :param domain: the running domain that carries it.
    :param image: what all disk paths lead to.
    """
    if isinstance(path, DiskPath):
        with _disk(domain, path, image) as device:
            yield device
    else:
        with _card(domain, path) as address:
            yield address


@contextmanager
def _disk(domain: Domain, path: DiskPath, image: Lease) -> Iterator[str]:
    if path.model is None:
        domain.execute(NULL_BLOCK).check()
        yield f"/dev/{path.target}"
    elif path.notification is None:
        yield domain.device(path.target)
    else:
        both = Notifications(path.notification, path.notification)
        disk = Disk(path.target, path.model, image.path, image.path.stat().st_size, notifications=both)
        domain.attach_disk(disk, shared_lease=image)
        try:
            yield domain.device(path.target)
        finally:
            domain.detach_disk(path.target)


@contextmanager
def _card(domain: Domain, path: NetworkPath) -> Iterator[str]:
    if path.notification is None:
        yield domain.addresses[0]
        return
    lasting = [card.lease.mac for card in domain.parts.cards]
    both = Notifications(path.notification, path.notification)
    card = domain.attach_network(Network(path.model, notifications=both))
    try:
        # All cards are on the same network: whichever comes first would carry everything.
        _switch(domain, lasting, "down")
        yield card.lease.address
    finally:
        domain.detach_network(card.lease.mac)
        _switch(domain, lasting, "up")


def _switch(domain: Domain, macs: list[str], state: Literal["up", "down"]) -> None:
    for mac in macs:
        domain.execute(["sh", "-c", SWITCH_CARD, "sh", mac, state]).check()
