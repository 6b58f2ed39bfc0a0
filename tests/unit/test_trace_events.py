"""Files of events: what is written is read again, and nothing else is."""

from __future__ import annotations

import io
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.backend.trace import What
from harness.guest.tracefs import TraceLine, parse_line
from harness.host.errors import UsageError
from harness.trace.events import LINES, RECORDS, Event, Header, clock_line, of_line, read
from harness.trace.line import line
from tests.unit.trace_events import requests

HEADER = Header("one", 3, ("vbd/51712", "vif/0"))
EVENT = requests(1)[0]


def parsed(*lines: str) -> tuple[Header, list[Event]]:
    return read(io.StringIO("".join(f"{line}\n" for line in lines)), "some.trace")


def test_what_is_written_is_read_again() -> None:
    events = requests(5)
    lines = [event.line() for event in events]
    assert parsed(HEADER.line(), *lines[:7], clock_line(-5, 7), *lines[7:]) == (HEADER, events)


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"time": -1}, "time is -1"),
        ({"time": "now"}, "time is 'now'"),
        ({"time": True}, "time is True"),
        ({"time": None}, "time is None"),
        ({"time": 1e300}, "time is 1e+300"),
        ({"index": 1 << 32}, "index is"),
        ({"domid": 1 << 16}, "domid is"),
        ({"ring": 5}, "ring is 5"),
        ({"ring": "x" * 29}, "ring is"),
        ({"what": "surprise"}, "there is no event 'surprise'"),
        ({"what": ["taken"]}, "there is no event"),
        ({"clock": "wall"}, "clock is 'wall'"),
        ({"clock": {}}, "clock is {}"),
        ({"notify": 1}, "notify is 1"),
        ({"colour": "red"}, "an event has no 'colour'"),
    ],
    ids=str,
)
def test_an_event_that_makes_no_sense_is_named_by_its_line(change: dict[str, Any], complaint: str) -> None:
    line = json.dumps({**json.loads(EVENT.line()), **change})
    with pytest.raises(UsageError) as caught:
        parsed(HEADER.line(), EVENT.line(), line)
    assert "some.trace, line 3: " in str(caught.value)
    assert complaint in str(caught.value)


@pytest.mark.parametrize(
    "first", ["{}", '{"harness-trace": 2}', "[]", "7", '{"harness-trace": 1, "domain": 5}', "", "\0"]
)
def test_a_file_without_the_header_is_no_trace(first: str) -> None:
    with pytest.raises(UsageError, match=r"some\.trace, line 1: "):
        parsed(first, EVENT.line())


def test_an_empty_file_is_no_trace() -> None:
    with pytest.raises(UsageError, match="expected the header"):
        parsed()


def test_a_line_that_was_cut_off_is_named() -> None:
    with pytest.raises(UsageError, match=r"line 2: this is no JSON") as caught:
        read(io.StringIO(f"{HEADER.line()}\n{EVENT.line()[:40]}"), "some.trace")
    assert "cut off" in str(caught.value)


def test_nothing_in_a_file_gives_orders_to_a_terminal() -> None:
    hostile = Event(1, "host", "state", ring="\x1b[2J", text="\x1b]0;x\x07 <script>")
    _, [event] = parsed(HEADER.line(), hostile.line())
    assert event.ring == "?[2J"
    assert event.text == "?]0;x? <script>"


@given(st.lists(st.text()))
def test_any_text_is_read_or_refused(lines: list[str]) -> None:
    try:
        parsed(HEADER.line(), *lines)
    except UsageError:
        return


JSON = st.recursive(st.none() | st.booleans() | st.integers() | st.floats() | st.text(), st.lists, max_leaves=3)
KEYS = st.sampled_from([*json.loads(EVENT.line()), "notify", "text", "count", "bytes", "port", "domid", "other"])


@given(st.dictionaries(KEYS, JSON))
def test_any_object_is_read_or_refused(fields: dict[str, Any]) -> None:
    try:
        parsed(HEADER.line(), json.dumps({**json.loads(EVENT.line()), **fields}))
    except UsageError:
        return


def test_every_record_of_a_backend_has_a_name() -> None:
    assert set(RECORDS) == set(What) - {What.NAME}


# ---- what the guest says ----


def test_a_line_of_the_guests_trace_is_an_event() -> None:
    line = "pvblk_queue: ns=512939000530 dev=51712 queue=0 index=9 id=1 op=0 sector=16 bytes=4096"
    parsed_line = parse_line(line)
    assert isinstance(parsed_line, TraceLine)
    expected = Event(512939000530, "guest", "submitted", "vbd/51712/queue-0", 9, 1, "read", 16, 4096)
    assert of_line(parsed_line) == expected


@pytest.mark.parametrize(
    ("said", "read"),
    [
        ("link_notify: ns=5 domid=0 port=3", "doorbell, port 3"),
        ("link_notify: ns=5 domid=7 port=3", "doorbell of domain 7, port 3"),
        ("link_event: ns=5 domid=7 port=3", "interrupt by domain 7, port 3"),
    ],
)
def test_a_port_is_named_with_its_link(said: str, read: str) -> None:
    parsed_line = parse_line(said)
    assert isinstance(parsed_line, TraceLine)
    event = of_line(parsed_line)
    assert parsed(HEADER.line(), event.line())[1] == [event]
    assert line(event, 5, 5).endswith(f" {read}")


def test_lost_events_are_counted() -> None:
    assert parse_line("CPU:0 [LOST 1234 EVENTS]") == 1234


@pytest.mark.parametrize(
    "line", ["", "hello", "pvblk_queue:", "CPU:0 [LOST many EVENTS]", "pvblk_queue: ns", "x" * 10_000]
)
def test_a_line_that_is_none_is_refused(line: str) -> None:
    with pytest.raises(ValueError, match="no line of a trace"):
        parse_line(line)


@given(
    st.sampled_from([*LINES, "other"]),
    st.dictionaries(st.sampled_from(["ns", "dev", "queue", "index", "id", "op", "port", "domid", "x"]), st.text()),
)
def test_any_fields_are_taken_or_refused(event: str, fields: dict[str, str]) -> None:
    try:
        of_line(TraceLine(event, fields))
    except ValueError:
        return
