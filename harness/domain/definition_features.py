"""The keys of a definition that are about the split drivers: notification strategies and features."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from typing import Any, TypeVar

from harness.bus.features import BlockFeatures, NetFeatures, Notification, Notifications
from harness.domain.definition import NAME, NAME_EXPECTED, Kind
from harness.domain.definition_yaml import Value

Features = TypeVar("Features", BlockFeatures, NetFeatures)

KIND_RULE = {
    "pv": "only pv devices in a domain of kind pv, which has no emulated disk or network card",
    "hvm": "no pv devices in a domain of kind hvm, an unmodified guest",
}


def check_kind(model: Value, kind: Kind, *, driver: bool = False) -> None:
    """Check that a domain of this kind can have a device of this model.

    :param driver: it is a driver domain, which has the devices of both kinds.
    :raise DefinitionError: it cannot.
    """
    if (model.text() == "pv") != (kind == "pv") and not driver:
        rule = KIND_RULE[kind] + ("; or driver-domain: true" if kind == "pv" else "")
        raise model.error(f"{model.text()} in a domain of kind {kind}", expected=rule)


def read_backend(value: Value) -> str:
    """The name of the driver domain that serves a device."""
    return value.matching(NAME, "the name of a driver domain: " + NAME_EXPECTED)


def check_paravirtual(found: Mapping[str, Value], keys: tuple[str, ...]) -> None:
    """:raise DefinitionError: a device that is no split driver has one of the keys that only those have."""
    model = found["model"].text()
    for key in keys:
        if key in found and model != "pv":
            raise found[key].error(f"a device of model {model} has no {key!r}", expected="this key with model: pv only")


def read_notifications(value: Value) -> Notifications:
    """One strategy for both ends, or ``{frontend: X, backend: Y}``."""
    if not value.is_mapping:
        both = _notification(value)
        return Notifications(both, both)
    found = value.mapping(("frontend", "backend"))
    return Notifications(**{end: _notification(one) for end, one in found.items()})


def _notification(value: Value) -> Notification:
    return Notification(value.choice([one.value for one in Notification]))


def read_features(value: Value, kind: type[Features]) -> Features:
    """Features as a mapping from their names to ``false`` or a number."""
    known = {one.name.replace("_", "-"): one for one in fields(kind)}
    chosen: dict[str, Any] = {}
    for key, one in value.mapping(tuple(known)).items():
        field = known[key]
        allowed = field.metadata["allowed"]
        switch = isinstance(field.default, bool)
        chosen[field.name] = one.boolean() if switch else one.integer(allowed.start, allowed.stop - 1)
    return kind(**chosen)
