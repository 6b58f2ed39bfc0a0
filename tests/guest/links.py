"""A link between a real guest and a test, plugged in as the harness does it between two domains."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from harness.bus import toolstack
from harness.domain.domain import Domain
from harness.host.deadline import Deadline
from harness.hypervisor.link import Link
from harness.machine import loop
from harness.store.client import StoreClient

SECONDS = 30.0


def plug(guest: Domain, name: str, link: Link, end: int, *, tell: bool = True) -> int:
    """Plug one end of a link into a guest; returns the slot.

    :param tell: the guest who is at the other end: whoever the link was made for.
    """
    deadline = Deadline(SECONDS, f"plugging in {name}")
    with link.qemu_socket(end) as server:
        slot = loop.run(guest.parts.qemu.attach_link(name, server, link.layout.vectors[end], deadline))
    if tell:
        with StoreClient.connect() as store:
            toolstack.add_link(store, guest.domid, slot, end, link.layout.domid[1 - end])
    return slot


def unplug(guest: Domain, name: str) -> None:
    """Take a link out of a guest again."""
    slot = loop.run(guest.parts.qemu.slot(name))
    with StoreClient.connect() as store:
        toolstack.remove_link(store, guest.domid, slot)
    loop.run(guest.parts.qemu.detach_link(name, Deadline(SECONDS, f"unplugging {name}")))


@contextmanager
def plugged(guest: Domain, name: str, link: Link, end: int, *, tell: bool = True) -> Iterator[int]:
    """A guest is at one end of a link; gives the slot."""
    slot = plug(guest, name, link, end, tell=tell)
    try:
        yield slot
    finally:
        unplug(guest, name)
