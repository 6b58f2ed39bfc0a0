"""What a domain's definition may change about a device's features, and the XenStore nodes that carry it.

The toolstack writes the nodes, and only for what differs from the default; the backend reads them and does not publish
what is off, or publishes no more than the limit. So does the guest with those few that are in the frontend's node. A
feature is used when both ends want it: what is on here is negotiated, not forced.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from enum import StrEnum
from typing import Any, TypeVar

from harness.bus.nodes import Nodes, read_number, read_or_none

MAX_INDIRECT_SEGMENTS = 256
MAX_RING_PAGE_ORDER = 4
MAX_QUEUES = 8
MAX_POLL_QUEUES = 1
SECTOR_SIZES = (512, 4096)

Features = TypeVar("Features", "BlockFeatures", "NetFeatures")


class Notification(StrEnum):
    """How an end learns that there is something for it in a ring."""

    ADAPTIVE = "adaptive"
    """It polls for as long as that has paid lately, and asks for an event otherwise."""
    EVENT = "event"
    """It always asks for an event."""
    POLL = "poll"
    """It never sleeps while it is connected."""


@dataclass(frozen=True)
class Notifications:
    """The strategy of both ends of a device."""

    frontend: Notification = Notification.ADAPTIVE
    backend: Notification = Notification.ADAPTIVE


def _switch(node: str) -> Any:  # noqa: ANN401 - what field() returns fits every type
    """A feature that can be switched off."""
    return field(default=True, metadata={"node": node, "allowed": range(2)})


def _limit(node: str, default: int, *, low: int = 0, frontend: bool = False) -> Any:  # noqa: ANN401 - likewise
    """A number that can be lowered from its default, which is the largest one.

    :param frontend: it concerns the guest alone, and is in the frontend's node.
    """
    return field(default=default, metadata={"node": node, "allowed": range(low, default + 1), "frontend": frontend})


@dataclass(frozen=True)
class BlockFeatures:
    """What a disk may use.

    :param indirect_segments: of one request; 0: no indirect requests.
    :param ring_page_order: a ring has at most 2 to the power of this pages.
    :param queues: at most so many rings; the guest takes no more than it has processors.
    :param poll_queues: how many of them the guest keeps for requests whose answers it polls for (io_uring).
    """

    flush: bool = _switch("flush-cache-enable")
    barrier: bool = _switch("barrier-enable")
    discard: bool = _switch("discard-enable")
    persistent: bool = _switch("persistent-enable")
    indirect_segments: int = _limit("indirect-segments-limit", MAX_INDIRECT_SEGMENTS)
    ring_page_order: int = _limit("ring-page-order-limit", MAX_RING_PAGE_ORDER)
    queues: int = _limit("queues-limit", MAX_QUEUES, low=1)
    poll_queues: int = _limit("poll-queues", MAX_POLL_QUEUES, frontend=True)


@dataclass(frozen=True)
class NetFeatures:
    """What a network interface may use.

    :param queues: at most so many pairs of rings; the guest takes no more than it has processors.
    """

    sg: bool = _switch("sg-enable")
    gso_tcpv4: bool = _switch("gso-tcpv4-enable")
    gso_tcpv6: bool = _switch("gso-tcpv6-enable")
    csum_offload: bool = _switch("csum-offload-enable")
    ipv6_csum_offload: bool = _switch("ipv6-csum-offload-enable")
    split_event_channels: bool = _switch("split-event-channels-enable")
    multicast_control: bool = _switch("multicast-control-enable")
    ctrl_ring: bool = _switch("ctrl-ring-enable")
    persistent: bool = _switch("persistent-enable")
    queues: int = _limit("queues-limit", MAX_QUEUES, low=1)


ALL_BLOCK = BlockFeatures()
ALL_NET = NetFeatures()
ADAPTIVE = Notifications()


def nodes(features: BlockFeatures | NetFeatures, notifications: Notifications) -> tuple[dict[str, str], dict[str, str]]:
    """What to write into a device's frontend node, and what into its backend node; nothing for defaults."""
    frontend: dict[str, str] = {}
    backend: dict[str, str] = {}
    for one in fields(features):
        value = getattr(features, one.name)
        if value != one.default:
            (frontend if one.metadata.get("frontend") else backend)[one.metadata["node"]] = str(int(value))
    for end, notification in ((frontend, notifications.frontend), (backend, notifications.backend)):
        if notification != Notification.ADAPTIVE:
            end["notification"] = notification.value
    return frontend, backend


def read_block_features(store: Nodes, backend: str) -> BlockFeatures:
    """What the toolstack lets a disk use. ``poll_queues`` is the guest's alone, and the default here.

    :param backend: the backend's node.
    :raise GuestError: a node holds what the toolstack does not write.
    """
    return BlockFeatures(**_read(BlockFeatures, store, backend))


def read_net_features(store: Nodes, backend: str) -> NetFeatures:
    """What the toolstack lets a network interface use; as :func:`read_block_features`."""
    return NetFeatures(**_read(NetFeatures, store, backend))


def _read(kind: type[BlockFeatures | NetFeatures], store: Nodes, backend: str) -> Mapping[str, Any]:
    found = {}
    for one in fields(kind):
        if not one.metadata.get("frontend"):
            default: Any = one.default
            node, allowed = f"{backend}/{one.metadata['node']}", one.metadata["allowed"]
            value = read_number(store, node, allowed, default=int(default))
            found[one.name] = bool(value) if isinstance(default, bool) else value
    return found


def read_notification(store: Nodes, path: str) -> Notification:
    """The strategy of the end at ``path``; adaptive when it is absent or nonsense: the device works either way."""
    value = read_or_none(store, f"{path}/notification") or b""
    return next((one for one in Notification if one.value.encode() == value), Notification.ADAPTIVE)


def read_sector_size(store: Nodes, backend: str) -> int:
    """Bytes of a disk's logical sector, as the toolstack wants it.

    :raise GuestError: there is no such sector.
    """
    small, large = SECTOR_SIZES
    return read_number(store, f"{backend}/sector-size", range(small, large + 1, large - small), default=small)
