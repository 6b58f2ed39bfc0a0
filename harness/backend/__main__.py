"""The backend process of one domain: ``python -m harness.backend``, started by :mod:`harness.backend.launch`."""

from __future__ import annotations

import argparse
import sys
from typing import NoReturn

from harness.backend.console import Console
from harness.backend.domain import DomainBackends
from harness.backend.loop import Loop
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
    parser.add_argument("--console", type=int, help="descriptor of the stream its console is connected to")
    arguments = parser.parse_args()
    try:
        serve(arguments.domid, arguments.link, arguments.console)
    except HarnessError as error:
        print(error, file=sys.stderr)
        return error.exit_code


def serve(domid: int, link_fds: list[int], console: int | None) -> NoReturn:
    """Serve a domain until this process is killed.

    :raise HarnessError: it cannot be served, or the store is gone.
    """
    store = StoreClient.connect_if_running()
    if store is None:
        raise HostError("there is no store to find devices in", hint="a domain is introduced to it before its backend")
    link = LinkEnd.from_fds(link_fds, vector=BACKEND_VECTOR, ports=BACKEND_PORTS)
    loop = Loop(link.events)
    Console(loop, link, BACKEND_PORTS[0], console)
    # It lives as long as the loop calls it.
    DomainBackends(domid, store, link, loop)
    loop.run()


if __name__ == "__main__":
    sys.exit(main())
