"""The state of all rings of a domain, as both ends see them."""

from __future__ import annotations

import json
import re
from typing import Any

from harness.backend import observe
from harness.domain.remote import RemoteDomain
from harness.host.errors import HostError

READ = r"""
cat /sys/bus/pvbus/idle 2>/dev/null | sed 's/^/idle /'
for file in /sys/bus/pvbus/devices/*/statistics; do
    [ -e "$file" ] || continue
    device=${file%/statistics}
    sed "s,^,device ${device##*/} ," "$file"
done
"""
SECONDS = 10.0
CHUNK = 64 << 10

Fields = dict[str, Any]
_DEVICE = re.compile(r"device (vbd|vif|console)-\d+-(\d{1,10}) ((?:tx|rx|[\w-]+)/?[\w-]*) (\d{1,20})")
_IDLE = re.compile(r"idle (\S{1,40}) found (\d{1,20}) in-vain (\d{1,20}) us (\d{1,20})")


def look(domain: RemoteDomain) -> Fields:
    """The state of a domain's rings: a JSON object.

    ``rings`` and ``pages`` are the backend process's (:func:`harness.backend.observe.rings_state`); each has what its
    frontend has counted as ``frontend``. ``idle`` is what the guest's idle processor found by looking at rings.

    :raise UsageError: it has none, its devices being emulated.
    :raise HostError: the backend process has died, or does not answer.
    """
    state = _backend(domain)
    counted, idle = parse(domain.execute(["sh", "-c", READ], timeout=SECONDS).stdout.decode(errors="replace"))
    for ring in state["rings"]:
        ring["frontend"] = counted.get(ring["name"], {})
    return {**state, "idle": idle}


def _backend(domain: RemoteDomain) -> Fields:
    data = bytearray()
    with domain.observe(observe.RINGS) as stream:
        stream.settimeout(SECONDS)
        try:
            while piece := stream.recv(CHUNK):
                data += piece
        except TimeoutError:
            data.clear()
    try:
        state = json.loads(data)
    except ValueError:
        raise HostError(
            f"the backend process of domain {domain.name} does not answer", hint=f"its log is in {domain.record.logs}"
        ) from None
    if not isinstance(state, dict):
        raise HostError(f"the backend process of domain {domain.name} answers with nonsense")
    return state


def parse(text: str) -> tuple[dict[str, dict[str, int]], list[Fields]]:
    """What the guest says, without what makes no sense: counters by the ring's name, and what idle looking found."""
    counted: dict[str, dict[str, int]] = {}
    idle: list[Fields] = []
    for line in text.splitlines():
        if found := _DEVICE.fullmatch(line):
            kind, number, name, value = found.groups()
            queue, _, counter = name.partition("/")
            ring = f"{kind}/{number}/{queue}"
            direction = re.fullmatch(r"(tx|rx)-(.+)", counter) if kind == "vif" else None
            if direction:
                ring, counter = f"vif/{number}/{queue.replace('queue', direction[1])}", direction[2]
            counted.setdefault(ring, {})[counter] = int(value)
        elif found := _IDLE.fullmatch(line):
            idle.append(
                {"name": found[1], "found": int(found[2]), "in_vain": int(found[3]), "microseconds": int(found[4])}
            )
    return counted, idle
