"""Devices as they are given on a command line: settings with the keys of a definition, ``features.discard=false`` say.

They are read, and complained of, as those in a file are.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from harness.domain import definition_disks, definition_networks
from harness.domain.definition import Disk, Network
from harness.domain.definition_yaml import Value
from harness.host.errors import UsageError

Settings = Mapping[str, str]
"""From a key, dotted where it is inside another one, to the text of its value."""


def disk_of(settings: Settings) -> Disk:
    """The split disk that some settings describe.

    :raise UsageError: names the setting and what was expected.
    """
    value = _value("disk", {"model": "pv", **settings})
    found = value.mapping((*definition_disks.KEYS, *definition_disks.PARAVIRTUAL_KEYS))
    return definition_disks.read_disk(value, found, "pv")


def network_of(settings: Settings) -> Network:
    """The split network card that some settings describe; as :func:`disk_of`."""
    value = _value("network", {"model": "pv", **settings})
    found = value.mapping((*definition_networks.KEYS, *definition_networks.PARAVIRTUAL_KEYS))
    return definition_networks.read_network(value, found, "pv")


def _value(what: str, settings: Settings) -> Value:
    tree: dict[str, Any] = {}
    for dotted, text in settings.items():
        *outer, key = dotted.split(".")
        place: Any = tree
        for name in outer:
            place = place.setdefault(name, {}) if isinstance(place, dict) else None
        if not isinstance(place, dict) or key in place:
            raise UsageError(f"{what}: {dotted} is given twice, or as a whole and in part", hint="give it once")
        place[key] = text
    return Value(Path(what), "", _node(tree))


def _node(value: str | dict[str, Any]) -> yaml.Node:
    if isinstance(value, str):
        return yaml.ScalarNode("tag:yaml.org,2002:str", value)
    return yaml.MappingNode("tag:yaml.org,2002:map", [(_node(key), _node(one)) for key, one in value.items()])
