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
    console_fds: Sequence[int] = (),
    locks_fd: int | None = None,
    env: Mapping[str, str] | None = None,
) -> Child:
    """Start the process that serves a domain's paravirtual devices; it dies with the calling thread.

    It finds the devices itself, whenever they appear in XenStore; the domain must have been introduced to the store. If
    another process has served them before, it goes on from there.

    :param link: the domain's link to Domain 0.
    :param module: what Python runs as the process: it gets the same options and descriptors as :mod:`harness.backend`,
        and has to serve the devices as that does, or as badly as a test wants.
    :param log: receives what goes wrong with devices.
    :param console_fds: for each of the domain's consoles one end of a bidirectional stream, made non-blocking and kept
        by the caller until this returns; for consoles without one, what the guest prints there is thrown away.
    :param locks_fd: the end of a :class:`harness.backend.locks.LockSender` for this process.
    :param env: added to its environment.
    """
    link_fds = link.backend_fds()
    argv = ["--domid", str(domid), "--link", _listed(link_fds)]
    if console_fds:
        argv += ["--console", _listed(console_fds)]
    if locks_fd is not None:
        argv += ["--locks", str(locks_fd)]
    return spawn(
        f"the backend of domain {domid}",
        [sys.executable, "-m", module, *argv],
        log=log,
        pass_fds=[*link_fds, *console_fds, *([] if locks_fd is None else [locks_fd])],
        env=env,
    )


def _listed(descriptors: Sequence[int]) -> str:
    return ",".join(map(str, descriptors))
