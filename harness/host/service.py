"""Shared services: processes that several domains use, started on demand, gone with their last client.

The first client hands the new process one end of a connection, and the lock that it holds: others wait on it until the
service listens. The service makes its own files and removes them, so that whoever is killed, at whatever moment, leaves
either nothing or a service that notices. A client is a connection: when the client is SIGKILLed the kernel closes it,
so nothing needs to be told. The service ends when its last connection closes; the lock keeps a client from connecting
to a service that is just leaving.
"""

from __future__ import annotations

import importlib
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
    """Connect to the service, starting it first if it is not running.

    :param name: names its socket, its lock and its log in the runtime directory.
    :param module: a module with a function ``serve(listener, first, name)``, which runs the service.
    """
    with lock(_lock_path(name)) as held:
        client = _connect(socket_path(name)) or _spawn(name, module, held)
    # Tools that know nothing of locks find its socket, too, once it has let go of this one.
    with lock(_lock_path(name)):
        return client


def _spawn(name: str, module: str, held: int) -> socket.socket:
    ours, theirs = socket.socketpair()
    try:
        with theirs:
            spawn(
                f"the {name} service",
                [sys.executable, "-m", __name__, module, name, str(theirs.fileno()), str(held)],
                # It has a log of its own: see start().
                log=Path(os.devnull),
                pass_fds=[theirs.fileno(), held],
                die_with_parent=False,
            )
    except BaseException:
        ours.close()
        raise
    return ours


def start(module: str, name: str, first: int, held: int) -> None:
    """Run a service in this process: what ``python -m harness.host.service MODULE NAME FIRST HELD`` does.

    :param first: a descriptor of the connection to the first client.
    :param held: a descriptor of the lock, which is let go of when others can connect.
    """
    log = os.open(log_path(name), os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    os.dup2(log, 1)
    os.dup2(log, 2)
    os.close(log)
    path = socket_path(name)
    path.unlink(missing_ok=True)
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener, socket.socket(fileno=first) as client:
        listener.bind(str(path))
        listener.listen(BACKLOG)
        os.close(held)
        importlib.import_module(module).serve(listener, client, name)


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


if __name__ == "__main__":
    start(sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4]))
