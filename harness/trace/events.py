"""The events of a trace, and their form in a file: JSON lines, the first of which is a header.

A file may come from anywhere: every line is checked when it is read.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any, TextIO

from harness.backend.trace import NetOperation, Record, What
from harness.guest.tracefs import TraceLine
from harness.host.errors import UsageError
from harness.ring.blkif import Operation

SCHEMA = 1
MAX_LINE = 64 << 10
U64 = (1 << 64) - 1

HOST, GUEST = "host", "guest"
CLOCKS = (HOST, GUEST)

OPERATIONS: dict[int, str] = {
    Operation.READ: "read",
    Operation.WRITE: "write",
    Operation.WRITE_BARRIER: "barrier",
    Operation.FLUSH_DISKCACHE: "flush",
    Operation.DISCARD: "discard",
    NetOperation.TRANSMIT: "transmit",
    NetOperation.RECEIVE: "receive",
}
WITH_OPERATION = (What.TAKEN, What.DISK_BEGINS)
RECORDS = {
    What.TAKEN: "taken",
    What.DISK_BEGINS: "disk-begins",
    What.DISK_ENDS: "disk-ends",
    What.ANSWERED: "answered",
    What.SENT: "sent",
    What.HELD_OFF: "held-off",
    What.HEARD: "heard",
    What.SLEEPS: "sleeps",
    What.WAKES: "wakes",
    What.DROPPED: "dropped",
}
LINES = {
    "pvblk_queue": "submitted",
    "pvblk_push": "pushed",
    "pvblk_complete": "completed",
    "pvnet_xmit": "submitted",
    "pvnet_rx": "completed",
    "link_notify": "doorbell",
    "link_event": "interrupt",
    "link_poll": "poll",
}
KINDS = frozenset((*RECORDS.values(), *LINES.values(), "state", "lost"))


@dataclass(frozen=True, slots=True)
class Event:
    """Something that happened. What is None does not apply.

    :param time: nanoseconds of its clock: the host's or the guest's CLOCK_MONOTONIC.
    :param what: one of ``KINDS``.
    :param ring: such as ``vbd/51712/queue-0``; empty when it is about no ring.
    :param index: of the ring: a request's for ``submitted`` and ``taken``, a response's for ``answered`` and
        ``completed``, and for ``pushed`` that behind the last request.
    :param domid: of the domain at the other end of the guest's link that has the port.
    :param count: of events that are missing before this one.
    :param text: which poller, or which node has which state.
    """

    time: int
    clock: str
    what: str
    ring: str = ""
    index: int | None = None
    id: int | None = None
    operation: str | None = None
    sector: int | None = None
    bytes: int | None = None
    segments: int | None = None
    status: int | None = None
    notify: bool | None = None
    port: int | None = None
    domid: int | None = None
    count: int | None = None
    text: str | None = None

    def line(self) -> str:
        """The event in a file."""
        return json.dumps({key: value for key, value in asdict(self).items() if value not in (None, "")})


def of_record(record: Record) -> Event:
    """What a backend process has told."""
    what = record.what
    fields: dict[str, Any] = {}
    if what == What.TAKEN:
        fields = {"index": record.position, "id": record.id}
        if record.operation != NetOperation.TRANSMIT:
            fields |= {"sector": record.sector, "segments": record.number}
    elif what == What.ANSWERED:
        fields = {"index": record.position, "id": record.id, "status": record.number}
    elif what in (What.DISK_BEGINS, What.DISK_ENDS):
        fields = {"id": record.id}
    elif what in (What.SENT, What.HELD_OFF, What.HEARD):
        fields = {"port": record.number}
    elif what == What.DROPPED:
        fields = {"count": record.size}
    operation = None
    if what in WITH_OPERATION or record.operation == NetOperation.RECEIVE:
        operation = OPERATIONS.get(record.operation, str(record.operation))
    return Event(
        record.time,
        HOST,
        RECORDS[what],
        record.name,
        operation=operation,
        bytes=record.size if record.size and what != What.DROPPED else None,
        **fields,
    )


def of_line(line: TraceLine) -> Event:
    """What a frontend has told.

    :raise ValueError: it makes no sense.
    """
    fields, what = dict(line.fields), LINES.get(line.event)
    known: dict[str, Any] = {}
    if what is None:
        raise ValueError(f"there is no event {line.event}")
    try:
        time = int(fields.pop("ns"))
        if what == "poll":
            found = "found something" if int(fields["found"]) else "looked in vain"
            return Event(time, GUEST, what, text=f"{fields['name'][:40]} {found}")
        if "port" in fields:
            return Event(time, GUEST, what, port=int(fields["port"]), domid=int(fields["domid"]))
        ring = _ring(line.event, int(fields.pop("dev")), int(fields.pop("queue")))
        known["operation"] = {"pvnet_xmit": "transmit", "pvnet_rx": "receive"}.get(line.event)
        if "op" in fields:
            known["operation"] = OPERATIONS.get(int(fields.pop("op")), "unknown")
        if "notify" in fields:
            known["notify"] = bool(int(fields.pop("notify")))
        known |= {name: int(value) for name, value in fields.items()}
        return Event(time, GUEST, what, ring, **known)
    except (KeyError, TypeError) as error:
        raise ValueError(f"the event {line.event} has strange fields: {dict(line.fields)}") from error


def _ring(event: str, device: int, queue: int) -> str:
    if event == "pvnet_xmit":
        return f"vif/{device}/tx-{queue}"
    return f"vif/{device}/rx-{queue}" if event == "pvnet_rx" else f"vbd/{device}/queue-{queue}"


# ---- files ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Header:
    """The first line of a file."""

    domain: str
    domid: int
    devices: tuple[str, ...]

    def line(self) -> str:
        return json.dumps({"harness-trace": SCHEMA, **asdict(self)})


def clock_line(offset: int, uncertainty: int) -> str:
    """A line that says what was known of the clocks when it was written: ``host = guest + offset`` in nanoseconds.

    It is for other readers: here the events of the whole file say it better.
    """
    return json.dumps({"what": "clock", "offset": offset, "uncertainty": uncertainty})


NUMBERS = {name: range(1 << 32) for name in ("index", "segments", "port", "count", "bytes")} | {
    "domid": range(1 << 16),
    "time": range(U64),
    "id": range(U64),
    "sector": range(U64),
    "status": range(-(1 << 15), 1 << 15),
}
TEXTS = {"ring": 28, "operation": 20, "text": 300}


def read(file: TextIO, name: str) -> tuple[Header, list[Event]]:
    """A file's content.

    :raise UsageError: says in which line it is no trace, and why.
    """
    lines = _lines(file, name)
    number, fields = next(lines, (1, {}))
    header = _header(fields, f"{name}, line {number}")
    events = []
    for number, fields in lines:
        if fields.get("what") != "clock":
            events.append(_event(fields, f"{name}, line {number}"))
    return header, events


def _lines(file: Iterable[str], name: str) -> Iterator[tuple[int, dict[str, Any]]]:
    try:
        for number, line in enumerate(file, 1):
            where = f"{name}, line {number}"
            if len(line) > MAX_LINE:
                raise UsageError(f"{where}: longer than any line of a trace")
            try:
                fields = json.loads(line)
            except (ValueError, RecursionError) as error:
                hint = None if line.endswith("\n") else "the trace may have been cut off there: remove the line"
                raise UsageError(f"{where}: this is no JSON: {error}", hint=hint) from None
            if not isinstance(fields, dict):
                raise UsageError(f"{where}: expected a JSON object")
            yield number, fields
    except UnicodeDecodeError as error:
        raise UsageError(f"{name}: this is no text: {error}") from None


def _header(fields: Mapping[str, Any], where: str) -> Header:
    if fields.get("harness-trace") != SCHEMA:
        raise UsageError(
            f"{where}: expected the header of a trace of schema {SCHEMA}",
            hint="make one: harness trace NAME --output FILE",
        )
    domain, domid, devices = (fields.get(key) for key in ("domain", "domid", "devices"))
    if not isinstance(domain, str) or type(domid) is not int or not isinstance(devices, list):
        raise UsageError(f"{where}: domain, domid or devices are missing, or of another type")
    return Header(_printable(domain[:80]), domid, tuple(_printable(str(device)[:80]) for device in devices))


def _event(fields: Mapping[str, Any], where: str) -> Event:
    known: dict[str, Any] = {}
    for key, value in fields.items():
        if key in NUMBERS:
            if type(value) is not int or value not in NUMBERS[key]:
                raise UsageError(f"{where}: {key} is {value!r:.40}, not a number in its range")
        elif key in TEXTS:
            if not isinstance(value, str) or len(value) > TEXTS[key]:
                raise UsageError(f"{where}: {key} is {value!r:.40}, not a text of at most {TEXTS[key]} characters")
        elif key == "notify":
            if not isinstance(value, bool):
                raise UsageError(f"{where}: notify is {value!r:.40}, not true or false")
        elif key not in ("clock", "what"):
            raise UsageError(f"{where}: an event has no {key[:40]!r}")
        known[key] = _printable(value) if key in TEXTS else value
    if "time" not in known:
        raise UsageError(f"{where}: time is missing")
    if known.get("clock") not in CLOCKS:
        raise UsageError(f"{where}: clock is {known.get('clock')!r:.40}, expected one of {', '.join(CLOCKS)}")
    if known.get("what") not in tuple(KINDS):
        raise UsageError(f"{where}: there is no event {known.get('what')!r:.40}")
    return Event(**known)


def _printable(text: str) -> str:
    """Nothing that a terminal or an SVG could take for an order."""
    return "".join(character if " " <= character <= "~" else "?" for character in text)
