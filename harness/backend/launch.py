"""Starts the backend process of a domain."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from harness.host.process import Child, spawn
from harness.hypervisor.link import Link

MODULE = "harness.backend"


def start_backend(
    domid: int,
    link: Link,
    *,
    module: str = MODULE,
    log: Path,
    console_fd: int | None,
    lease_fds: Sequence[int] = (),
    env: Mapping[str, str] | None = None,
) -> Child:
    """Start the process that serves a domain's paravirtual devices; it dies with the calling thread.

    It finds the devices itself, whenever they appear in XenStore; the domain must have been introduced to the store.

    :param link: the domain's link to Domain 0.
    :param module: what Python runs as the process: it gets the same options and descriptors as :mod:`harness.backend`,
        and has to serve the devices as that does, or as badly as a test wants.
    :param log: receives what goes wrong with devices.
    :param console_fd: one end of a bidirectional stream for the domain's console, made non-blocking and kept by the
        caller until this returns; None to throw away what the guest prints there.
    :param lease_fds: locks on the disk images: the process keeps them, so that they last as long as it does.
    :param env: added to its environment.
    """
    link_fds = link.backend_fds()
    argv = ["--domid", str(domid), "--link", ",".join(map(str, link_fds))]
    if console_fd is not None:
        argv += ["--console", str(console_fd)]
    return spawn(
        f"the backend of domain {domid}",
        [sys.executable, "-m", module, *argv],
        log=log,
        pass_fds=[*link_fds, *([] if console_fd is None else [console_fd]), *lease_fds],
        env=env,
    )
