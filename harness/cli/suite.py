"""``harness test``: run the project's own test suite."""

from __future__ import annotations

import argparse
import os
import sys

from harness.cli.arguments import Subparsers
from harness.host.directories import SOURCE


def add_parsers(verbs: Subparsers) -> None:
    verb = verbs.add_parser("test", help="run the test suite; arguments go to pytest")
    verb.add_argument("pytest", nargs=argparse.REMAINDER, metavar="ARGUMENT", help="see: pytest --help")
    verb.set_defaults(run=_run)


def _run(arguments: argparse.Namespace) -> None:
    os.chdir(SOURCE)
    # In place of this process: pytest then is what a signal or a CI's limit meets, with nothing in between.
    os.execv(sys.executable, [sys.executable, "-m", "pytest", *arguments.pytest])
