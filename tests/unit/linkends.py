"""A link and its ends, all held by the test's own process."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from harness.hypervisor.layout import (
    BACKEND_PORTS,
    BACKEND_VECTOR,
    FRAME_SIZE,
    GUEST_PORTS,
    STORE_PORTS,
    STORE_VECTOR,
)
from harness.hypervisor.link import GuestEnd, Link, LinkEnd

DOMID = 7
FRAMES = 128


@dataclass(frozen=True)
class Ends:
    """Everybody who has a share in one link."""

    link: Link
    guest: GuestEnd
    store: LinkEnd
    backend: LinkEnd


def duplicated(descriptors: list[int]) -> list[int]:
    return [os.dup(descriptor) for descriptor in descriptors]


def status_of(ends: Ends, ref: int) -> int:
    """What the grantee says of its use of a grant."""
    return ends.guest.memory[ends.guest.layout.status_frame * FRAME_SIZE + ref]


@contextmanager
def ends_of_a_link(domid: int = DOMID) -> Iterator[Ends]:
    """A small link; Domain 0's processes and a guest hold its ends."""
    with (
        Link.create(domid, size=FRAMES * FRAME_SIZE) as link,
        GuestEnd.from_fds(duplicated(link.guest_fds()), vector=0, ports=GUEST_PORTS) as guest,
        LinkEnd.from_fds(duplicated(link.store_fds()), vector=STORE_VECTOR, ports=STORE_PORTS) as store,
        LinkEnd.from_fds(duplicated(link.backend_fds()), vector=BACKEND_VECTOR, ports=BACKEND_PORTS) as backend,
    ):
        yield Ends(link, guest, store, backend)
