"""``harness test``: run the project's own test suite."""

from __future__ import annotations

import argparse
import os
import sys

from harness.cli.arguments import Subparsers, takes_rest
from harness.host.directories import SOURCE


def add_parsers(verbs: Subparsers) -> None:
    # pytest's options are not ours to parse: with an impossible prefix, none of them looks like one.
    verb = verbs.add_parser(
        "test", help="run the test suite; arguments go to pytest", prefix_chars="\0", add_help=False
    )
    verb.add_argument("pytest", nargs="*", metavar="ARGUMENT", help="see: pytest --help")
    takes_rest(verb, "pytest")
    verb.set_defaults(run=_run)


def _run(arguments: argparse.Namespace) -> None:
    os.chdir(SOURCE)
    # In place of this process: pytest then is what a signal or a CI's limit meets, with nothing in between.
    os.execv(sys.executable, [sys.executable, "-m", "pytest", *arguments.pytest])
