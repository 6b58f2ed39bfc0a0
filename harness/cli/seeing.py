"""``harness rings``, ``harness trace``: what goes on between frontends and backends."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, TextIO

from harness.cli.arguments import Subparsers, positive
from harness.cli.table import print_table
from harness.domain import remote, rings
from harness.host.errors import HostError, UsageError
from harness.host.progress import say
from harness.trace import picture
from harness.trace.clocks import host_time
from harness.trace.events import Event, Header, clock_line, read
from harness.trace.journey import Journey, journeys, slowest
from harness.trace.line import line
from harness.trace.live import LONG, Live

INDICES = ("RING", "SIZE", "REQ_PROD", "REQ_EVENT", "RSP_PROD", "RSP_EVENT", "OUTSTANDING", "GRANTS", "STRATEGY")
EVENTS = ("RING", "PORTS", "EVENTS SENT", "HELD OFF", "RECEIVED", "FRONTEND COUNTS")
PAGES = ("PAGE", "RING", "SIZE", "CONS", "PROD", "WAITING", "PORTS", "SENT", "RECEIVED")
FRONTEND = ("requests", "packets", "doorbells", "interrupts", "polls", "polls-found", "spins")


def add_parsers(verbs: Subparsers) -> None:
    verb = verbs.add_parser(
        "rings",
        help="show the rings between a domain and its backends",
        epilog="Indices count all entries ever put, modulo 2**32. Outstanding: published requests without a published "
        "response (a receive ring's are frames that wait for packets). Events: how many responses (or batches of them) "
        "the backend has notified the guest of, and how many it did not have to. Grants: frames of the guest's "
        "that are mapped for good, and for a request.",
    )
    verb.add_argument("name", metavar="DOMAIN", help="a domain's name or domid, see: harness list")
    verb.add_argument("--json", action="store_true", help="all that is known, as one object")
    verb.set_defaults(run=_rings)

    verb = verbs.add_parser(
        "trace",
        help="watch requests, events and states of a domain live, or draw one request's way",
        usage="harness trace DOMAIN [--output FILE] [--seconds S] [--device DEVICE]\n"
        "       harness trace --replay FILE [--list | --request N | --slowest] [--svg OUT.svg]",
        epilog="Times are milliseconds since the first event; those of the guest are brought to the host's clock by "
        "the order of the requests themselves. Ctrl-C ends a trace.",
    )
    verb.add_argument("name", nargs="?", metavar="DOMAIN", help="a domain's name or domid")
    verb.add_argument("-o", "--output", type=Path, metavar="FILE", help="also write the events to a file")
    verb.add_argument("-s", "--seconds", type=positive, metavar="S", help="end after so long")
    verb.add_argument("--device", metavar="DEVICE", help="only this one, such as vbd/51712 or vif/0")
    verb.add_argument("--replay", type=Path, metavar="FILE", help="take the events from a file")
    which = verb.add_mutually_exclusive_group()
    which.add_argument("--list", action="store_true", help="the requests in the file (the default)")
    which.add_argument("--request", type=positive, metavar="N", help="draw the way of request N of the list")
    which.add_argument("--slowest", action="store_true", help="draw the way of the one that took longest")
    verb.add_argument("--svg", type=Path, metavar="OUT.svg", help="draw it to a file, too")
    verb.set_defaults(run=_trace)


# ---- rings ----------------------------------------------------------------------------------------------------------


def _rings(arguments: argparse.Namespace) -> None:
    state = rings.look(remote.find(arguments.name))
    if arguments.json:
        print(json.dumps(state, indent=1))
        return
    print_table(INDICES, [_indices(ring) for ring in state["rings"]])
    print()
    print_table(EVENTS, [_events(ring) for ring in state["rings"]])
    print()
    print_table(PAGES, [row for page in state["pages"] for row in _page(page)])
    for idle in state["idle"]:
        print(
            f"\nThe guest's idle processor looked at {idle['name']} for {idle['microseconds']} µs: "
            f"found something {idle['found']} times, nothing {idle['in_vain']} times.",
            end="",
        )
    print()


def _indices(ring: dict[str, Any]) -> Sequence[str]:
    grants = ring["grants"]
    numbers = [str(ring[key]) for key in ("size", "req_prod", "req_event", "rsp_prod", "rsp_event", "outstanding")]
    return [ring["name"], *numbers, f"{grants['persistent']}+{grants['transient']}", ring["notification"]]


def _events(ring: dict[str, Any]) -> Sequence[str]:
    counted = [f"{name} {ring['frontend'][name]}" for name in FRONTEND if name in ring["frontend"]]
    channel = ring["channel"]
    return [
        ring["name"],
        _ports(channel),
        str(ring["notified"]),
        str(ring["held_off"]),
        _number(channel["received"]),
        ", ".join(counted) or "-",
    ]


def _ports(channel: dict[str, Any]) -> str:
    flags = "".join(f" {name}" for name in ("pending", "masked") if channel[name])
    return f"{channel['port']}-{_number(channel['remote_port'])}{flags}"


def _number(value: int | None) -> str:
    return "-" if value is None else str(value)


def _page(page: dict[str, Any]) -> list[Sequence[str]]:
    channel = page["channel"]
    used = ["-", "-", "-"]
    if channel is not None:
        used = [_ports(channel), _number(channel["sent"]), _number(channel["received"])]
    return [
        [page["name"], name, *(str(ring[key]) for key in ("size", "cons", "prod", "used")), *used]
        for name, ring in page["rings"].items()
    ]


# ---- trace ----------------------------------------------------------------------------------------------------------


def _trace(arguments: argparse.Namespace) -> None:
    if (arguments.name is None) == (arguments.replay is None):
        raise UsageError("expected a domain, or a file to replay", hint="harness trace DOMAIN, or: --replay FILE")
    if arguments.replay is not None:
        _replay(arguments)
    elif arguments.list or arguments.request or arguments.slowest or arguments.svg:
        raise UsageError(
            "only a file has requests to draw",
            hint=f"harness trace {arguments.name} --output FILE, then: harness trace --replay FILE --slowest",
        )
    else:
        _live(arguments)


def _live(arguments: argparse.Namespace) -> None:
    domain = remote.find(arguments.name)
    with ExitStack() as stack:
        live = stack.enter_context(Live(domain, arguments.device))
        output = None if arguments.output is None else stack.enter_context(_opened(arguments.output))
        if output is not None:
            print(Header(domain.name, domain.record.domid, tuple(live.devices)).line(), file=output)
        say(f"Tracing {arguments.device or ', '.join(live.devices)} of domain {domain.name}; Ctrl-C ends it.")
        try:
            _show(live, arguments.seconds or LONG, output)
        except KeyboardInterrupt:
            say("")
        offset = live.offset
        if output is not None and offset.uncertainty < float("inf"):
            print(clock_line(round(offset.base), round(offset.uncertainty)), file=output)
        say(f"Ended; {picture.uncertainty(offset)}.")
    if arguments.output is not None:
        say(f"Next: harness trace --replay {arguments.output} --slowest")


def _opened(path: Path) -> TextIO:
    try:
        return path.open("w")
    except OSError as error:
        raise UsageError(f"cannot write {path}: {error.strerror}") from error


def _show(live: Live, seconds: float, output: TextIO | None) -> None:
    start = None
    for events in live.batches(seconds):
        offset = live.offset
        for event in events:
            time = host_time(event, offset)
            start = time if start is None else start
            print(line(event, time, start))
            if output is not None:
                print(event.line(), file=output)
        if events:
            sys.stdout.flush()
            if output is not None:
                output.flush()


def _replay(arguments: argparse.Namespace) -> None:
    found, offset = journeys(_events_of(arguments.replay))
    if not found:
        raise UsageError(f"there is no request in {arguments.replay}", hint="trace a domain while it uses its disk")
    if not (arguments.request or arguments.slowest or arguments.svg):
        print_table(("REQUEST", "START µs", "RING", "WHAT", "TOOK µs"), picture.table(found, offset))
        return
    number = arguments.request or slowest(found, offset) + 1
    if number > len(found):
        raise UsageError(f"there is no request {number} in {arguments.replay}", hint=f"its last one is {len(found)}")
    journey: Journey = found[number - 1]
    print(picture.text(journey, number, offset))
    if arguments.svg is not None:
        try:
            arguments.svg.write_text(picture.svg(journey, number, offset))
        except OSError as error:
            raise HostError(f"cannot write {arguments.svg}: {error.strerror}") from error


def _events_of(path: Path) -> list[Event]:
    try:
        with path.open(encoding="utf-8") as file:
            return read(file, str(path))[1]
    except OSError as error:
        raise UsageError(f"cannot read {path}: {error.strerror}") from error
