"""The shared service "network": guests' TAP ports on a bridge in a namespace of their own.

Run by :mod:`harness.host.service`. Clients send one JSON
object per line and get one back, ``{"ok": true, ...}`` with descriptors attached or ``{"error": ..., "hint": ...}``;
see :class:`harness.backend.network_client.NetworkClient`. What was made for a connection goes when it closes.
"""

from __future__ import annotations

import json
import os
import re
import selectors
import socket
from collections.abc import Callable
from typing import Any, Protocol, TypeVar

from harness.backend.namespace import HOST_ADDRESS, MAX_MTU, MAX_QUEUES, MIN_MTU, MTU, PREFIX, Namespace
from harness.backend.net_addresses import Addresses
from harness.host.errors import HarnessError, UsageError
from harness.host.service import leave

MAX_REQUEST = 4096
LEAVING_SECONDS = 0.2
"""How often to try to leave, when somebody who holds the lock of the service may or may not connect."""
DEVICE_NAME = re.compile(r"[a-z][a-z0-9._-]{0,14}")
MAC = re.compile(r"[0-9a-f]{2}(:[0-9a-f]{2}){5}")

SOCKETS = {
    "stream": (socket.SOCK_STREAM, 0),
    "dgram": (socket.SOCK_DGRAM, 0),
    "icmp": (socket.SOCK_RAW, socket.IPPROTO_ICMP),
}

Value = TypeVar("Value")
Request = dict[str, Any]
Answer = tuple[Request, list[int]]
"""Fields of the reply, and descriptors to attach, closed once they are sent."""


def _field(request: Request, key: str, kind: type[Value]) -> Value:
    value = request.get(key)
    if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
        raise UsageError(f"the network service wants {key} to be a {kind.__name__}, not {value!r}")
    return value


def _optional(request: Request, key: str) -> str | None:
    return _field(request, key, str) if request.get(key) is not None else None


class Session(Protocol):
    """What a connection's requests are performed by."""

    def perform(self, request: Request) -> Answer:
        """:raise HarnessError: it cannot be done, or makes no sense."""

    def close(self) -> None:
        """The client has gone."""


class Refusal:
    """The session of a service that could not set up its network: every request fails with the reason."""

    def __init__(self, reason: HarnessError) -> None:
        self._reason = reason

    def perform(self, request: Request) -> Answer:
        raise self._reason

    def close(self) -> None:
        pass


class Guest:
    """The session of a client: what was made for it, and goes with it."""

    def __init__(self, namespace: Namespace, addresses: Addresses) -> None:
        self._namespace = namespace
        self._addresses = addresses
        self._taps: set[str] = set()
        self._routes: dict[str, str] = {}
        self._leases: set[str] = set()
        self._operations: dict[str, Callable[[Request], Answer]] = {
            "describe": self._describe,
            "lease": self._lease,
            "release": self._release,
            "tap": self._tap,
            "remove-tap": self._remove_tap,
            "socket": self._socket,
            "namespace": self._give_namespace,
        }

    def perform(self, request: Request) -> Answer:
        name = request.get("op")
        operation = self._operations.get(name) if isinstance(name, str) else None
        if operation is None:
            raise UsageError(f"the network service knows no operation {name!r}")
        return operation(request)

    def close(self) -> None:
        """Undo everything that was made for this client."""
        self._remove(self._taps)
        for address in self._leases:
            self._addresses.give_back(address)
        self._namespace.forget_neighbours(self._leases)

    def _describe(self, _request: Request) -> Answer:
        return {"address": HOST_ADDRESS, "prefix": PREFIX}, []

    def _lease(self, request: Request) -> Answer:
        mac = _optional(request, "mac")
        if mac is not None and (not MAC.fullmatch(mac) or int(mac[:2], 16) & 1):
            raise UsageError(f"{mac!r} is not the MAC address of a single card, such as 00:16:3e:00:00:01")
        address, mac = self._addresses.take(mac, _optional(request, "address"))
        self._leases.add(address)
        return {"address": address, "mac": mac}, []

    def _release(self, request: Request) -> Answer:
        address = _field(request, "address", str)
        if address not in self._leases:
            raise UsageError(f"{address!r} was not leased on this connection")
        self._leases.remove(address)
        self._addresses.give_back(address)
        self._namespace.forget_neighbours({address})
        return {}, []

    def _tap(self, request: Request) -> Answer:
        name, mtu, queues = _field(request, "name", str), _field(request, "mtu", int), _field(request, "queues", int)
        vnet_hdr = _field(request, "vnet_hdr", bool)
        mac = _optional(request, "mac")
        if not DEVICE_NAME.fullmatch(name):
            raise UsageError(f"{name!r} is no name for a TAP device: up to 15 of a-z 0-9 . _ -, a letter first")
        if not MIN_MTU <= mtu <= MAX_MTU:
            raise UsageError(f"{mtu} is no MTU: expected {MIN_MTU} to {MAX_MTU}")
        if not 1 <= queues <= MAX_QUEUES:
            raise UsageError(f"{queues} is no number of queues: expected 1 to {MAX_QUEUES}")
        descriptors = self._namespace.add_tap(name, vnet_hdr=vnet_hdr, mtu=mtu, queues=queues)
        self._taps.add(name)
        address = self._addresses.of(mac) if mac is not None and mtu != MTU else None
        if address is not None:
            self._routes[name] = address
            self._namespace.route(address, mtu)
        return {}, descriptors

    def _remove_tap(self, request: Request) -> Answer:
        name = _field(request, "name", str)
        if name not in self._taps:
            raise UsageError(f"{name!r} was not made on this connection")
        self._taps.remove(name)
        self._remove({name})
        return {}, []

    def _remove(self, taps: set[str]) -> None:
        self._namespace.remove_taps(taps)
        for name in taps & self._routes.keys():
            self._namespace.forget_route(self._routes.pop(name))

    def _socket(self, request: Request) -> Answer:
        kind = _field(request, "kind", str)
        if kind not in SOCKETS:
            raise UsageError(f"{kind!r} is no kind of socket: expected one of {', '.join(SOCKETS)}")
        return {}, [socket.socket(socket.AF_INET, *SOCKETS[kind]).detach()]

    def _give_namespace(self, _request: Request) -> Answer:
        return {}, self._namespace.descriptors()


class Connection:
    """One client's socket: lines in, lines and descriptors out."""

    def __init__(self, peer: socket.socket, session: Session) -> None:
        self.peer = peer
        self._session = session
        self._received = b""

    def receive(self) -> bool:
        """Read and answer what has come; False when the client is gone or does not keep to the protocol."""
        try:
            data = self.peer.recv(MAX_REQUEST)
        except ConnectionError:
            return False
        *lines, self._received = (self._received + data).split(b"\n")
        if not data or len(self._received) > MAX_REQUEST:
            return False
        return all(self._answer(line) for line in lines)

    def close(self) -> None:
        self.peer.close()
        self._session.close()

    def _answer(self, line: bytes) -> bool:
        descriptors: list[int] = []
        try:
            fields, descriptors = self._session.perform(_parse(line))
            reply = {"ok": True, **fields}
        except HarnessError as error:
            reply = {"error": error.what, "hint": error.hint}
        except OSError as error:
            reply = {"error": f"the network service is out of something: {error.strerror}", "hint": None}
        try:
            data = json.dumps(reply).encode() + b"\n"
            # A reply is far smaller than the socket's buffer: one that does not fit means that nobody reads.
            return socket.send_fds(self.peer, [data], descriptors, socket.MSG_DONTWAIT) == len(data)
        except OSError:
            return False
        finally:
            for descriptor in descriptors:
                os.close(descriptor)


def _parse(line: bytes) -> Request:
    try:
        request = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise UsageError(f"the network service got a line that is not JSON: {error}") from None
    if not isinstance(request, dict):
        raise UsageError("the network service wants a JSON object on each line")
    return request


class Service:
    """Accepts clients until the last one has left."""

    def __init__(
        self, listener: socket.socket, first: socket.socket, name: str, new_session: Callable[[], Session]
    ) -> None:
        self._listener = listener
        self._name = name
        self._new_session = new_session
        self._selector = selectors.DefaultSelector()
        self._clients = 0
        self._add(first)

    def run(self) -> None:
        """Serve; return when nobody is connected any more."""
        self._listener.setblocking(False)
        self._selector.register(self._listener, selectors.EVENT_READ)
        while self._clients or not self._left():
            # While somebody holds the lock it is not known whether they will connect.
            for key, _ in self._selector.select(None if self._clients else LEAVING_SECONDS):
                if key.data is None:
                    self._accept()
                elif not key.data.receive():
                    self._drop(key.data)

    def _accept(self) -> None:
        try:
            peer, _ = self._listener.accept()
        except (BlockingIOError, ConnectionError):
            return
        self._add(peer)

    def _add(self, peer: socket.socket) -> None:
        self._selector.register(peer, selectors.EVENT_READ, Connection(peer, self._new_session()))
        self._clients += 1

    def _drop(self, client: Connection) -> None:
        self._selector.unregister(client.peer)
        client.close()
        self._clients -= 1

    def _left(self) -> bool:
        try:
            late = leave(self._name, self._listener)
        except BlockingIOError:
            return False
        if late is not None:
            self._add(late)
        return late is None


def serve(listener: socket.socket, first: socket.socket, name: str) -> None:
    """Run the service on a listening socket until its last client has gone."""
    addresses = Addresses()
    try:
        namespace = Namespace.enter()
    except HarnessError as reason:
        refused = reason
        Service(listener, first, name, lambda: Refusal(refused)).run()
    else:
        Service(listener, first, name, lambda: Guest(namespace, addresses)).run()
