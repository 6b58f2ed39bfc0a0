"""What a backend takes from its frontend: numbers from XenStore, ring pages, event channels."""

from __future__ import annotations

from contextlib import ExitStack

from harness.backend.ring_pages import contiguous
from harness.bus.nodes import Nodes, read_number, read_or_none
from harness.host.errors import GuestError
from harness.hypervisor.layout import LINK_PORTS, NR_GRANTS
from harness.hypervisor.link import LinkEnd

TEXT_MAX = 64
"""Bytes of a frontend's text that are looked at."""


class Frontend:
    """A frontend's nodes; nothing in them is trusted.

    :param path: of the frontend, or of one of its queues.
    """

    def __init__(self, nodes: Nodes, path: str) -> None:
        self._nodes = nodes
        self._path = path

    def queue(self, number: int) -> Frontend:
        """Where a frontend with several queues keeps what belongs to one of them."""
        return Frontend(self._nodes, f"{self._path}/queue-{number}")

    def has(self, name: str) -> bool:
        return read_or_none(self._nodes, f"{self._path}/{name}") is not None

    def text(self, name: str, default: str) -> str:
        value = read_or_none(self._nodes, f"{self._path}/{name}")
        return default if value is None else value[:TEXT_MAX].decode("ascii", "backslashreplace")

    def number(self, name: str, allowed: range, default: int) -> int:
        """A number that the frontend has chosen, or the default.

        :raise GuestError: the node holds anything but an allowed number.
        """
        return read_number(self._nodes, f"{self._path}/{name}", allowed, default=default)

    def flag(self, name: str) -> bool:
        """Whether the frontend has a feature.

        :raise GuestError: the node holds neither 0 nor 1.
        """
        return self.number(name, range(2), 0) == 1

    def require_default(self, name: str, value: int) -> None:
        """Refuse a frontend that uses what was not offered.

        :raise GuestError: the node exists and holds something else.
        """
        self.number(name, range(value, value + 1), value)

    def map(self, connection: ExitStack, link: LinkEnd, name: str) -> memoryview:
        """Map the ring page whose grant reference a node holds, for as long as the connection lasts.

        :raise GuestError: there is no such node, or nothing is granted there.
        """
        return self._map(connection, link, [name])

    def map_ring(self, connection: ExitStack, link: LinkEnd, name: str, order: int) -> memoryview:
        """Map a ring of 2 to the power of ``order`` pages, whose references are in ``name`` or in ``name0`` and so on.

        :raise GuestError: a node is missing, or nothing is granted there, or a page is in the ring twice.
        :raise OSError: no memory to map them.
        """
        numbered = order > 0 or self.has(f"{name}0")
        return self._map(connection, link, [f"{name}{page}" for page in range(1 << order)] if numbered else [name])

    def _map(self, connection: ExitStack, link: LinkEnd, names: list[str]) -> memoryview:
        grants = []
        for name in names:
            grant = link.grants.map(read_number(self._nodes, f"{self._path}/{name}", range(NR_GRANTS)), write=True)
            connection.callback(link.grants.unmap, grant)
            grants.append(grant)
        if len({grant.frame for grant in grants}) < len(grants):
            raise GuestError(f"{self._path}: the same frame is in the ring more than once")
        return contiguous(link.memory, grants)

    def bind(self, connection: ExitStack, link: LinkEnd, name: str) -> int:
        """Bind to the port that a node holds, for as long as the connection lasts; returns the local port.

        :raise GuestError: there is no such node, or the port does not wait for us.
        """
        port = link.events.bind_interdomain(read_number(self._nodes, f"{self._path}/{name}", range(1, LINK_PORTS)))
        connection.callback(link.events.close, port)
        return port
