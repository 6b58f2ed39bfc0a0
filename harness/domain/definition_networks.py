"""Reads the network cards of a definition."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import cast, get_args

from harness.backend.namespace import MAX_MTU, MIN_MTU
from harness.bus.features import ADAPTIVE, ALL_NET, NetFeatures
from harness.domain.definition import MTU_DEFAULT, Kind, Network, NetworkModel
from harness.domain.definition_features import (
    check_kind,
    check_paravirtual,
    read_backend,
    read_features,
    read_notifications,
)
from harness.domain.definition_yaml import Value

NETWORKS_MAXIMUM = 8
MAC = re.compile(r"[0-9A-Fa-f]{2}(:[0-9A-Fa-f]{2}){5}")

KEYS = ("model", "mac")
PARAVIRTUAL_KEYS = ("mtu", "notification", "features", "backend")


def read_networks(value: Value, kind: Kind, *, driver: bool = False) -> tuple[Network, ...]:
    """The cards of a domain of some kind, each address once.

    :param driver: it is a driver domain.
    """
    networks: list[Network] = []
    for entry in value.sequence(NETWORKS_MAXIMUM):
        found = entry.mapping((*KEYS, *PARAVIRTUAL_KEYS))
        network = read_network(entry, found, kind, driver=driver)
        if network.mac is not None and any(network.mac == other.mac for other in networks):
            raise found["mac"].error(f"two networks have the address {network.mac}", expected="each address once")
        networks.append(network)
    return tuple(networks)


def read_network(entry: Value, found: Mapping[str, Value], kind: Kind, *, driver: bool = False) -> Network:
    """One card, from the mapping that an entry is."""
    if "model" not in found:
        raise entry.error("the key 'model' is missing", expected="one of " + ", ".join(get_args(NetworkModel)))
    model = cast(NetworkModel, found["model"].choice(get_args(NetworkModel)))
    check_kind(found["model"], kind, driver=driver)
    check_paravirtual(found, PARAVIRTUAL_KEYS)
    return Network(
        model,
        _mac(found["mac"]) if "mac" in found else None,
        found["mtu"].integer(MIN_MTU, MAX_MTU) if "mtu" in found else MTU_DEFAULT,
        read_notifications(found["notification"]) if "notification" in found else ADAPTIVE,
        read_features(found["features"], NetFeatures) if "features" in found else ALL_NET,
        read_backend(found["backend"]) if "backend" in found else None,
    )


def _mac(value: Value) -> str:
    mac = value.matching(MAC, "six pairs of hexadecimal digits, such as 00:16:3e:00:00:01").lower()
    if int(mac[:2], 16) & 1:
        raise value.error(f"{mac} is a multicast address", expected="a first byte that is even")
    if mac == "00:00:00:00:00:00":
        raise value.error("the all-zero address is no card's address", expected="such as 00:16:3e:00:00:01")
    return mac
