"""The store as a whole: the tree, who is connected, which domains exist, and who is told of what."""

from __future__ import annotations

import traceback
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from harness.store import operations
from harness.store.connection import Connection, Limits
from harness.store.errors import StoreError
from harness.store.paths import home
from harness.store.permissions import Access, Requester, access_of
from harness.store.quotas import Quota
from harness.store.tree import Change, NodeSpace, Tree
from harness.store.watches import WatchTable
from harness.store.wire import PAYLOAD_MAX, Message, Op, strings

DOMAIN_0 = Requester(0, privileged=True)
SOCKET_LIMITS = Limits(replies=256, event_bytes=4 << 20)


class DomainRing(Protocol):
    """What carries the bytes of a domain."""

    def close(self) -> None:
        """Take nothing more from the domain and give it nothing more."""


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

    def __init__(self, connect_domain: ConnectDomain, quota: Quota | None = None) -> None:
        self.quota = quota or Quota()
        self.tree = Tree(self.quota)
        self.watches: WatchTable[Connection] = WatchTable()
        self.domains: dict[int, Domain] = {}
        self._connect_domain = connect_domain
        for path, value in (
            ("/tool/xenstored", b""),
            (f"{home(0)}/domid", b"0"),
            (f"{home(0)}/name", b"Domain-0"),
        ):
            self.tree.write(DOMAIN_0, path, value)
        self.tree.take_changes()

    def connect_tool(self) -> Connection:
        """A new connection of a privileged process of Domain 0."""
        return Connection(DOMAIN_0, SOCKET_LIMITS)

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
        request = operations.Request(self, connection, message, fds)
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
        self.publish(self.tree.take_changes())
        connection.output.reply(Message(kind, message.request_id, message.transaction_id, payload))
        for path, token in request.first_events:
            connection.output.event(path, token)

    def publish(self, changes: list[Change]) -> None:
        """Tell those who watch and may know."""
        for change in changes:
            for watch, path in self.watches.concerned(change):
                who = watch.watcher.who
                if any(Access.READ in access_of(who, readers) for readers in change.readers):
                    watch.watcher.output.event(path, watch.token)

    def introduce(self, owner: Connection, domid: int, frame: int, port: int, fds: list[int]) -> None:
        """Connect a domain through its ring page.

        :raise StoreError: EEXIST, it is introduced already; EINVAL, the descriptors or numbers make no sense.
        """
        if domid == 0 or domid in self.domains:
            raise StoreError("EEXIST")
        connection = Connection(Requester(domid), Limits(self.quota.outstanding, self.quota.event_bytes))
        ring = self._connect_domain(connection, frame, port, fds)
        self.domains[domid] = Domain(domid, owner, connection, ring)
        self._announce("@introduceDomain", domid)

    def release(self, domid: int) -> None:
        """Forget a domain: its connection, its nodes, the rights it was given.

        :raise StoreError: ENOENT, there is no such domain.
        """
        domain = self.domain(domid)
        del self.domains[domid]
        domain.ring.close()
        self.reset(domain.connection)
        for path in self._homes(domid):
            if self.tree.find(path) is not None:
                self.tree.remove(DOMAIN_0, path)
        self.tree.forget_domain(domid)
        self.publish(self.tree.take_changes())
        self._announce("@releaseDomain", domid)

    def domain(self, domid: int) -> Domain:
        """:raise StoreError: ENOENT, it was not introduced."""
        try:
            return self.domains[domid]
        except KeyError:
            raise StoreError("ENOENT") from None

    def space(self, connection: Connection, transaction_id: int) -> NodeSpace:
        """What an operation works on: the tree, or the view of a transaction.

        :raise StoreError: ENOENT, there is no such transaction.
        """
        return connection.transaction(transaction_id) if transaction_id else self.tree

    def _homes(self, domid: int) -> list[str]:
        """Where the toolstack keeps what it knows of a domain."""
        paths = [home(domid), f"/libxl/{domid}"]
        vm = self.tree.find(f"{home(domid)}/vm")
        if vm is not None and vm.value.startswith(b"/vm/") and vm.value.count(b"/") == 2:
            paths.append(vm.value.decode(errors="replace"))
        for backends in [f"/local/domain/{name}/backend" for name in self._children("/local/domain")]:
            paths += [f"{backends}/{kind}/{domid}" for kind in self._children(backends)]
        return paths

    def _children(self, path: str) -> tuple[str, ...]:
        node = self.tree.find(path)
        return () if node is None else node.children

    def _announce(self, event: str, domid: int) -> None:
        node = self.tree.find(event)
        if node is not None:
            self.publish([Change(f"{event}/{domid}", exact=False, readers=(node.permissions,))])
