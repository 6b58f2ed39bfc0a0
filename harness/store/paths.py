"""The rules for the names of nodes."""

from __future__ import annotations

import re

from harness.store.errors import StoreError

ABSOLUTE_MAX = 3072
RELATIVE_MAX = 2048

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
    relative = is_relative(given)
    path = f"{home(domid)}/{given}" if relative else given
    malformed = "//" in path or (path.endswith("/") and path != "/")
    if malformed or len(given) > (RELATIVE_MAX if relative else ABSOLUTE_MAX):
        raise StoreError("EINVAL")
    return path


def length_in_domain(path: str) -> int:
    """The length of a path as quotas count it: what names the domain at its start does not count."""
    found = _HOME.match(path)
    return len(path) - (found.end() if found else 0)
