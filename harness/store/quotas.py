"""How much of the store one unprivileged domain may use. Domain 0 has no limits."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Quota:
    """The limits of xenstored, per domain unless stated otherwise.

    :param nodes: nodes the domain owns.
    :param node_size: bytes of one node: value, names of children, permissions.
    :param path: characters of a path, behind ``/local/domain/<domid>/`` if it starts so.
    :param permissions: entries in the permissions of one node.
    :param watches: watches set.
    :param transactions: transactions open at once.
    :param transaction_nodes: nodes that one transaction may touch, and changes that it may make.
    :param outstanding: answers not yet taken; with more, no further request is looked at.
    :param event_bytes: bytes of watch events not yet taken; what comes on top is dropped.
    """

    nodes: int = 1000
    node_size: int = 2048
    path: int = 2048
    permissions: int = 5
    watches: int = 128
    transactions: int = 10
    transaction_nodes: int = 1024
    outstanding: int = 20
    event_bytes: int = 1 << 20
