"""Who may do what to a node: its list of permissions, whose first entry names the owner and the default."""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import Flag

from harness.store.errors import StoreError

FIRST_RESERVED_DOMID = 0x7FF0
DOMID_SELF = 0x7FF0
ANY_DOMID = 0x7FF5
"""DOMID_ANY: every domain, in an entry of a list of permissions other than the first."""


class Access(Flag):
    """What a permission grants. The owner may do everything, whatever the list says."""

    NONE = 0
    READ = 1
    WRITE = 2
    BOTH = READ | WRITE
    OWNER = 4


_LETTERS = {"n": Access.NONE, "r": Access.READ, "w": Access.WRITE, "b": Access.BOTH}
_NAMES = {access: letter for letter, access in _LETTERS.items()}
_FORM = re.compile(rb"([nrwb])([0-9]{1,5})")


@dataclass(frozen=True, slots=True)
class Permission:
    """One entry: a domain and what it may do. In the first entry: the owner, and what all others may do.

    :param void: it grants nothing: there was no such domain when it was written, and one that comes to have the same
        domid is another.
    """

    domid: int
    access: Access
    void: bool = False

    @classmethod
    def parse(cls, text: bytes) -> Permission:
        """Read the form ``r5``.

        :raise StoreError: EINVAL.
        """
        found = _FORM.fullmatch(text)
        if not found or (int(found[2]) >= FIRST_RESERVED_DOMID and int(found[2]) != ANY_DOMID):
            raise StoreError("EINVAL")
        return cls(int(found[2]), _LETTERS[found[1].decode()])

    def __str__(self) -> str:
        return f"{_NAMES[self.access]}{self.domid}"


Permissions = tuple[Permission, ...]
"""Never empty."""

DOMAIN_0_ONLY: Permissions = (Permission(0, Access.NONE),)


@dataclass(frozen=True, slots=True)
class Requester:
    """Who asks.

    :param domid: the domain that relative paths and ownership are about.
    :param privileged: Domain 0's tools: every access is granted, no quota applies.
    :param target: a domain whose rights this one has, too (a device model's guest).
    """

    domid: int
    privileged: bool = False
    target: int | None = None

    def is_one_of(self, domid: int) -> bool:
        return domid in (self.domid, self.target, ANY_DOMID)


def access_of(who: Requester, permissions: Permissions) -> Access:
    """What these permissions let somebody do."""
    if who.privileged or who.is_one_of(permissions[0].domid):
        return Access.BOTH | Access.OWNER
    for entry in permissions[1:]:
        if not entry.void and who.is_one_of(entry.domid):
            return entry.access
    return permissions[0].access


def inherited(from_parent: Permissions, who: Requester) -> Permissions:
    """The permissions of a new node: its parent's, but an unprivileged creator owns it."""
    if who.privileged:
        return from_parent
    return (Permission(who.domid, from_parent[0].access), *from_parent[1:])


def without(permissions: Permissions, domid: int) -> Permissions:
    """The same list with nothing granted to a domain that is gone; its owner stays whoever it is."""
    return (permissions[0], *(entry for entry in permissions[1:] if entry.domid != domid))
