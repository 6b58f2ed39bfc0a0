"""The backend process of one domain: ``python -m harness.backend``, started by :mod:`harness.backend.launch`."""

from __future__ import annotations

import argparse
import sys
from typing import NoReturn

from harness.backend.console import Console, serve_first_console
from harness.backend.domain import DomainBackends
from harness.backend.locks import Locks
from harness.backend.loop import Loop
from harness.backend.observe import Observers
from harness.host.errors import HarnessError, HostError
from harness.hypervisor.layout import BACKEND_PORTS, BACKEND_VECTOR
from harness.hypervisor.link import LinkEnd
from harness.store.client import StoreClient


def descriptors(text: str) -> list[int]:
    """Numbers separated by commas."""
    return [int(number) for number in text.split(",")]


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m harness.backend", description=__doc__)
    parser.add_argument("--domid", type=int, required=True, help="the domain to serve")
    parser.add_argument("--link", type=descriptors, required=True, help="descriptors of its link: memory, doorbells")
    parser.add_argument(
        "--console", type=descriptors, default=[], help="descriptors of the streams its consoles are connected to"
    )
    parser.add_argument("--locks", type=int, help="descriptor of the socket that brings locks on disk images")
    arguments = parser.parse_args()
    try:
        serve(arguments.domid, arguments.link, arguments.console, arguments.locks)
    except HarnessError as error:
        print(error, file=sys.stderr)
        return error.exit_code


def serve(domid: int, link_fds: list[int], streams: list[int], locks_fd: int | None) -> NoReturn:
    """Serve a domain until this process is killed.

    :param streams: one for each console, the first one's first; without any, what is printed there is thrown away.
    :param locks_fd: a socket, see :class:`harness.backend.locks.Locks`; None when nobody cares for locks.
    :raise HarnessError: it cannot be served, or the store is gone.
    """
    store = StoreClient.connect_if_running()
    if store is None:
        raise HostError("there is no store to find devices in", hint="a domain is introduced to it before its backend")
    link = LinkEnd.from_fds(link_fds, vector=BACKEND_VECTOR, ports=BACKEND_PORTS)
    # Another process may have served this end before, and have died.
    link.events.reset()
    link.grants.reset()
    loop = Loop(link.events)
    if locks_fd is not None:
        _keep_locks(loop, Locks(locks_fd, Observers(loop, link).serve))
    serve_first_console(loop, link, BACKEND_PORTS[0], streams[0] if streams else None)
    consoles = {number: Console(f"console {number}", loop, stream) for number, stream in enumerate(streams[1:], 1)}
    # It lives as long as the loop calls it.
    DomainBackends(domid, store, link, loop, consoles)
    loop.run()


def _keep_locks(loop: Loop, locks: Locks) -> None:
    def receive() -> None:
        if not locks.receive():
            loop.forget(locks.fileno())

    loop.watch(locks.fileno(), receive)


if __name__ == "__main__":
    sys.exit(main())
