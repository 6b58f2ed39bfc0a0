"""``harness gc``: remove what a crash or a power cut left behind."""

from __future__ import annotations

import argparse

from harness.cli.arguments import Subparsers
from harness.domain import records, scratch
from harness.host import service


def add_parsers(verbs: Subparsers) -> None:
    verb = verbs.add_parser("gc", help="end and remove what owners left behind that are gone")
    verb.set_defaults(run=_run)


def _run(_: argparse.Namespace) -> None:
    for line in [*records.collect(), *scratch.collect(), *service.collect()] or ["nothing to collect"]:
        print(line)
