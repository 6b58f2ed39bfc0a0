"""The store as a whole: the tree, who is connected, which domains exist, and who is told of what."""

from __future__ import annotations

import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Protocol

from harness.store import operations
from harness.store.connection import Connection, Outstanding
from harness.store.credit import ConflictCredit
from harness.store.errors import StoreError
from harness.store.paths import home
from harness.store.permissions import Access, Requester, access_of
from harness.store.quotas import Accounts, Quota
from harness.store.request import Request
from harness.store.ring import FEATURES
from harness.store.space import Change
from harness.store.tree import Tree
from harness.store.watches import WatchTable
from harness.store.wire import PAYLOAD_MAX, Message, Op, strings

DOMAIN_0 = Requester(0, privileged=True)

_AT_THE_START = {
    "/tool/xenstored": b"",
    "/local/domain/0/control/feature-poweroff": b"1",
    "/local/domain/0/control/feature-reboot": b"1",
    "/local/domain/0/control/feature-suspend": b"1",
    "/local/domain/0/domid": b"0",
    "/local/domain/0/name": b"Domain-0",
    "/local/pool/0/name": b"Pool-0",
}
"""Nodes that Xen's own tools make for Domain 0 when its system starts."""


class DomainRing(Protocol):
    """What carries the bytes of a domain."""

    def close(self) -> None:
        """Take nothing more from the domain and give it nothing more."""

    def reset(self) -> None:
        """Begin anew with an empty ring."""


ConnectDomain = Callable[[Connection, int, int, list[int]], DomainRing]
"""Called with the domain's connection, the frame of its ring page, its event channel and the descriptors that came with
INTRODUCE, which it takes out of the list unless it fails.

:raise StoreError: they are not what they should be.
"""


@dataclass(frozen=True, slots=True)
class Domain:
    """A domain that was introduced.

    :param owner: the connection that introduced it and whose end is its end.
    """

    domid: int
    owner: Connection
    connection: Connection
    ring: DomainRing


class Store:
    """Everything but the carrying of bytes."""

    def __init__(
        self,
        connect_domain: ConnectDomain,
        quota: Quota | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.accounts = Accounts(quota)
        self.tree = Tree(self.accounts)
        self.watches: WatchTable[Connection] = WatchTable(self._charge)
        self.domains: dict[int, Domain] = {}
        self._connect_domain = connect_domain
        self._clock = clock
        self._credit = ConflictCredit(clock)
        self._features: dict[int, int] = {}
        for path, value in _AT_THE_START.items():
            self.tree.write(DOMAIN_0, path, value)
        self.tree.take_changes()

    def connect_tool(self) -> Connection:
        """A new connection of a privileged process of Domain 0."""
        return self._connect(DOMAIN_0, FEATURES)

    def _connect(self, who: Requester, features: int) -> Connection:
        return Connection(who, self.accounts, self._credit, features, self._clock)

    def _charge(self, connection: Connection, size: int) -> None:
        self.accounts.memory[connection.who.domid] += size

    def disconnect(self, connection: Connection) -> None:
        """Forget a connection, and release the domains it has introduced."""
        self.reset(connection)
        for domain in [domain for domain in self.domains.values() if domain.owner is connection]:
            self.release(domain.domid)

    def reset(self, connection: Connection) -> None:
        """Drop everything a connection has open, as if it were new."""
        self.watches.forget(connection)
        connection.reset()

    def handle(self, connection: Connection, message: Message, fds: list[int]) -> None:
        """Do what a request asks for and queue the answer.

        :param fds: descriptors that came along; the request takes out of the list what it makes use of.
        """
        request = Request(self, connection, message, fds)
        try:
            kind, payload = message.type, operations.perform(request)
            if len(payload) > PAYLOAD_MAX:
                raise StoreError("E2BIG")
        except StoreError as error:
            kind, payload = Op.ERROR, strings(error.name)
        except Exception:
            # A mistake of ours that one client can provoke must not end the store of all the others.
            traceback.print_exc()
            kind, payload = Op.ERROR, strings("EIO")
        outstanding = connection.begin()
        changes = request.changes + self.tree.take_changes()
        self.publish(changes, None if connection.who.privileged else outstanding)
        if changes and self.tree.open_transactions and not connection.who.privileged:
            self._credit.spend(connection.who.domid)
        connection.output.reply(Message(kind, message.request_id, message.transaction_id, payload), outstanding)
        for path, token in request.first_events:
            connection.output.event(path, token)

    def publish(self, changes: list[Change], cause: Outstanding | None = None) -> None:
        """Tell those who watch and may know.

        :param cause: the request of a domain that has made the changes.
        """
        for change in changes:
            for watch, path in self.watches.concerned(change):
                who = watch.watcher.who
                if any(Access.READ in access_of(who, readers) for readers in change.readers):
                    watch.watcher.output.event(path, watch.token, cause)

    def features_of(self, domid: int) -> int:
        """What is offered to a domain, or will be."""
        return FEATURES if domid == 0 else self._features.get(domid, FEATURES)

    def offer_features(self, domid: int, features: int) -> None:
        """Choose what is offered to a domain that is yet to come.

        :raise StoreError: EBUSY, it has come; EINVAL, this server has no such feature.
        """
        if domid == 0 or domid in self.domains:
            raise StoreError("EBUSY")
        if features & ~FEATURES:
            raise StoreError("EINVAL")
        self._features[domid] = features

    def introduce(self, owner: Connection, domid: int, frame: int, port: int, fds: list[int]) -> None:
        """Connect a domain through its ring page, or have one that is connected begin anew.

        :raise StoreError: EEXIST, somebody else has introduced it; EINVAL, the descriptors or numbers make no sense.
        """
        known = self.domains.get(domid)
        if known is not None and known.owner is owner and not fds:
            self.reset(known.connection)
            known.ring.reset()
            return
        if domid == 0 or known is not None:
            raise StoreError("EEXIST")
        connection = self._connect(Requester(domid), self.features_of(domid))
        ring = self._connect_domain(connection, frame, port, fds)
        self.domains[domid] = Domain(domid, owner, connection, ring)
        self.accounts.open(domid)
        self._credit.join(domid)
        self.tree.admit_domain(domid)
        self._announce("@introduceDomain", domid)

    def release(self, domid: int) -> None:
        """Forget a domain: its connection, its nodes, the rights it was given.

        :raise StoreError: ENOENT, there is no such domain.
        """
        domain = self.domain(domid)
        del self.domains[domid]
        domain.ring.close()
        self.reset(domain.connection)
        for other in self.domains.values():
            if other.connection.who.target == domid:
                other.connection.who = replace(other.connection.who, target=None)
        for path in self._homes(domid):
            if self.tree.find(path) is not None:
                self.tree.remove(DOMAIN_0, path)
        self.tree.forget_domain(domid)
        self.publish(self.tree.take_changes())
        self._credit.leave(domid)
        self.accounts.close(domid)
        self._features.pop(domid, None)
        self._announce("@releaseDomain", domid)

    def domain(self, domid: int) -> Domain:
        """:raise StoreError: ENOENT, it was not introduced."""
        try:
            return self.domains[domid]
        except KeyError:
            raise StoreError("ENOENT") from None

    def _homes(self, domid: int) -> list[str]:
        """Where the toolstack keeps what it knows of a domain."""
        paths = [home(domid), f"/libxl/{domid}"]
        vm = self.tree.find(f"{home(domid)}/vm")
        if vm is not None and vm.value.startswith(b"/vm/") and vm.value.count(b"/") == 2:
            paths.append(vm.value.decode(errors="replace"))
        for name in self._children("/local/domain"):
            for backends in (f"/local/domain/{name}/backend", f"/local/domain/{name}/error/backend"):
                paths += [f"{backends}/{kind}/{domid}" for kind in self._children(backends)]
        return paths

    def _children(self, path: str) -> tuple[str, ...]:
        node = self.tree.find(path)
        return () if node is None else node.children

    def _announce(self, event: str, domid: int) -> None:
        node = self.tree.find(event)
        if node is not None:
            self.publish([Change(f"{event}/{domid}", exact=False, readers=(node.permissions,))])
