"""The devices of a domain as XenStore shows them, for people to look at."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace

from harness.bus.devices import Device
from harness.bus.nodes import Nodes, read_or_none
from harness.store.errors import StoreError

UNKNOWN = "-1"
"""What xl shows where there is no value."""
_MAX_SHOWN = 256


@dataclass(frozen=True)
class Entry:
    """A device and its nodes; what guests have written is made harmless to a terminal."""

    nodes: Nodes
    device: Device

    @property
    def domid(self) -> int:
        return self.device.domid

    @property
    def devid(self) -> int:
        return self.device.devid

    @property
    def backend_domid(self) -> int:
        return self.device.backend_domid

    @property
    def backend_path(self) -> str:
        return self.device.backend

    def backend(self, name: str) -> str:
        """A node of the backend."""
        return self._read(self.device.backend, name)

    def frontend(self, *names: str) -> str:
        """The first of some nodes of the frontend that is there."""
        return next((value for name in names if (value := self._read(self.device.frontend, name)) != UNKNOWN), UNKNOWN)

    def _read(self, path: str, name: str) -> str:
        value = read_or_none(self.nodes, f"{path}/{name}")
        return UNKNOWN if value is None else re.sub(r"[^ -~]", "?", value[:_MAX_SHOWN].decode("latin-1"))


def devices(nodes: Nodes, kind: str, domid: int) -> list[Entry]:
    """The devices of one kind that the toolstack has made for a domain, by number."""
    try:
        names = nodes.directory(f"/libxl/{domid}/device/{kind}")
    except StoreError as error:
        if error.name != "ENOENT":
            raise
        return []
    return [Entry(nodes, _device(nodes, kind, domid, number)) for number in sorted(map(int, names))]


def _device(nodes: Nodes, kind: str, domid: int, number: int) -> Device:
    """A device, whose backend's domain the toolstack remembers."""
    device = Device(kind, domid, number)
    found = re.match(rb"/local/domain/(\d+)/", read_or_none(nodes, f"{device.toolstack}/backend") or b"")
    return replace(device, backend_domid=int(found[1])) if found else device
