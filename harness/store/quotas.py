"""How much of the store one unprivileged domain may use, and how much it does. Domain 0 has no limits."""

from __future__ import annotations

import sys
from collections import Counter
from dataclasses import dataclass, fields, replace

from harness.store.errors import StoreError
from harness.store.permissions import Requester


@dataclass(frozen=True, slots=True)
class Quota:
    """The limits of xenstored for one domain; 0 is none.

    :param nodes: nodes the domain owns.
    :param watches: watches set.
    :param outstanding: requests whose answers, or the watch events they have caused, were not yet taken; with so many,
        no further request is looked at.
    :param memory: bytes of nodes, watches, open transactions and messages not yet taken, of all these together.
    :param soft_memory: with more bytes than these, the log says so.
    :param transactions: transactions open at once.
    :param transaction_nodes: nodes that one transaction may touch, and changes that it may make.
    :param node_permissions: entries in the permissions of one node.
    :param path_max: characters of a path, behind ``/local/domain/<domid>/`` if it starts so.
    :param node_size: bytes of one node: value, names of children, permissions.
    """

    nodes: int = 1000
    watches: int = 128
    outstanding: int = 20
    memory: int = 2560 << 10
    soft_memory: int = 2048 << 10
    transactions: int = 10
    transaction_nodes: int = 1024
    node_permissions: int = 5
    path_max: int = 2048
    node_size: int = 2048


_FIELDS = tuple(field.name for field in fields(Quota))
UNLIMITED = Quota(**dict.fromkeys(_FIELDS, 0))

WIRE_NAMES = {name.replace("_", "-"): name for name in _FIELDS if name != "soft_memory"} | {
    "soft-memory": "soft_memory",
}
"""What GET_QUOTA and xenstore-control call them."""


def exceeds(limit: int, value: int) -> bool:
    return 0 < limit < value


class Accounts:
    """The quotas of all domains, and the memory that they use.

    :param default: what a new domain may use.
    """

    def __init__(self, default: Quota | None = None) -> None:
        self.default = default or Quota()
        self.memory: Counter[int] = Counter()
        """Bytes by domid."""
        self._own: dict[int, Quota] = {}
        self._warned: set[int] = set()

    def of(self, who: Requester) -> Quota:
        """What this client may use."""
        return UNLIMITED if who.privileged else self.domain(who.domid)

    def domain(self, domid: int) -> Quota:
        return self._own.get(domid, self.default)

    def open(self, domid: int) -> None:
        """A domain is introduced: from now on the default may change without changing what it may use."""
        self._own.setdefault(domid, self.default)

    def close(self, domid: int) -> None:
        """A domain is gone; who has its domid next starts anew."""
        self._own.pop(domid, None)
        self._warned.discard(domid)

    def change(self, name: str, value: int, domid: int | None = None) -> None:
        """Set a quota, of one domain or of all that are yet to come.

        :param name: as on the wire.
        :raise StoreError: EINVAL, there is no such quota.
        """
        quota = replace(self.default if domid is None else self.domain(domid), **{_field(name): value})
        if domid is None:
            self.default = quota
        else:
            self._own[domid] = quota

    def value(self, name: str, domid: int | None = None) -> int:
        """:raise StoreError: EINVAL, there is no such quota."""
        quota = self.default if domid is None else self.domain(domid)
        value: int = getattr(quota, _field(name))
        return value

    def require_memory(self, who: Requester, more: int) -> None:
        """:raise StoreError: ENOMEM, the client may not use so many bytes more."""
        if more > 0 and exceeds(self.of(who).memory, self.memory[who.domid] + more):
            raise StoreError("ENOMEM")

    def over_memory(self, who: Requester) -> bool:
        """Whether a client uses more than it may; says so in the log when a domain comes near that."""
        quota, used = self.of(who), self.memory[who.domid]
        if not exceeds(quota.soft_memory, used):
            self._warned.discard(who.domid)
        elif who.domid not in self._warned:
            self._warned.add(who.domid)
            print(f"domain {who.domid} uses {used} bytes of the store's memory", file=sys.stderr)
        return exceeds(quota.memory, used)


def _field(name: str) -> str:
    try:
        return WIRE_NAMES[name]
    except KeyError:
        raise StoreError("EINVAL") from None
