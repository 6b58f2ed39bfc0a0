"""What a backend takes from its frontend: numbers from XenStore, ring pages, event channels."""

from __future__ import annotations

from contextlib import ExitStack

from harness.bus.nodes import Nodes, read_number, read_or_none
from harness.hypervisor.layout import LINK_PORTS, NR_GRANTS
from harness.hypervisor.link import LinkEnd

TEXT_MAX = 64
"""Bytes of a frontend's text that are looked at."""


class Frontend:
    """A frontend's nodes; nothing in them is trusted.

    :param path: of the frontend.
    """

    def __init__(self, nodes: Nodes, path: str) -> None:
        self._nodes = nodes
        self._path = path

    def has(self, name: str) -> bool:
        return read_or_none(self._nodes, f"{self._path}/{name}") is not None

    def text(self, name: str, default: str) -> str:
        value = read_or_none(self._nodes, f"{self._path}/{name}")
        return default if value is None else value[:TEXT_MAX].decode("ascii", "backslashreplace")

    def flag(self, name: str) -> bool:
        """Whether the frontend has a feature.

        :raise GuestError: the node holds neither 0 nor 1.
        """
        return read_number(self._nodes, f"{self._path}/{name}", range(2), default=0) == 1

    def require_default(self, name: str, value: int) -> None:
        """Refuse a frontend that uses what was not offered.

        :raise GuestError: the node exists and holds something else.
        """
        read_number(self._nodes, f"{self._path}/{name}", range(value, value + 1), default=value)

    def map(self, connection: ExitStack, link: LinkEnd, name: str) -> memoryview:
        """Map the ring page whose grant reference a node holds, for as long as the connection lasts.

        :raise GuestError: there is no such node, or nothing is granted there.
        """
        grant = link.grants.map(read_number(self._nodes, f"{self._path}/{name}", range(NR_GRANTS)), write=True)
        connection.callback(link.grants.unmap, grant)
        return grant.memory

    def bind(self, connection: ExitStack, link: LinkEnd, name: str) -> int:
        """Bind to the port that a node holds, for as long as the connection lasts; returns the local port.

        :raise GuestError: there is no such node, or the port does not wait for us.
        """
        port = link.events.bind_interdomain(read_number(self._nodes, f"{self._path}/{name}", range(1, LINK_PORTS)))
        connection.callback(link.events.close, port)
        return port
