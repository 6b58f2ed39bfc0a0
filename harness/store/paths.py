"""The rules for the names of nodes."""

from __future__ import annotations

import re

from harness.store.errors import StoreError

ABSOLUTE_MAX = 3072
RELATIVE_MAX = 2048
"""Longest relative path, and longest part of an absolute one behind ``/local/domain/<domid>/``."""

SPECIAL = ("@introduceDomain", "@releaseDomain")
"""Events that can be watched and given permissions to, but hold no value."""

_ALLOWED = re.compile(r"[A-Za-z0-9\-/_@]+")
_HOME = re.compile(r"/local/domain/[0-9]{1,5}/")


def home(domid: int) -> str:
    """Where a domain's relative paths start."""
    return f"/local/domain/{domid}"


def parent(path: str) -> str:
    """The path of the node that lists this one; the root is its own parent."""
    return path.rpartition("/")[0] or "/"


def leaf(path: str) -> str:
    return path.rpartition("/")[2]


def join(directory: str, name: str) -> str:
    return f"/{name}" if directory == "/" else f"{directory}/{name}"


def is_relative(path: str) -> bool:
    return not path.startswith(("/", "@"))


def resolve(raw: bytes, domid: int, *, special: bool = False) -> str:
    """The absolute path that a domain means.

    :param special: whether ``@…`` may be meant, too.
    :raise StoreError: EINVAL, no such node can exist.
    """
    try:
        given = raw.decode("ascii")
    except UnicodeDecodeError:
        raise StoreError("EINVAL") from None
    if not _ALLOWED.fullmatch(given) or (given.startswith("@") and not special):
        raise StoreError("EINVAL")
    path = f"{home(domid)}/{given}" if is_relative(given) else given
    below_home = len(path) - _home_length(path)
    malformed = "//" in path or (path.endswith("/") and path != "/")
    if malformed or len(path) > ABSOLUTE_MAX or below_home > RELATIVE_MAX:
        raise StoreError("EINVAL")
    return path


def _home_length(path: str) -> int:
    found = _HOME.match(path)
    return found.end() if found else 0
