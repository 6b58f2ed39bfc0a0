"""One request, with everything it can act on, and how its payload is taken apart."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from harness.store.errors import StoreError
from harness.store.paths import length_in_domain, resolve
from harness.store.permissions import FIRST_RESERVED_DOMID, Requester
from harness.store.quotas import exceeds
from harness.store.space import Change, NodeSpace
from harness.store.wire import Message, split

if TYPE_CHECKING:
    from harness.store.connection import Connection
    from harness.store.core import Store

OK = b"OK\0"


@dataclass(frozen=True, slots=True)
class Request:
    """One request and everything it can act on.

    :param fds: descriptors that came with the request; what it makes use of, it takes out.
    :param first_events: watch events (path, token) to send right after the answer.
    :param changes: of which watches have to be told.
    """

    store: Store
    connection: Connection
    message: Message
    fds: list[int]
    first_events: list[tuple[str, bytes]] = field(default_factory=list)
    changes: list[Change] = field(default_factory=list)

    @property
    def who(self) -> Requester:
        return self.connection.who

    @property
    def space(self) -> NodeSpace:
        """What it works on: the tree, or the view of a transaction.

        :raise StoreError: ENOENT, there is no such transaction.
        """
        number = self.message.transaction_id
        return self.connection.transaction(number) if number else self.store.tree

    def path(self, raw: bytes, *, special: bool = False) -> str:
        """:raise StoreError: EINVAL, it is no path, or a longer one than this client may use."""
        path = resolve(raw, self.who.domid, special=special)
        if exceeds(self.store.accounts.of(self.who).path_max, length_in_domain(path)):
            raise StoreError("EINVAL")
        return path

    def strings(self, count: int) -> list[bytes]:
        """:raise StoreError: EINVAL, the payload is not so many strings."""
        parts = split(self.message.payload)
        if len(parts) != count:
            raise StoreError("EINVAL")
        return parts

    def numbers(self, count: int) -> list[int]:
        """:raise StoreError: EINVAL, the payload is not so many decimal numbers below 2^32."""
        return [number(part) for part in self.strings(count)]


def number(text: bytes) -> int:
    """:raise StoreError: EINVAL, it is no decimal number below 2^32."""
    if not (text.isdigit() and len(text) <= 10 and int(text) <= 0xFFFFFFFF):
        raise StoreError("EINVAL")
    return int(text)


def domain_number(number: int) -> int:
    """:raise StoreError: EINVAL, no domain can have this domid."""
    if number >= FIRST_RESERVED_DOMID:
        raise StoreError("EINVAL")
    return number
