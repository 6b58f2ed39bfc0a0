"""The domain's half of a ring page, and stores in this process whose domains are on links."""

from __future__ import annotations

import struct
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from harness.hypervisor.layout import GUEST_STORE_PORT
from harness.store.carriers import RingCarrier
from harness.store.connection import Connection
from harness.store.core import DomainRing, Store
from harness.store.ring import FEATURES, RING_SIZE
from harness.store.wire import Decoder, Message, strings
from tests.unit.linkends import DOMID, Ends, duplicated

REQ_CONS, REQ_PROD, RSP_CONS, RSP_PROD, SERVER_FEATURES, CONNECTION, ERROR, PORT = range(2048, 2080, 4)
MODULUS = 1 << 32


@dataclass
class Guest:
    """The domain's half of a ring page, as a driver has it."""

    page: memoryview
    decoder: Decoder = field(default_factory=Decoder)

    def get(self, offset: int) -> int:
        value: int = struct.unpack_from("<I", self.page, offset)[0]
        return value

    def set(self, offset: int, value: int) -> None:
        struct.pack_into("<I", self.page, offset, value % MODULUS)

    def send(self, data: bytes) -> int:
        """Write what fits, and say how much that was."""
        produced = self.get(REQ_PROD)
        room = RING_SIZE - (produced - self.get(REQ_CONS)) % MODULUS
        for position, byte in enumerate(data[:room]):
            self.page[(produced + position) % RING_SIZE] = byte
        self.set(REQ_PROD, produced + min(room, len(data)))
        return min(room, len(data))

    def receive(self) -> bytes:
        consumed = self.get(RSP_CONS)
        count = (self.get(RSP_PROD) - consumed) % MODULUS
        data = bytes(self.page[RING_SIZE + (consumed + position) % RING_SIZE] for position in range(count))
        self.set(RSP_CONS, consumed + count)
        return data

    def messages(self) -> list[Message]:
        self.decoder.feed(self.receive())
        found = []
        while (message := self.decoder.next()) is not None:
            found.append(message)
        return found


def request(kind: int, *parts: str, number: int = 1, transaction: int = 0) -> bytes:
    return Message(kind, number, transaction, strings(*parts)).pack()


@dataclass
class Rig:
    """A store in this process, and domains on links."""

    store: Store
    carriers: list[RingCarrier]
    owner: Connection

    def introduce(self, ends: Ends, domid: int) -> None:
        """Connect another domain."""
        fds = duplicated(ends.link.store_fds())
        self.store.introduce(self.owner, domid, ends.guest.layout.store_frame, GUEST_STORE_PORT, fds)

    def settle(self) -> None:
        """What the server's loop does until there is nothing left to do."""
        while True:
            for carrier in self.carriers:
                carrier.serve()
            for carrier in self.carriers:
                carrier.flush()
            if not any(carrier.busy for carrier in self.carriers):
                return


@contextmanager
def rig_for(ends: Ends, *, features: int = FEATURES, clock: Callable[[], float] = time.monotonic) -> Iterator[Rig]:
    carriers: list[RingCarrier] = []

    def connect(connection: Connection, frame: int, port: int, fds: list[int]) -> DomainRing:
        carrier = RingCarrier.open(store, connection, frame, port, fds)
        carriers.append(carrier)
        return carrier

    store = Store(connect, clock=clock)
    store.offer_features(DOMID, features)
    rig = Rig(store, carriers, store.connect_tool())
    rig.introduce(ends, DOMID)
    yield rig
    for carrier in carriers:
        carrier.link.close()
