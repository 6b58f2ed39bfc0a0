"""``harness doctor``: what this machine can do, what is missing, and the exact command that mends it."""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict

from harness.cli.arguments import Subparsers
from harness.domain.diagnosis import Finding, examine

MACHINE_FAULT = 3


def add_parsers(verbs: Subparsers) -> None:
    verb = verbs.add_parser("doctor", help="say what this machine can do, what is missing, and how to mend it")
    verb.add_argument("--json", action="store_true", help="as a list of objects")
    verb.set_defaults(run=_run)


def _run(arguments: argparse.Namespace) -> int:
    findings = examine()
    if arguments.json:
        print(json.dumps([asdict(finding) for finding in findings], indent=1))
    else:
        for finding in findings:
            _show(finding)
        missing = [finding.name for finding in findings if finding.required and not finding.ok]
        print(f"Not ready: {', '.join(missing)}." if missing else "This machine can run domains.")
    return MACHINE_FAULT if any(finding.required and not finding.ok for finding in findings) else 0


def _show(finding: Finding) -> None:
    mark = "ok" if finding.ok else "MISSING" if finding.required else "note"
    print(f"{mark:8}{finding.name:12} {finding.text}")
    if finding.mend is not None:
        print(f"{'':21}mend it: {finding.mend}")
