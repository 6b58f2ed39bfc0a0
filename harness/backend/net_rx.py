"""Serves a network receive ring: reads packets from a TAP device into the frames that the guest has posted.

Where a packet's bytes belong is known only once its header has been read: a large segment has extra info in the second
slot, whose frame stays empty then. So it is guessed, and bytes are moved when the guess was wrong.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence

from harness.backend.net_ring import Attachment, Slots
from harness.backend.net_rules import Rules
from harness.backend.net_source import Offload, Source
from harness.backend.net_timer import Timer
from harness.backend.net_window import MAX_FRAMES, Window
from harness.backend.trace import RingTrace
from harness.hypervisor.events import fence
from harness.hypervisor.layout import FRAME_SIZE
from harness.ring.netif import RX_ENTRY_SIZE, RxFlags, Status
from harness.ring.ring import BackRing

BATCH = 64
"""Packets per round, so that the other rings get their turn."""
BACKLOG = 64
"""Packets for this ring that another queue of the TAP device gave."""
PATIENCE = 10.0
"""Seconds that a packet waits for frames, before the guest is taken not to want any."""

ENOUGH = MAX_FRAMES + 1
"""Requests for any packet."""
NOTHING_PLACED = 2
"""A list of memory to read to with the header, and what is not the guest's."""

RESPONSES = Slots("Q")
"""In one number, from the lowest bits on: id, offset, flags, status, 16 bits each."""
FLAGS, STATUS = 32, 48
MORE_DATA = int(RxFlags.MORE_DATA)
WHOLE_FRAME = MORE_DATA << FLAGS | FRAME_SIZE << STATUS
REFUSED = (Status.ERROR & 0xFFFF) << STATUS
WITHOUT_STATUS = (1 << STATUS) - 1


class Receiver:
    """One receive ring.

    A packet that the guest has no frames for waits here, and those after it in the TAP device, which drops what is too
    much. When that lasts, the guest is taken to be stalled, and gets nothing until it posts frames again.

    :ivar ring: its indices.
    :ivar stalled: the guest has posted no frames for too long.
    :ivar peers: the receive rings of all queues, this one included: those that packets may be for.
    :param source: where packets come from.
    :param rules: which of them, and in what form.
    :param timer: ours alone; its owner calls ``expired``.
    :param changed: called when ``stalled`` has changed.
    :ivar trace: who is told of all that happens, while somebody wants to know.
    """

    def __init__(
        self, attachment: Attachment, source: Source, rules: Rules, timer: Timer, changed: Callable[[], None]
    ) -> None:
        self.name = attachment.name
        self.port = attachment.port
        self.notification = attachment.notification
        self.trace: RingTrace | None = None
        self.ring = BackRing(attachment.page, RX_ENTRY_SIZE, fence)
        self.mappings = attachment.mappings
        self.stalled = False
        self.peers: Sequence[Receiver] = (self,)
        self._events = attachment.link.events
        self._source = source
        self._rules = rules
        self._timer = timer
        self._changed = changed
        self._window = Window(self.ring, attachment)
        self._looks = rules.finishes
        self._longest = rules.longest
        self._backlog: deque[tuple[Offload, bytes]] = deque()
        # Of the packet at hand: what its first response says, its extra info, its bytes (0: there is none), and slots.
        self._flags = 0
        self._extras: tuple[int, ...] = ()
        self._length = 0
        self._slots = 0
        self._scatter: list[memoryview | bytearray] = []
        self._gap = 1
        self._passed_on = False
        self._impatient = False
        self._expired = False

    def close(self) -> None:
        """Give back all that is the guest's."""
        self._window.close()

    def expired(self) -> None:
        """The timer has expired. What follows from that is done with the next work."""
        self._timer.acknowledge()
        self._expired = self._impatient

    def work(self) -> bool:
        """Hand over the packets that have come, as far as there are frames for them.

        :raise HarnessError: the ring is corrupt, or the TAP device is gone.
        """
        if self._expired or self.stalled:
            self._watch_guest()
        self._passed_on = False
        done = 0
        while done < BATCH and not self.stalled and (self._length or self._fetch()) and self._ready():
            self._deliver()
            done += 1
            notify = self.ring.push()
            if self.trace is not None:
                self.trace.pushed(self.port, notify)
            if notify:
                self._events.send(self.port)
        return done > 0

    def arm(self) -> bool:
        """Have the frontend notify us of frames if we wait for some; True when there are enough already.

        :raise GuestError: the ring is corrupt.
        """
        if self._passed_on:
            # The other ring's turn may have been before ours.
            return True
        if not self._length:
            return self._source.readable or bool(self._backlog)
        if self._window.arm(self._slots):
            return True
        if not self._impatient and not self.stalled:
            self._impatient = True
            self._timer.start(PATIENCE)
        return False

    def offer(self, offload: Offload, data: bytes) -> None:
        """Take a packet that another queue has read; one too many is dropped."""
        if len(self._backlog) < BACKLOG and not self.stalled:
            self._backlog.append((offload, data))

    # ---- from the TAP device ----

    def _fetch(self) -> bool:
        """Have a packet; False when there is none."""
        if self._backlog:
            offload, data = self._backlog.popleft()
            self._source.put_back(data)
            self._scatter = [self._source.header, self._source.rest]
            self._take(offload)
            return True
        source = self._source
        for _ in range(BATCH):
            if not source.worth_trying(self.notification) or not source.read(self._aim()):
                return False
            if 0 < source.length <= self._longest and self._is_ours():
                return True
        return False

    def _aim(self) -> list[memoryview | bytearray]:
        """Where the next packet is read to: the frames that there are, and memory of our own for what is too much."""
        source = self._source
        if self._looks or self._rules.steering.active:
            self._scatter = [source.header, source.rest]
        elif not self._scatter or (len(self._scatter) < MAX_FRAMES + NOTHING_PLACED and self._window.fill()):
            if len(self._window.ids) < ENOUGH:
                self._window.fill()
            frames, gap = self._window.memory, self._gap
            self._scatter = [source.header, *frames[:1], *frames[1 + gap : MAX_FRAMES + gap], source.rest]
        return self._scatter

    def _is_ours(self) -> bool:
        """Look at the packet just read: drop it, give it to another queue, or have it at hand."""
        source, rules = self._source, self._rules
        if rules.multicast.active and not rules.multicast.passes(bytes(self._scatter[1][:6])):
            return False
        if not self._looks and not rules.steering.active:
            self._take(source.offload())
            return True
        offload, queue = rules.inspect(source)
        if queue is None or self.peers[queue] is self:
            self._take(offload)
            return True
        self.peers[queue].offer(offload, bytes(source.rest[: source.length]))
        self._passed_on = True
        return False

    def _take(self, offload: Offload) -> None:
        self._flags, self._extras = offload
        self._length = self._source.length
        self._slots = -(-self._length // FRAME_SIZE) + len(self._extras)

    # ---- to the guest ----

    def _ready(self) -> bool:
        """Whether there are frames for the packet at hand."""
        if len(self._window.ids) < self._slots:
            self._window.fill()
        return len(self._window.ids) >= self._slots

    def _deliver(self) -> None:
        """Answer as many requests as the packet at hand takes."""
        window, length, count, extras = self._window, self._length, self._slots, self._extras
        if length > FRAME_SIZE or len(self._scatter) == NOTHING_PLACED:
            self._settle(length, len(extras))
        ids = window.ids
        if length <= FRAME_SIZE:
            answers = [ids[0] | self._flags << FLAGS | length << STATUS, *extras]
        else:
            answers = [WHOLE_FRAME | number for number in ids[:count]]
            answers[0] |= self._flags << FLAGS
            answers[-1] = ids[count - 1] | (length - 1) % FRAME_SIZE + 1 << STATUS
        for index in window.refused(count):
            answers[index] = answers[index] & WITHOUT_STATUS | REFUSED
        if extras:
            # They take the place of the answer, whatever the request in that slot was.
            answers[1 : 1 + len(extras)] = extras
        if self.trace is not None:
            self.trace.received(self.ring.prod_pvt, ids[0], length)
        window.drop(count)
        self._length = 0
        self._scatter = []
        self._impatient = False
        RESPONSES.put(self.ring, answers)

    def _settle(self, length: int, gap: int) -> None:
        """Put those bytes of the packet at hand into their frames that are not there yet.

        :param gap: slots of extra info.
        """
        _, *placed, rest = self._scatter
        start, data = len(placed) * FRAME_SIZE, memoryview(rest)
        if length > FRAME_SIZE:
            if len(placed) > 1 and gap != self._gap:
                start, data = 0, memoryview(b"".join([*placed, rest])[:length])
            self._gap = min(gap, 1)
        frames = self._window.memory
        for begin in range(start, length, FRAME_SIZE):
            piece = data[begin - start : min(begin + FRAME_SIZE, length) - start]
            frames[begin // FRAME_SIZE + (gap if begin else 0)][: len(piece)] = piece

    # ---- a guest that posts no frames ----

    def _watch_guest(self) -> None:
        if self.stalled:
            # The frames that the dropped packet would have needed.
            if self._ready():
                self._length = 0
                self._scatter = []
                self._set_stalled(False)
        else:
            self._expired = False
            if self._impatient and not self._ready():
                self._set_stalled(True)
                self._backlog.clear()
                self._source.drain()
        self._impatient = False

    def _set_stalled(self, stalled: bool) -> None:
        self.stalled = stalled
        self._changed()
