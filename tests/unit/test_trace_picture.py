"""The way of a request, as it is put together and drawn."""

from __future__ import annotations

import random
from pathlib import Path
from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.cli.main import main
from harness.trace import picture
from harness.trace.events import Event, Header
from harness.trace.journey import journeys, slowest
from tests.unit.trace_events import COMPLETED, RING, SUBMITTED, TAKES, requests

OFFSET = 123_456_789


def trace(count: int = 3) -> list[Event]:
    return requests(count, lambda time: time - OFFSET)


def test_each_request_has_its_steps_in_order() -> None:
    found, offset = journeys(trace())
    assert [journey.index for journey in found] == [0, 1, 2]
    for journey in found:
        assert journey.complete
        assert [(step.lane, step.what) for step in journey.steps(offset)] == [
            ("guest", "written into the ring"),
            ("guest", "published: doorbell"),
            ("link", "event for the backend"),
            ("backend", "wakes up"),
            ("backend", "taken from the ring"),
            ("disk", "asked"),
            ("disk", "done"),
            ("backend", "response written"),
            ("link", "event for the guest"),
            ("guest", "interrupt"),
            ("guest", "response taken"),
        ]
        assert journey.duration(offset) == COMPLETED - SUBMITTED


@given(st.randoms(use_true_random=False), st.lists(st.integers(0, 35), max_size=20))
def test_events_may_be_missing_and_the_ends_may_come_in_any_order(dice: random.Random, missing: list[int]) -> None:
    events = [event for number, event in enumerate(trace()) if number not in missing]
    ends = {clock: [event for event in events if event.clock == clock] for clock in ("host", "guest")}
    mixed = []
    while any(ends.values()):
        mixed.append(ends[dice.choice([clock for clock, left in ends.items() if left])].pop(0))
    found, offset = journeys(mixed)
    indices = [journey.index for journey in found]
    assert len(indices) == len(set(indices))
    seen = {(event.what, event.index) for event in mixed}
    if any(
        {("submitted", index), ("taken", index)} <= seen or {("answered", index), ("completed", index)} <= seen
        for index in indices
    ):
        # Otherwise nothing says how the clocks are to each other, and so who came first.
        assert indices == sorted(indices)
    for number, journey in enumerate(found, 1):
        times = [step.time for step in journey.steps(offset)]
        assert times == sorted(times)
        assert str(number) in picture.text(journey, number, offset)
        ElementTree.fromstring(picture.svg(journey, number, offset))


def test_an_id_that_is_used_again_belongs_to_another_request() -> None:
    # The rings were made anew: indices and ids begin again.
    found, _ = journeys([*trace(2), *requests(2, lambda time: time - OFFSET, 10**12 + 50 * TAKES)])
    assert [(journey.index, journey.complete) for journey in found] == [(0, True), (1, True), (0, True), (1, True)]


def test_the_slowest_is_found() -> None:
    events = trace(5)
    late = next(event for event in events if event.what == "completed" and event.index == 3)
    events = [event for event in events if event.index != 4 or event.what in ("pushed", "taken")]
    events[events.index(late)] = Event(late.time + 40_000, "guest", "completed", RING, 3, 7)
    found, offset = journeys(events)
    assert found[slowest(found, offset)].index == 3


def test_a_picture_holds_nothing_but_what_was_drawn() -> None:
    hostile = [
        Event(event.time, event.clock, event.what, "<b>&'\"", event.index, event.id, "<i>") for event in trace(1)
    ]
    found, offset = journeys(hostile)
    root = ElementTree.fromstring(picture.svg(found[0], 1, offset))
    assert {element.tag.rpartition("}")[2] for element in root.iter()} == {
        "svg", "style", "defs", "marker", "path", "rect", "text", "line", "circle",
    }  # fmt: skip


# ---- the command ----


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "some.trace"
    path.write_text("".join(f"{line}\n" for line in [Header("one", 3, ("vbd/51712",)).line(), *_lines()]))
    return path


def _lines() -> list[str]:
    return [event.line() for event in trace()]


def test_a_file_is_listed(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["trace", "--replay", str(file)]) == 0
    rows = capsys.readouterr().out.splitlines()
    assert len(rows) == 4
    assert rows[2].split() == ["2", "100.0", RING, "read", "of", "4096", "bytes", "at", "sector", "8", "51.0"]


def test_a_request_is_drawn(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    svg = file.with_suffix(".svg")
    assert main(["trace", "--replay", str(file), "--request", "2", "--svg", str(svg)]) == 0
    assert "Request 2: read of 4096 bytes at sector 8" in capsys.readouterr().out
    ElementTree.parse(svg)


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["--replay", "{file}", "--request", "9"], "there is no request 9"),
        (["--replay", "/nowhere"], "cannot read /nowhere"),
        (["one", "--replay", "{file}"], "expected a domain, or a file"),
        ([], "expected a domain, or a file"),
        (["one", "--slowest"], "only a file has requests"),
    ],
    ids=lambda value: str(value)[:30],
)
def test_bad_usage_is_explained(
    file: Path, arguments: list[str], complaint: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["trace", *(argument.format(file=file) for argument in arguments)]) == 2
    assert complaint in capsys.readouterr().err
