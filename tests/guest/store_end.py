"""The store's end of a running guest's ring page, for tests that write into it what no store would."""

from __future__ import annotations

import os
from types import TracebackType
from typing import Self

from harness.domain.domain import Domain
from harness.hypervisor.events import fence
from harness.hypervisor.layout import STORE_PORTS, STORE_VECTOR
from harness.hypervisor.link import LinkEnd
from harness.store.ring import RING_SIZE

_RESPONSES = 1024
RSP_PROD, CONNECTION, ERROR = 515, 517, 518
"""32-bit words of the page."""


class StoreEnd:
    """Maps the page beside the store itself, which does not look as long as nobody sends it an event."""

    def __init__(self, domain: Domain) -> None:
        assert domain.parts.paravirtual is not None
        descriptors = [os.dup(descriptor) for descriptor in domain.parts.paravirtual.link.store_fds()]
        self._end = LinkEnd.from_fds(descriptors, vector=STORE_VECTOR, ports=STORE_PORTS)
        self._page = self._end.frame(self._end.layout.store_frame)
        self._words = self._page.cast("I")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._words.release()
        self._end.close()

    def get(self, word: int) -> int:
        return self._words[word]

    def set(self, word: int, value: int) -> None:
        """Change a word of the page and send the guest an event."""
        self._words[word] = value
        fence()
        self._end.events.send(STORE_PORTS[0])

    def send(self, data: bytes) -> None:
        """Bytes that the guest takes for the store's."""
        produced = self.get(RSP_PROD)
        for offset, byte in enumerate(data):
            self._page[_RESPONSES + (produced + offset) % RING_SIZE] = byte
        fence()
        self.set(RSP_PROD, (produced + len(data)) % (1 << 32))
