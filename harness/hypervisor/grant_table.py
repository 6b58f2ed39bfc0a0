"""The granter's view of a link's grant table, for a frontend in Python; ``grants`` says how the two ends agree."""

from __future__ import annotations

from harness.hypervisor.events import fence
from harness.hypervisor.grants import (
    GTF_PERMIT_ACCESS,
    GTF_READONLY,
    GTF_WRITING,
    GrantError,
    GrantStatus,
    entries,
    pack_entry,
    size_word,
    statuses,
)
from harness.hypervisor.layout import GRANTS_PER_FRAME, MAX_GRANT_FRAMES, NR_GRANTS, NR_RESERVED_REFS, LinkLayout


class GrantTable:
    """The granter's view: hands out references and takes them back.

    :param memory: the whole region.
    """

    def __init__(self, memory: memoryview, layout: LinkLayout) -> None:
        self._entries = entries(memory, layout)
        self._statuses = statuses(memory, layout)
        self._size = size_word(memory)
        self._layout = layout
        self._free = list(range(self._size[0] * GRANTS_PER_FRAME - 1, NR_RESERVED_REFS - 1, -1))
        self._used: set[int] = set()

    def grant(self, frame: int, domid: int, *, readonly: bool = False) -> int:
        """Let a domain map a frame, and return the reference that it needs for that.

        :raise GrantError: the frame may not be granted, or all references are in use.
        """
        if not self._layout.first_free_frame <= frame < self._layout.nr_frames:
            raise GrantError(GrantStatus.BAD_PAGE, f"frame {frame} may not be granted")
        if not self._free:
            self._grow()
        ref = self._free.pop()
        self._used.add(ref)
        # One store for the whole entry: a mapper sees all of it or nothing.
        self._entries[ref] = pack_entry(GTF_PERMIT_ACCESS | (GTF_READONLY if readonly else 0), domid, frame)
        return ref

    def _grow(self) -> None:
        frames: int = self._size[0]
        if frames >= MAX_GRANT_FRAMES:
            raise GrantError(GrantStatus.NO_SPACE, f"all {NR_GRANTS} grant references are in use")
        first = frames * GRANTS_PER_FRAME
        for ref in range(first, first + GRANTS_PER_FRAME):
            self._entries[ref] = 0
        self._free += range(first + GRANTS_PER_FRAME - 1, first - 1, -1)
        self._size[0] = frames + 1

    def make_readonly(self, ref: int) -> bool:
        """Allow only reading from now on; False, and nothing has changed, while somebody has the frame for writing.

        :raise GrantError: the reference is not one that this table gave out.
        """
        entry = self._given_out(ref)
        self._entries[ref] = entry | GTF_READONLY
        fence()
        if self._statuses[ref] & GTF_WRITING:
            self._entries[ref] = entry
            return False
        return True

    def make_writable(self, ref: int) -> None:
        """Allow writing from now on.

        :raise GrantError: the reference is not one that this table gave out.
        """
        self._entries[ref] = self._given_out(ref) & ~GTF_READONLY

    def _given_out(self, ref: int) -> int:
        if ref not in self._used:
            raise GrantError(GrantStatus.BAD_GNTREF, f"grant reference {ref} was not given out here")
        entry: int = self._entries[ref]
        return entry

    def end_access(self, ref: int) -> bool:
        """Take a grant back.

        No new mapping is possible from now on. False while an old one still exists: then neither the reference nor the
        frame may be used for anything else, and the caller tries again later.

        :raise GrantError: the reference is not one that this table gave out.
        """
        self._given_out(ref)
        self._entries[ref] = 0
        fence()
        if self._statuses[ref]:
            return False
        self._used.remove(ref)
        self._free.append(ref)
        return True
