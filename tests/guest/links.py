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


def plug(guest: Domain, name: str, link: Link, end: int) -> int:
    """Plug one end of a link into a guest, which is not told whose the other is; returns the slot."""
    deadline = Deadline(SECONDS, f"plugging in {name}")
    with link.qemu_socket(end) as server:
        return loop.run(guest.parts.qemu.attach_link(name, server, link.layout.vectors[end], deadline))


def unplug(guest: Domain, name: str) -> None:
    loop.run(guest.parts.qemu.detach_link(name, Deadline(SECONDS, f"unplugging {name}")))


@contextmanager
def plugged(guest: Domain, name: str, link: Link, end: int) -> Iterator[None]:
    """The guest is at one end of a link, and knows what the link was made for."""
    slot = plug(guest, name, link, end)
    with StoreClient.connect() as store:
        toolstack.add_link(store, guest.domid, slot, end, link.layout.domid[1 - end])
        try:
            yield
        finally:
            toolstack.remove_link(store, guest.domid, slot)
            unplug(guest, name)
