"""``harness compare``: measure device paths against each other."""

from __future__ import annotations

import argparse
import json
import os
from pathlib import Path

from harness.cli.arguments import Subparsers, add_accelerator, comma_separated, positive
from harness.compare import subjects
from harness.compare.workloads import ALL, DEFAULT, Workload
from harness.host.errors import UsageError
from harness.host.progress import say

MIB = 1 << 20


def add_parsers(verbs: Subparsers) -> None:
    verb = verbs.add_parser("compare", help="measure device paths against each other")
    verb.add_argument("--quick", action="store_true", help="short runs, one boot: 4 minutes instead of 20")
    verb.add_argument(
        "--paths",
        type=comma_separated,
        default=list(subjects.DEFAULT),
        metavar="A,B,…",
        help=f"of {', '.join(subjects.PATHS)} (default: {', '.join(subjects.DEFAULT)})",
    )
    verb.add_argument(
        "--workloads",
        type=comma_separated,
        default=list(DEFAULT),
        metavar="A,B,…",
        help=f"of {', '.join(ALL)} (default: all but {', '.join(sorted(ALL.keys() - DEFAULT.keys()))})",
    )
    verb.add_argument("--repeat", type=positive, metavar="N", help="boots (default: 3; with --quick: 1)")
    verb.add_argument(
        "--busy", type=int, choices=range(9), default=0, metavar="N", help="keep N cores of the host busy meanwhile"
    )
    verb.add_argument("--json", type=Path, metavar="FILE", help="also write samples, counts and ratios to FILE")
    verb.add_argument("--html", type=Path, metavar="FILE", help="also write the report as a page to FILE")
    add_accelerator(verb)
    verb.set_defaults(run=_run)


def _workloads(names: list[str]) -> list[Workload]:
    for name in names:
        if name not in ALL:
            raise UsageError(f"there is no workload called {name}", hint=f"workloads: {', '.join(ALL)}")
    return [ALL[name] for name in dict.fromkeys(names)]


def _check_writable(file: Path | None) -> None:
    """Find out before minutes of measuring, not after."""
    if file is not None and (
        file.is_dir() or not os.access(file if file.exists() else file.absolute().parent, os.W_OK)
    ):
        raise UsageError(f"cannot write {file}", hint="name a file in an existing directory that you may write to")


def _run(arguments: argparse.Namespace) -> None:
    # Statistics take a second to load, which no other verb should wait for.
    from harness.compare import report
    from harness.compare.runner import Comparison, Plan

    for file in (arguments.json, arguments.html):
        _check_writable(file)
    quick = arguments.quick
    plan = Plan(
        paths=subjects.chosen(arguments.paths),
        workloads=_workloads(arguments.workloads),
        rounds=3 if quick else 4,
        boots=arguments.repeat or (1 if quick else 3),
        seconds=1.5 if quick else 3.0,
        disk_size=(256 if quick else 1024) * MIB,
        accelerator=arguments.accel,
        busy=arguments.busy,
    )
    if not plan.steps():
        raise UsageError("none of these workloads runs on any of these paths", hint="see: harness compare --help")
    results = Comparison(plan, say).run()
    if arguments.json is not None:
        arguments.json.write_text(json.dumps(results.document(), indent=1) + "\n")
        say(f"samples written to {arguments.json}")
    if arguments.html is not None:
        arguments.html.write_text(report.page(results))
        say(f"report written to {arguments.html}")
    print(report.text(results))
