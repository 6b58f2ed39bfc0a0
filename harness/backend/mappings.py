"""The grants that a device has mapped."""

from __future__ import annotations

from harness.hypervisor.grants import Grant, GrantMap


class Mappings:
    """Maps grants for one device and gives them back.

    A frontend that agreed to persistent grants uses the same pages over and over, and they stay mapped; for any other
    a mapping ends with ``release``, when the request it was made for is answered.

    :ivar kept: mappings that stay, by grant reference.
    """

    def __init__(self, grants: GrantMap, *, persistent: bool) -> None:
        self.persistent = persistent
        self.kept: dict[int, Grant] = {}
        self._grants = grants
        self._transient: list[Grant] = []

    def map(self, ref: int, *, write: bool) -> Grant:
        """Map a grant, or find it mapped.

        :raise GrantError: it cannot be used so.
        """
        known = self.kept.get(ref)
        if known is not None and (known.write or not write):
            return known
        grant = self._grants.map(ref, write=write)
        if not self.persistent:
            self._transient.append(grant)
            return grant
        if known is not None:
            self._grants.unmap(known)
        self.kept[ref] = grant
        return grant

    def release(self) -> None:
        """Give back what was mapped for one request."""
        if self._transient:
            for grant in self._transient:
                self._grants.unmap(grant)
            self._transient.clear()

    def close(self) -> None:
        """Give back everything; may be called again."""
        self.release()
        while self.kept:
            self._grants.unmap(self.kept.popitem()[1])
