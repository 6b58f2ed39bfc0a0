"""Devices of the split-driver model: their numbers and where they live in XenStore."""

from __future__ import annotations

import re
from dataclasses import dataclass

from harness.host.errors import UsageError
from harness.store.paths import home

XVD_MAJOR = 202
_DISK = re.compile(r"(xvd|hd|sd)([a-z]{1,2})(\d{0,3})")
_HD_MAJORS = (3, 22)
_SD_MAJOR = 8
_EXTENDED = 1 << 28


def disk_number(name: str) -> int:
    """The virtual device number of a disk or partition name, as in Xen's vbd-interface document.

    ``xvda`` is 51712, ``xvda1`` 51713, ``xvdb`` 51728, ``hda`` 768, ``sda`` 2048; from ``xvdq`` on the extended form.

    :raise UsageError: no such device can exist.
    """
    found = _DISK.fullmatch(name)
    if found:
        family, letters, digits = found.groups()
        disk = 0
        for letter in letters:
            disk = disk * 26 + ord(letter) - ord("a") + 1
        disk -= 1
        partition = int(digits or 0)
        if family == "xvd" and disk < 16 and partition < 16:
            return XVD_MAJOR << 8 | disk << 4 | partition
        if family == "xvd" and partition < 256:
            return _EXTENDED | disk << 8 | partition
        if family == "hd" and disk < 4 and partition < 64:
            return _HD_MAJORS[disk // 2] << 8 | (disk % 2) << 6 | partition
        if family == "sd" and disk < 16 and partition < 16:
            return _SD_MAJOR << 8 | disk << 4 | partition
    raise UsageError(f"{name!r} is no name of a paravirtual disk", hint="use xvda, xvdb and so on")


@dataclass(frozen=True)
class Device:
    """One split device: a frontend in a domain and a backend in another.

    :param kind: ``vbd``, ``vif`` or ``console``.
    :param domid: the frontend's domain.
    :param devid: its number in that domain.
    :param backend_domid: the domain that serves it.
    """

    kind: str
    domid: int
    devid: int
    backend_domid: int = 0

    @property
    def frontend(self) -> str:
        if self.kind == "console" and self.devid == 0:
            # The first console is older than the bus, and is not below device/.
            return f"{home(self.domid)}/console"
        return f"{home(self.domid)}/device/{self.kind}/{self.devid}"

    @property
    def backend(self) -> str:
        return f"{backend_directory(self.kind, self.domid, self.backend_domid)}/{self.devid}"

    @property
    def toolstack(self) -> str:
        """Where the toolstack remembers how the device was made; no domain can write there."""
        return f"/libxl/{self.domid}/device/{self.kind}/{self.devid}"


def backend_directory(kind: str, domid: int, backend_domid: int = 0) -> str:
    """The node that lists all backends of one kind for one domain."""
    return f"{home(backend_domid)}/backend/{kind}/{domid}"
