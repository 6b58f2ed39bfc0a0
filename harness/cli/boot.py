"""``harness boot``: a domain in the foreground, on its console."""

from __future__ import annotations

import argparse
import sys
from dataclasses import replace

from harness.cli.arguments import Subparsers, add_accelerator, add_definition, definition
from harness.cli.terminal import attach
from harness.domain.control import ControlServer
from harness.domain.domain import Domain
from harness.domain.foreground import Foreground
from harness.host.progress import say


def add_parsers(verbs: Subparsers) -> None:
    verb = verbs.add_parser("boot", help="run a domain in the foreground, on its console")
    add_definition(verb)
    verb.add_argument("--pv-console", action="store_true", help="take the paravirtual console, not the serial port")
    add_accelerator(verb)
    verb.set_defaults(run=_run)


def _run(arguments: argparse.Namespace) -> None:
    by_hand = sys.stdin.isatty()
    # Its console ends with its QEMU, and so does what somebody who sits there wanted.
    wanted = replace(definition(arguments), on_crash="destroy")
    with Domain(wanted, accelerator=arguments.accel) as domain:
        domain.launch()
        ControlServer(domain)
        say(f"Domain {domain.name} (domid {domain.domid}) boots under {domain.accelerator.name}.")
        say(f"{domain.accelerator.reason}; logs: {domain.logs}")
        say(f"{'Ctrl-]' if by_hand else 'Ctrl-C or SIGTERM'} ends it, and so does poweroff in the guest.")
        say(f"From another terminal: harness exec {domain.name} -- COMMAND, harness ssh {domain.name}, harness list")
        with Foreground(domain, paravirtual=arguments.pv_console, patient=not by_hand) as foreground:
            left = attach(foreground.console)
            say(f"\nDomain {domain.name} has ended: {'you left its console' if left else foreground.end()}.")
