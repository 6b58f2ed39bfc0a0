"""The errors of XenStore: names on the wire, the same names in both halves of this floor."""

from __future__ import annotations

import errno

from harness.host.errors import HarnessError

NAMES = (
    "EINVAL", "EACCES", "EEXIST", "EISDIR", "ENOENT", "ENOMEM", "ENOSPC", "EIO",
    "ENOTEMPTY", "ENOSYS", "EROFS", "EBUSY", "EAGAIN", "EISCONN", "E2BIG", "EPERM",
)  # fmt: skip
"""Every error name that xs_wire.h knows; what it does not know, a client takes for EINVAL."""

_MEANING = {
    "EINVAL": "the request or the path is malformed",
    "EACCES": "permission denied",
    "EEXIST": "it exists already",
    "ENOENT": "no such node, domain, watch or transaction",
    "ENOSPC": "a quota of the domain is used up",
    "ENOSYS": "the server does not know this operation",
    "EBUSY": "transactions cannot be nested",
    "EAGAIN": "what the transaction has read was changed meanwhile; do it again",
    "E2BIG": "the request, the answer or the number of watches is too large",
    "EPERM": "only a privileged domain may do this",
}


class StoreError(HarnessError):
    """The store refused a request.

    :param name: the error's name on the wire, such as ``ENOENT``.
    :param operation: what was asked, such as ``READ``; empty inside the server, where the request says so.
    :param path: what it was asked of.
    """

    def __init__(self, name: str, operation: str = "", path: str = "") -> None:
        self.name = name if name in NAMES else "EINVAL"
        self.operation, self.path = operation, path
        subject = " ".join(part for part in ("XenStore:", operation, path) if part)
        super().__init__(f"{subject}: {self.name}, {_MEANING.get(self.name, 'the server could not do it')}")

    @property
    def errno(self) -> int:
        """The number that belongs to the name."""
        return int(getattr(errno, self.name))


class ProtocolError(Exception):
    """What the other end sent is no XenStore protocol: its connection cannot go on."""
