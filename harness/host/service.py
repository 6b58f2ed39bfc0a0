"""Shared services: processes that several domains use, started on demand, gone with their last client.

The first client binds the listening socket, connects to it, and hands it to the new process, so that connecting never
races with its start, and a service whose first client is killed meanwhile sees that client leave. A client is a
connection: when the client is SIGKILLed the kernel closes it, so nothing needs to be told. The service ends when its
last connection closes; a lock on the socket's directory entry keeps a client from connecting to a service that is just
leaving.
"""

from __future__ import annotations

import os
import socket
import sys
from pathlib import Path

from harness.host.directories import lock, runtime, try_lock
from harness.host.process import spawn

BACKLOG = 64


def socket_path(name: str) -> Path:
    """Where the service listens."""
    return runtime() / f"{name}.sock"


def log_path(name: str) -> Path:
    """What the service prints, while it runs."""
    return runtime() / f"{name}.log"


def _lock_path(name: str) -> Path:
    return runtime() / f"{name}.lock"


def _connect(path: Path) -> socket.socket | None:
    client = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    try:
        client.connect(str(path))
    except (FileNotFoundError, ConnectionRefusedError):
        client.close()
        return None
    return client


def connect(name: str, module: str) -> socket.socket:
    """Connect to the service, starting ``python -m module LISTEN_FD NAME`` first if it is not running.

    :param name: names its socket, its lock and its log in the runtime directory.
    :param module: a module whose ``main`` runs the service.
    """
    path = socket_path(name)
    with lock(_lock_path(name)):
        client = _connect(path)
        if client is not None:
            return client
        path.unlink(missing_ok=True)
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener:
            listener.bind(str(path))
            listener.listen(BACKLOG)
            client = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
            try:
                client.connect(str(path))
                spawn(
                    f"the {name} service",
                    [sys.executable, "-m", module, str(listener.fileno()), name],
                    log=log_path(name),
                    pass_fds=[listener.fileno()],
                    die_with_parent=False,
                )
            except BaseException:
                client.close()
                # Interrupted before there was a service that would remove them at its end.
                for left in (path, log_path(name)):
                    left.unlink(missing_ok=True)
                raise
            return client


def connect_if_running(name: str) -> socket.socket | None:
    """Connect to the service, or return None when nobody has started it."""
    with lock(_lock_path(name)):
        return _connect(socket_path(name))


def collect() -> list[str]:
    """Remove the sockets of services that were killed; returns a line for each."""
    done = []
    for path in sorted(runtime().glob("*.sock")):
        with lock(_lock_path(path.stem)):
            client = _connect(path)
            if client is not None:
                client.close()
                continue
            path.unlink(missing_ok=True)
            done.append(f"removed the socket of the {path.stem} service, which was killed")
    return done


def leave(name: str, listener: socket.socket) -> socket.socket | None:
    """Called by a service with no connection left: remove its files so that it can end.

    Returns None when the service may end now, else a connection that came in at the last moment (or, when somebody is
    just connecting, lets the caller accept it: then the caller goes on listening).

    :raise BlockingIOError: a client holds the lock and is about to connect; go on listening.
    """
    held = try_lock(_lock_path(name))
    if held is None:
        raise BlockingIOError
    try:
        listener.setblocking(False)
        try:
            return listener.accept()[0]
        except BlockingIOError:
            for suffix in ("sock", "log", "lock"):
                (runtime() / f"{name}.{suffix}").unlink(missing_ok=True)
            return None
    finally:
        os.close(held)
