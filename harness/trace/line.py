"""One line of text for one event."""

from __future__ import annotations

from harness.trace.events import Event

TEXTS = {
    "submitted": "{operation} of {bytes} bytes{where} written into the ring, request {index}, id {id}",
    "pushed": "published up to request {index}, {doorbell}",
    "taken": "{operation}{where} taken, request {index}, id {id}{amount}",
    "disk-begins": "id {id}: disk asked",
    "disk-ends": "id {id}: disk done",
    "answered": "response {index}, id {id}{outcome}",
    "sent": "event sent, port {port}",
    "held-off": "event held off, port {port}",
    "heard": "event received, port {port}",
    "sleeps": "backend sleeps",
    "wakes": "backend wakes",
    "completed": "response {index} taken{request}{outcome}",
    "doorbell": "doorbell{to}, port {port}",
    "interrupt": "interrupt{by}, port {port}",
    "poll": "idle: {text}",
    "state": "{text}",
    "dropped": "{count} events of the backend are missing: this reader was too slow",
    "lost": "{count} events of the guest are missing: its agent was too slow",
}


def line(event: Event, time: int, start: int) -> str:
    """An event as people read it.

    :param time: by the host's clock, in nanoseconds, as is ``start``, from which it is counted.
    """
    words = TEXTS[event.what].format(
        operation=event.operation,
        bytes=event.bytes,
        index=event.index,
        id=event.id,
        port=event.port,
        to="" if not event.domid else f" of domain {event.domid}",
        by="" if not event.domid else f" by domain {event.domid}",
        text=event.text,
        count=event.count,
        where="" if event.sector is None or event.ring.startswith("vif") else f" at sector {event.sector}",
        amount=_amount(event),
        request="" if event.id is None else f", id {event.id}",
        outcome="" if not event.status else f", status {event.status}",
        doorbell="doorbell wanted" if event.notify else "no doorbell wanted",
    )
    return f"{(time - start) / 1e6:12.4f}  {event.clock:<5}  {event.ring:<19}  {words}"


def _amount(event: Event) -> str:
    if event.bytes is not None:
        return f", {event.bytes} bytes"
    return "" if event.segments is None else f", segments: {event.segments}"
