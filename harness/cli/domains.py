"""``harness create``, ``list``, ``pause``, ``save``, ``restore``, ``shutdown`` and the like: the life of domains."""

from __future__ import annotations

import argparse
import json
import os
import time
from pathlib import Path

from harness.cli.arguments import Subparsers, add_accelerator, add_definitions, add_name, definitions, positive
from harness.cli.table import print_table
from harness.domain import driver, records, remote, supervisor
from harness.domain.definition import Definition
from harness.domain.life import SHUTDOWN_SECONDS
from harness.domain.ordering import start_order
from harness.domain.records import Record
from harness.domain.restoring import Saved
from harness.host.progress import say, step


def add_parsers(verbs: Subparsers) -> None:
    verb = verbs.add_parser("create", help="start domains that go on until they are shut down or destroyed")
    add_definitions(verb)
    add_accelerator(verb)
    verb.add_argument(
        "--warm", action="store_true", help="go on from a guest that has booted before; kept in the cache, kind pv only"
    )
    verb.set_defaults(run=_create)

    verb = verbs.add_parser("list", help="show the domains that exist")
    verb.add_argument("--json", action="store_true", help="as a list of objects")
    verb.set_defaults(run=_list)

    verb = verbs.add_parser("pause", help="stop a domain's processors")
    add_name(verb)
    verb.set_defaults(run=lambda arguments: remote.find(arguments.name).pause())

    verb = verbs.add_parser("unpause", help="let a paused domain go on")
    add_name(verb)
    verb.set_defaults(run=lambda arguments: remote.find(arguments.name).unpause())

    verb = verbs.add_parser("save", help="write a running domain to a file, and end it")
    add_name(verb)
    verb.add_argument("file", type=Path, metavar="FILE", help="the file to make")
    verb.set_defaults(run=_save)

    verb = verbs.add_parser("restore", help="let a saved domain go on where it was")
    verb.add_argument("file", type=Path, metavar="FILE", help="what harness save has made; it stays")
    verb.add_argument("--name", help="the domain's name (default: as before)")
    add_accelerator(verb)
    verb.set_defaults(run=_restore)

    verb = verbs.add_parser("shutdown", help="have a guest shut itself down, and wait until it has")
    add_name(verb)
    verb.add_argument(
        "--timeout",
        type=positive,
        default=int(SHUTDOWN_SECONDS),
        metavar="SECONDS",
        help="how long the guest may take (default: %(default)s)",
    )
    verb.set_defaults(run=_shutdown)

    verb = verbs.add_parser("destroy", help="end a domain at once")
    add_name(verb)
    verb.set_defaults(run=lambda arguments: remote.find(arguments.name).destroy())


def _create(arguments: argparse.Namespace) -> None:
    wanted = start_order(definitions(arguments), driver.running())
    for one in wanted:
        supervisor.prepare(one, arguments.accel)
    for one in wanted:
        _create_one(one, arguments.accel, warm=arguments.warm)


def _create_one(wanted: Definition, accelerator: str, *, warm: bool) -> None:
    with step(f"{'Starting' if warm else 'Booting'} domain {wanted.name}"):
        supervisor.create(wanted, accelerator, warm=warm)
    _tell(wanted.name)


def _save(arguments: argparse.Namespace) -> None:
    domain, file = remote.find(arguments.name), arguments.file.absolute()
    with step(f"Saving domain {domain.name}"):
        domain.save(file)
    say(f"Domain {domain.name} is in {file}. Next: harness restore {arguments.file}")


def _restore(arguments: argparse.Namespace) -> None:
    with Saved(arguments.file) as saved:
        wanted = saved.definition
        accelerator = saved.accelerator if arguments.accel == "auto" else arguments.accel
    wanted = wanted if arguments.name is None else wanted.renamed(arguments.name)
    supervisor.prepare(wanted, accelerator)
    with step(f"Restoring domain {wanted.name}"):
        supervisor.create(wanted, accelerator, restore=True)
    _tell(wanted.name)


def _tell(name: str) -> None:
    """Say where a domain is that has just begun to run."""
    record = records.find(name)
    where = f" at {', '.join(record.addresses)}" if record.addresses else ""
    say(f"Domain {record.name} (domid {record.domid}) runs{where}; logs: {record.logs}")
    say(f"Next: harness exec {record.name} -- COMMAND, harness ssh {record.name}, harness shutdown {record.name}")


def _shutdown(arguments: argparse.Namespace) -> None:
    domain = remote.find(arguments.name)
    with step(f"Shutting down domain {domain.name}"):
        domain.shutdown(arguments.timeout)


def _list(arguments: argparse.Namespace) -> None:
    found = list(records.records())
    if arguments.json:
        print(json.dumps([_fields(record) for record in found], indent=1))
        return
    print_table(
        ("NAME", "ID", "KIND", "STATE", "ADDRESS", "UPTIME", "RESTARTS", "OWNER"),
        [
            (
                record.name,
                str(record.domid),
                record.kind,
                _state(record),
                ",".join(record.addresses) or "-",
                _duration(time.time() - record.started),
                str(record.restarts) if record.kind == "pv" or record.restarts else "-",
                str(record.owner),
            )
            for record in found
        ],
    )


def _state(record: Record) -> str:
    return f"{record.state}, waits for {','.join(record.waits_for)}" if record.waits_for else record.state


def _fields(record: Record) -> dict[str, object]:
    return {
        "name": record.name,
        "domid": record.domid,
        "kind": record.kind,
        "state": record.state,
        "pids": list(record.pids.values()),
        "processes": record.pids,
        "backend_restarts": record.restarts,
        "driver_domain": record.driver_domain,
        "waits_for": record.waits_for,
        "owner": record.owner,
        "addresses": record.addresses,
        "uptime": round(time.time() - record.started, 1),
        "logs": os.fspath(record.logs),
    }


def _duration(seconds: float) -> str:
    minutes, rest = divmod(max(0, int(seconds)), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}"
