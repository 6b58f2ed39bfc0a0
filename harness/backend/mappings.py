"""The grants that a device has mapped."""

from __future__ import annotations

from collections.abc import Iterable

from harness.hypervisor.grants import Grant, GrantError, GrantMap

KEPT_MAX = 2048
"""Persistent grants of one ring that stay mapped, unless told otherwise."""


class Mappings:
    """Maps grants for one ring and gives them back.

    A frontend that agreed to persistent grants uses the same pages over and over, and they stay mapped; for any other
    a mapping ends with ``release``, when the request it was made for is answered.

    What stays is bounded. When half of the bound has been mapped since the last time, those that were not used in that
    time are given back: a grant in use is never far from the front, and finding one that is mapped costs a look-up.

    :param limit: mappings that stay, at most; more than two requests can have.
    :ivar kept: those that stay and were used lately, by grant reference.
    :ivar held: how many are mapped beyond the request at hand, for requests that take longer.
    """

    def __init__(self, grants: GrantMap, *, persistent: bool, limit: int = KEPT_MAX) -> None:
        self.persistent = persistent
        self.kept: dict[int, Grant] = {}
        self.held = 0
        self._older: dict[int, Grant] = {}
        self._half = limit // 2
        self._grants = grants
        self._transient: list[Grant] = []

    def map(self, ref: int, *, write: bool) -> Grant:
        """Map a grant, or find it mapped.

        :raise GrantError: it cannot be used so.
        """
        known = self.kept.get(ref) or self._older.pop(ref, None)
        if known is not None:
            if known.write or not write:
                self._keep(known)
                return known
            self._give_up(known)
        grant = self._grants.map(ref, write=write)
        if self.persistent:
            self._keep(grant)
        else:
            self._transient.append(grant)
        return grant

    def _keep(self, grant: Grant) -> None:
        if len(self.kept) >= self._half and grant.ref not in self.kept:
            for unused in self._older.values():
                self._grants.unmap(unused)
            self._older = dict(self.kept)
            # Not a new dictionary: callers hold on to this one.
            self.kept.clear()
        self.kept[grant.ref] = grant

    def _give_up(self, grant: Grant) -> None:
        self.kept.pop(grant.ref, None)
        self._grants.unmap(grant)

    def detach(self, refs: Iterable[int]) -> list[Grant]:
        """What the current request has mapped, to be given back with ``give_back``: it takes longer than others.

        :param refs: the references that it uses. Persistent ones are mapped once more, since they may be given back
            while the request is under way.
        :raise GrantError: one has been taken back by now.
        """
        held, self._transient = self._transient, []
        self.held += len(held)
        try:
            for ref in refs:
                known = self.kept.get(ref) or self._older.get(ref)
                if known is not None:
                    held.append(self._grants.map(ref, write=known.write))
                    self.held += 1
        except GrantError:
            self.give_back(held)
            raise
        return held

    def give_back(self, grants: list[Grant]) -> None:
        """Give back what ``detach`` has returned."""
        self.held -= len(grants)
        self._unmap(grants)

    def _unmap(self, grants: list[Grant]) -> None:
        for grant in grants:
            self._grants.unmap(grant)

    def release(self) -> None:
        """Give back what was mapped for one request."""
        if self._transient:
            self._unmap(self._transient)
            self._transient.clear()

    @property
    def in_use(self) -> int:
        """Mappings that stay."""
        return len(self.kept) + len(self._older)

    @property
    def transient(self) -> int:
        """Mappings that end with their request."""
        return len(self._transient) + self.held

    def close(self) -> None:
        """Give back everything; may be called again."""
        self.release()
        for grants in (self.kept, self._older):
            while grants:
                self._grants.unmap(grants.popitem()[1])
