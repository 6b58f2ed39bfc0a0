"""``harness store``: XenStore as Domain 0's tools see it."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from harness.cli.arguments import Subparsers, positive
from harness.host.deadline import Deadline
from harness.host.errors import UsageError
from harness.host.service import socket_path
from harness.store.client import SERVICE, StoreClient
from harness.store.errors import StoreError

TOKEN = "harness store watch"
EVENT_SECONDS = 7 * 86400.0


def add_parsers(verbs: Subparsers) -> None:
    verb = verbs.add_parser("store", help="look into XenStore, and change it")
    actions = verb.add_subparsers(dest="action", metavar="ACTION", required=True)

    action = actions.add_parser("ls", help="show a node and all below it")
    action.add_argument("-p", "--permissions", action="store_true", help="and who may read and write each")
    action.add_argument("path", nargs="?", default="/", metavar="PATH", help="default: %(default)s")
    action.set_defaults(run=_ls)

    action = actions.add_parser("read", help="print the value of a node")
    action.add_argument("path", metavar="PATH")
    action.set_defaults(run=_read)

    action = actions.add_parser("write", help="set the value of a node; creates it and its parents")
    action.add_argument("path", metavar="PATH")
    action.add_argument("value", metavar="VALUE")
    action.set_defaults(run=_write)

    action = actions.add_parser("rm", help="remove a node and all below it")
    action.add_argument("path", metavar="PATH")
    action.set_defaults(run=_rm)

    action = actions.add_parser("watch", help="print a line whenever a node, or one below it, changes")
    action.add_argument("-n", "--count", type=positive, metavar="COUNT", help="end after so many lines")
    action.add_argument("path", nargs="+", metavar="PATH")
    action.set_defaults(run=_watch)

    action = actions.add_parser("socket", help="print the path of the store's socket, for XENSTORED_PATH")
    action.set_defaults(run=_socket)


@contextmanager
def _connected() -> Iterator[StoreClient]:
    """The store, whose refusals are about what was typed here."""
    client = StoreClient.connect_if_running()
    if client is None:
        raise UsageError(
            "no XenStore is running: it starts with the first paravirtual domain and ends with the last",
            hint="start one: harness create guests/pv.yaml",
        )
    try:
        with client:
            yield client
    except StoreError as error:
        raise UsageError(error.what) from error


def printable(value: bytes) -> str:
    """A value on one line, as xenstore-ls shows it: what is no printable ASCII in escapes."""
    return value.decode("latin-1").encode("unicode_escape").decode().replace('"', '\\"')


def _ls(arguments: argparse.Namespace) -> None:
    with _connected() as store:
        for depth, path, name in _below(store, arguments.path, 0):
            # A node may vanish while we look.
            try:
                line = f'{" " * depth}{name} = "{printable(store.read(path))}"'
                if arguments.permissions:
                    line += f"   ({','.join(store.get_perms(path))})"
            except StoreError as error:
                if error.name != "ENOENT":
                    raise
                continue
            print(line)


def _below(store: StoreClient, path: str, depth: int) -> Iterator[tuple[int, str, str]]:
    """Depth, path and name of every node below one, parents first."""
    try:
        names = store.directory(path)
    except StoreError as error:
        if depth == 0 or error.name != "ENOENT":
            raise
        return
    for name in names:
        child = f"{path.rstrip('/')}/{name}"
        yield depth, child, name
        yield from _below(store, child, depth + 1)


def _read(arguments: argparse.Namespace) -> None:
    with _connected() as store:
        value = store.read(arguments.path)
    sys.stdout.buffer.write(value + b"\n")


def _write(arguments: argparse.Namespace) -> None:
    with _connected() as store:
        store.write(arguments.path, arguments.value)


def _rm(arguments: argparse.Namespace) -> None:
    with _connected() as store:
        store.rm(arguments.path)


def _watch(arguments: argparse.Namespace) -> None:
    with _connected() as store:
        for path in arguments.path:
            store.watch(path, TOKEN)
        left = arguments.count
        while left is None or left > 0:
            path, _ = store.read_event(Deadline(EVENT_SECONDS, "a change in XenStore"))
            print(path, flush=True)
            left = None if left is None else left - 1


def _socket(_: argparse.Namespace) -> None:
    with _connected():
        print(socket_path(SERVICE))
