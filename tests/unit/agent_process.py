"""Starts the real agent, compiled for the purpose, on this machine."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from harness.host.directories import GUESTS

PATIENCE = 20.0


def compile_agent(directory: Path) -> Path:
    """Build the agent into the directory."""
    subprocess.run(["make", "-s", "-f", GUESTS / "agent" / "Makefile", f"OUT={directory}"], check=True, timeout=120)
    return directory / "agent"


def _command(agent: Path, port: str) -> list[str]:
    # The agent must be unable to do to this machine what guest-shutdown does to a guest.
    if os.geteuid() == 0:
        harmless = "-sys_boot,-sys_admin"
        return ["setpriv", "--bounding-set", harmless, "--inh-caps", harmless, "--", str(agent), port]
    return [str(agent), port]


@contextmanager
def running_agent(agent: Path) -> Iterator[socket.socket]:
    """An agent on one end of a socket pair; gives the other end."""
    ours, theirs = socket.socketpair()
    with ours:
        process = subprocess.Popen(_command(agent, "-"), stdin=theirs.fileno(), start_new_session=True)
        theirs.close()
        try:
            yield ours
        finally:
            process.kill()
            process.wait()


@contextmanager
def running_agent_on_terminal(agent: Path) -> Iterator[int]:
    """An agent on a terminal, which is as near to a serial line as this machine has; gives the other side."""
    ours, theirs = os.openpty()
    try:
        process = subprocess.Popen(_command(agent, os.ttyname(theirs)), stdin=subprocess.DEVNULL)
        try:
            yield ours
        finally:
            process.kill()
            process.wait()
    finally:
        os.close(ours)
        os.close(theirs)


@contextmanager
def stock_agent(directory: Path) -> Iterator[socket.socket]:
    """QEMU's own agent, on a UNIX socket."""
    program = shutil.which("qemu-ga")
    if program is None:
        raise FileNotFoundError("qemu-ga")
    path = directory / "qga.sock"
    process = subprocess.Popen(
        [program, "-m", "unix-listen", "-p", str(path), "-t", str(directory)], stderr=subprocess.DEVNULL
    )
    try:
        with socket.socket(socket.AF_UNIX) as client:
            while client.connect_ex(str(path)) != 0:
                if process.poll() is not None:
                    raise ChildProcessError("qemu-ga has ended")
            yield client
    finally:
        process.kill()
        process.wait()


class RawClient:
    """Requests and answers as bytes, for what a well-behaved client never sends."""

    def __init__(self, sock: socket.socket) -> None:
        sock.settimeout(PATIENCE)
        self.sock = sock
        self._lines = sock.makefile("rb")
        assert self.line() == b"\xff\n", "an agent says that it has started"

    def line(self) -> bytes:
        return self._lines.readline()

    def send(self, data: bytes) -> None:
        self.sock.sendall(data)

    def raw(self, request: bytes) -> dict[str, Any]:
        """Send one line, return the answer to it."""
        self.send(request + b"\n")
        answer = json.loads(self.line())
        assert isinstance(answer, dict)
        return answer

    def ask(self, command: str, **arguments: object) -> Any:  # noqa: ANN401 - whatever JSON holds
        """The result of a command; underscores in names of arguments stand for hyphens."""
        named = {name.replace("_", "-"): value for name, value in arguments.items()}
        return self.raw(json.dumps({"execute": command, "arguments": named}).encode())["return"]

    def refusal(self, command: str, **arguments: object) -> str:
        """The text of the error that a command ends with."""
        named = {name.replace("_", "-"): value for name, value in arguments.items()}
        answer = self.raw(json.dumps({"execute": command, "arguments": named}).encode())
        description = answer["error"]["desc"]
        assert isinstance(description, str)
        return description
