"""The client of the shared service "network"."""

from __future__ import annotations

import json
import os
import socket
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from harness.backend.namespace import BRIDGE, MAX_QUEUES, MTU
from harness.host.closing import Closing
from harness.host.errors import HostError
from harness.host.service import connect

SERVICE = "network"
MODULE = "harness.backend.network"

MAX_REPLY = 65536
MAX_DESCRIPTORS = MAX_QUEUES
REPLY_SECONDS = 30.0

KINDS = {
    (socket.AF_INET, socket.SOCK_STREAM): "stream",
    (socket.AF_INET, socket.SOCK_DGRAM): "dgram",
    (socket.AF_INET, socket.SOCK_RAW): "icmp",
}


@dataclass(frozen=True)
class Lease:
    """An address and a MAC that no other guest has while the connection lasts."""

    address: str
    mac: str


class NetworkClient(Closing):
    """A connection to the private network; usable from several threads. All it was given goes when it closes.

    :ivar host_address: where guests reach the host: the bridge's address.
    :ivar prefix: length of the network's prefix.
    :ivar bridge: name of the bridge.
    """

    bridge = BRIDGE

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._connection.settimeout(REPLY_SECONDS)
        self._lock = threading.Lock()
        self._namespace: list[int] = []
        reply, _ = self._request("describe")
        self.host_address: str = reply["address"]
        self.prefix: int = reply["prefix"]

    @classmethod
    def connect(cls) -> NetworkClient:
        """Connect to the service, starting it if nobody has.

        :raise HostError: this machine does not let us have a private network; says why.
        """
        connection = connect(SERVICE, MODULE)
        try:
            return cls(connection)
        except BaseException:
            connection.close()
            raise

    @property
    def connection(self) -> int:
        """The descriptor of the connection, which hangs up when the service ends."""
        return self._connection.fileno()

    def lease(self, mac: str | None = None, address: str | None = None) -> Lease:
        """An unused guest address, or the one asked for, with the MAC asked for or an unused one.

        :raise HostError: none is left, or the MAC or the address is in use.
        """
        reply, _ = self._request("lease", mac=mac, address=address)
        return Lease(reply["address"], reply["mac"])

    def release(self, lease: Lease) -> None:
        """Give an address back before the connection closes."""
        self._request("release", address=lease.address)

    def tap(self, name: str, *, vnet_hdr: bool) -> int:
        """Make a TAP device that is up and a port of the bridge, with one queue and the network's MTU.

        :param vnet_hdr: frames are preceded by struct virtio_net_hdr, which offloads need.
        :return: its non-blocking descriptor, for the caller to close.
        :raise HostError: the name is taken, or TAP devices cannot be made.
        """
        return self.tap_queues(name, vnet_hdr=vnet_hdr, mtu=MTU, queues=1)[0]

    def tap_queues(self, name: str, *, vnet_hdr: bool, mtu: int, queues: int, mac: str | None = None) -> list[int]:
        """As ``tap``, with several queues, or another MTU.

        :param mac: of the guest behind it: the host, too, sends packets of that MTU to whom this MAC was leased.
        :return: a descriptor for each queue.
        """
        return self._request("tap", name=name, vnet_hdr=vnet_hdr, mtu=mtu, queues=queues, mac=mac)[1]

    def remove_tap(self, name: str) -> None:
        """Remove a TAP device made on this connection, whoever still holds its descriptor."""
        self._request("remove-tap", name=name)

    def socket(self, family: socket.AddressFamily, kind: socket.SocketKind) -> socket.socket:
        """A socket that lives in the private network: IPv4 stream, datagram, or raw (ICMP)."""
        name = KINDS.get((family, kind))
        if name is None:
            raise ValueError(f"the private network has no sockets of {family.name} and {kind.name}")
        _, (descriptor,) = self._request("socket", kind=name)
        return socket.socket(fileno=descriptor)

    def inside(self, argv: Sequence[str]) -> tuple[list[str], list[int]]:
        """The command that runs ``argv`` inside the private network, and the descriptors to pass to it."""
        net, *user = self._namespace_fds()
        options = [f"--net=/proc/self/fd/{net}"]
        if user:
            options += ["--preserve-credentials", f"--user=/proc/self/fd/{user[0]}"]
        return ["nsenter", *options, "--", *argv], [net, *user]

    def close(self) -> None:
        """Leave; the service ends with its last client."""
        self._connection.close()
        while self._namespace:
            os.close(self._namespace.pop())

    def _namespace_fds(self) -> list[int]:
        if not self._namespace:
            _, self._namespace = self._request("namespace")
        return self._namespace

    def _request(self, operation: str, **fields: object) -> tuple[dict[str, Any], list[int]]:
        try:
            with self._lock:
                self._connection.sendall(json.dumps({"op": operation, **fields}).encode() + b"\n")
                data, descriptors, _, _ = socket.recv_fds(self._connection, MAX_REPLY, MAX_DESCRIPTORS)
                while data and not data.endswith(b"\n"):
                    data += self._connection.recv(MAX_REPLY)
        except OSError as error:
            raise HostError(f"lost the network service: {error}") from error
        if not data:
            raise HostError("the network service has ended", hint="see network.log in the runtime directory")
        reply = json.loads(data)
        if "error" in reply:
            raise HostError(reply["error"], hint=reply["hint"])
        return reply, descriptors
