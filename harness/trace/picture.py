"""Pictures of one request's way: as text, and as SVG."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from itertools import pairwise

from harness.trace.clocks import Offset
from harness.trace.journey import Journey, Lane, Step

LANES = tuple(Lane)
COLUMN = 25
"""Characters of a lane in the text."""
WIDTH, ROW, LEFT, TOP = 210, 34, 150, 96
"""Of a lane, of a row, and of the margins in the SVG, in its units."""
STYLE = (
    "text{font:13px sans-serif;fill:#222}.t{font-family:monospace;text-anchor:end}"
    ".h{font-weight:bold;text-anchor:middle}.l{stroke:#ccc}.a{stroke:#357;stroke-width:1.5;fill:none;marker-end:url(#a)}.d{fill:#357}.b{fill:#9bd}"
)


def microseconds(nanoseconds: float) -> str:
    return f"{nanoseconds / 1000:.1f}"


def uncertainty(offset: Offset) -> str:
    """What is to be said of the times."""
    if offset.uncertainty == float("inf"):
        return "the guest's clock is not known: too few requests"
    return f"the guest's times are known to ±{microseconds(offset.uncertainty)} µs"


def heading(journey: Journey, number: int, offset: Offset) -> str:
    return (
        f"Request {number}: {journey.title}, {journey.ring}, id {journey.id}, "
        f"{microseconds(journey.duration(offset))} µs"
    )


def text(journey: Journey, number: int, offset: Offset) -> str:
    """The picture for a terminal: a line for each step, a column for each lane."""
    steps = journey.steps(offset)
    lines = [
        heading(journey, number, offset),
        "",
        f"{'µs':>9} {'+':>8}  " + "".join(f"{lane:<{COLUMN}}" for lane in LANES).rstrip(),
    ]
    before = steps[0].time
    for step in steps:
        since, delta = microseconds(step.time - steps[0].time), microseconds(step.time - before)
        cells = "".join(f"{'● ' + step.what if lane == step.lane else '│':<{COLUMN}}" for lane in LANES)
        lines.append(f"{since:>9} {delta:>8}  {cells.rstrip()}")
        before = step.time
    return "\n".join([*lines, "", uncertainty(offset)])


def svg(journey: Journey, number: int, offset: Offset) -> str:
    """The picture as a file of its own; the bars at the right are as long as the steps took."""
    steps = journey.steps(offset)
    height = TOP + ROW * len(steps) + 40
    width = LEFT + WIDTH * len(LANES) + 160
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}">',
        f"<style>{STYLE}</style>",
        '<defs><marker id="a" markerWidth="8" markerHeight="8" refX="8" refY="4" orient="auto">'
        '<path d="M0 0 8 4 0 8z" fill="#357"/></marker></defs>',
        f'<rect width="{width}" height="{height}" fill="#fff"/>',
        f'<text x="20" y="30">{escape(heading(journey, number, offset))}</text>',
        f'<text x="20" y="{height - 14}">{escape(uncertainty(offset))}</text>',
    ]
    for lane in LANES:
        x = _x(lane)
        parts.append(f'<text class="h" x="{x}" y="{TOP - 34}">{lane}</text>')
        parts.append(f'<line class="l" x1="{x}" y1="{TOP - 24}" x2="{x}" y2="{height - 40}"/>')
    return "\n".join([*parts, *_arrows(steps), *_rows(steps), "</svg>", ""])


def _x(lane: Lane) -> int:
    return LEFT + WIDTH * LANES.index(lane) + WIDTH // 4


def _rows(steps: Sequence[Step]) -> list[str]:
    """Dots with their labels and times, and the bars."""
    total = max(steps[-1].time - steps[0].time, 1)
    right = LEFT + WIDTH * len(LANES) + 10
    parts = []
    for number, step in enumerate(steps):
        y = TOP + ROW * number
        parts.append(f'<circle class="d" cx="{_x(step.lane)}" cy="{y}" r="4"/>')
        parts.append(f'<text x="{_x(step.lane) + 9}" y="{y - 5}">{escape(step.what)}</text>')
        parts.append(f'<text class="t" x="{LEFT - 20}" y="{y + 4}">{microseconds(step.time - steps[0].time)} µs</text>')
        if number:
            took = step.time - steps[number - 1].time
            bar = max(1, 100 * took // total)
            parts.append(f'<rect class="b" x="{right}" y="{y - ROW + 4}" width="{bar}" height="{ROW - 8}"/>')
            parts.append(f'<text x="{right + 4}" y="{y - ROW // 2 + 4}">+{microseconds(took)}</text>')
    return parts


def _arrows(steps: Sequence[Step]) -> list[str]:
    return [
        f'<path class="a" d="M{_x(one.lane)} {TOP + ROW * number} L{_x(two.lane)} {TOP + ROW * (number + 1) - 5}"/>'
        for number, (one, two) in enumerate(pairwise(steps))
    ]


def table(found: Sequence[Journey], offset: Offset) -> list[tuple[str, ...]]:
    """A row for each request: number, start, ring, what, how long."""
    if not found:
        return []
    start = found[0].steps(offset)[0].time
    return [
        (
            str(number),
            microseconds(journey.steps(offset)[0].time - start),
            journey.ring,
            journey.title,
            microseconds(journey.duration(offset)) if journey.complete else "-",
        )
        for number, journey in enumerate(found, 1)
    ]
