"""How the toolstack makes nodes: with the permissions that Xen's toolstack gives them."""

from __future__ import annotations

from collections.abc import Mapping

from harness.bus.nodes import Nodes


class Permissions:
    """The lists of permissions that the toolstack gives to nodes of one domain and of its devices."""

    def __init__(self, domid: int, backend_domid: int = 0) -> None:
        self.private = ["n0"]
        self.readable = ["n0", f"r{domid}"]
        self.guest = [f"n{domid}"]
        self.frontend = [f"n{domid}", f"r{backend_domid}"]
        self.backend = [f"n{backend_domid}", f"r{domid}"]


def make_node(nodes: Nodes, path: str, permissions: list[str], values: Mapping[str, str] | None = None) -> None:
    """Make a node with children that inherit its permissions."""
    nodes.mkdir(path)
    nodes.set_perms(path, permissions)
    for name, value in (values or {}).items():
        nodes.write(f"{path}/{name}", value)
