"""Lets the owner of a domain look into its backend process: the state of every ring, and a trace of what happens.

Who looks has one end of a stream socket; the other end comes here, with a word that says what is wanted. ``RINGS`` is
answered with one JSON object and the end of the stream. ``TRACE`` is answered with records
(:mod:`harness.backend.trace`) until the reader closes its end.
"""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any, Protocol, runtime_checkable

from harness.backend.loop import Loop
from harness.backend.mappings import Mappings
from harness.backend.net_timer import Timer
from harness.backend.trace import Trace, Traceable
from harness.bus.features import Notification
from harness.host.errors import GuestError
from harness.hypervisor.events import EventChannels, PortState
from harness.hypervisor.layout import STORE_PORTS
from harness.hypervisor.link import LinkEnd
from harness.ring.byte_ring import ByteRing
from harness.ring.ring import U32, BackRing

RINGS, TRACE = b"rings", b"trace"
WORDS = (RINGS, TRACE)

STORE_SIZE, STORE_INDICES = 1024, 2048
"""Bytes of each of the store's two rings; where in its page the indices are: req_cons, req_prod, rsp_cons, rsp_prod."""

Fields = dict[str, Any]


@runtime_checkable
class Ring(Protocol):
    """A worker that serves a ring of requests."""

    name: str
    ring: BackRing
    port: int
    mappings: Mappings
    notification: Notification


@runtime_checkable
class Page(Protocol):
    """A worker that serves a page of byte rings."""

    name: str
    port: int | None
    notification: Notification

    @property
    def rings(self) -> Mapping[str, ByteRing]:
        """By the name of the direction."""


class Observers:
    """Answers those who look; made once for a backend process.

    :param link: the process's end.
    """

    def __init__(self, loop: Loop, link: LinkEnd) -> None:
        self._loop = loop
        self._link = link
        self._reader: _TraceReader | None = None

    def serve(self, word: bytes, descriptor: int) -> None:
        """Answer who has the other end of a stream socket, which is ours from now on."""
        connection = socket.socket(fileno=descriptor)
        if word == TRACE and self._reader is None:
            self._reader = _TraceReader(self._loop, connection, self._forget_reader)
        elif word == RINGS:
            # It may not all fit into the socket, and nobody has to read it.
            answer = json.dumps(rings_state(self._loop, self._link)).encode()
            threading.Thread(target=_send, args=(connection, answer), daemon=True).start()
        else:
            # Somebody traces already: a stream that ends at once says so.
            connection.close()

    def _forget_reader(self) -> None:
        self._reader = None


def _send(connection: socket.socket, answer: bytes) -> None:
    # Whoever asked may have gone.
    with connection, suppress(OSError):
        connection.sendall(answer)


class _TraceReader:
    """Everything that there is only while somebody traces."""

    def __init__(self, loop: Loop, connection: socket.socket, ended: Callable[[], None]) -> None:
        self._loop = loop
        self._connection = connection
        self._ended = ended
        self._timer = Timer()
        self._trace = trace = Trace(connection, self._timer.start)
        loop.watch(self._timer.descriptor, self._expired)
        # Not for room in it: what we send would make us send more, about our having been woken.
        loop.watch(connection.fileno(), self._close)
        loop.trace = trace
        for worker in loop.workers:
            trace.follow(worker)

    def _expired(self) -> None:
        self._timer.acknowledge()
        self._trace.flush()

    def _close(self) -> None:
        """The reader, who never says anything, has gone."""
        self._loop.trace = None
        for worker in self._loop.workers:
            if isinstance(worker, Traceable):
                worker.trace = None
        for descriptor in (self._timer.descriptor, self._connection.fileno()):
            self._loop.forget(descriptor)
        self._timer.close()
        self._connection.close()
        self._ended()


# ---- the state of rings ---------------------------------------------------------------------------------------------


def rings_state(loop: Loop, link: LinkEnd) -> Fields:
    """The state of every ring that the process serves, and of the store's page beside them: a JSON object."""
    rings = [ring_state(worker, link.events) for worker in loop.workers if isinstance(worker, Ring)]
    pages = [page_state(worker, link.events) for worker in loop.workers if isinstance(worker, Page)]
    return {"rings": sorted(rings, key=lambda ring: str(ring["name"])), "pages": [_store_state(link), *pages]}


def ring_state(worker: Ring, events: EventChannels) -> Fields:
    """One ring of requests: its indices, shared ones and ours; what it has sent and held off; what it has mapped."""
    ring = worker.ring
    req_prod, req_event, rsp_prod, rsp_event = ring.shared
    return {
        "name": worker.name,
        "size": ring.size,
        "bytes": len(ring.memory),
        "req_prod": req_prod,
        "req_event": req_event,
        "rsp_prod": rsp_prod,
        "rsp_event": rsp_event,
        "req_cons": ring.cons,
        "rsp_prod_pvt": ring.prod_pvt,
        "outstanding": (req_prod - ring.prod_pvt) & U32,
        "notified": ring.notified,
        "held_off": ring.held_off,
        "grants": {"persistent": worker.mappings.in_use, "transient": worker.mappings.transient},
        "notification": worker.notification.value,
        "channel": _channel(worker.port, events),
    }


def page_state(worker: Page, events: EventChannels) -> Fields:
    """A console's page."""
    return {
        "name": worker.name,
        "rings": {name: _byte_ring(*ring.indices, ring.size) for name, ring in worker.rings.items()},
        "notification": worker.notification.value,
        "channel": None if worker.port is None else _channel(worker.port, events),
    }


def _store_state(link: LinkEnd) -> Fields:
    """The store's page, which another process serves."""
    page = link.frame(link.layout.store_frame).cast("I")
    req_cons, req_prod, rsp_cons, rsp_prod = page[STORE_INDICES // 4 : STORE_INDICES // 4 + 4]
    return {
        "name": "store",
        "rings": {
            "req": _byte_ring(req_cons, req_prod, STORE_SIZE),
            "rsp": _byte_ring(rsp_cons, rsp_prod, STORE_SIZE),
        },
        "notification": Notification.EVENT.value,
        "channel": _channel(STORE_PORTS[0], link.events),
    }


def _byte_ring(cons: int, prod: int, size: int) -> Fields:
    return {"cons": cons, "prod": prod, "size": size, "used": (prod - cons) & U32}


def _channel(port: int, events: EventChannels) -> Fields:
    """An event channel; how often it was used is known of this process's own ports only."""
    try:
        state, remote = events.status(port)
    except GuestError:
        # The guest has overwritten the table.
        state, remote = PortState.CLOSED, None
    pending, masked = events.flags(port)
    return {
        "port": port,
        "state": state.name.lower(),
        "remote_port": remote,
        "sent": events.sent.get(port),
        "received": events.received.get(port),
        "pending": pending,
        "masked": masked,
    }
