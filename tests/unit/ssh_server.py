"""An SSH server that runs commands on this machine, for the tests of the client."""

from __future__ import annotations

import os
import socket
import subprocess
import threading
from collections.abc import Callable

import paramiko
from paramiko.common import AUTH_FAILED, AUTH_SUCCESSFUL, OPEN_SUCCEEDED

_CHUNK = 1 << 16
_CLOSED = (OSError, EOFError, paramiko.SSHException)


class Server(paramiko.ServerInterface):
    """Accepts one key; runs each command with ``sh``, or does with the channel what the test wants."""

    def __init__(self, accepted: paramiko.PKey, instead: Callable[[paramiko.Channel], None] | None = None) -> None:
        self._accepted = accepted
        self._instead = instead

    def get_allowed_auths(self, username: str) -> str:
        return "publickey"

    def check_auth_publickey(self, username: str, key: paramiko.PKey) -> int:
        return AUTH_SUCCESSFUL if key == self._accepted and username == "root" else AUTH_FAILED

    def check_channel_request(self, kind: str, chanid: int) -> int:
        return OPEN_SUCCEEDED

    def check_channel_exec_request(self, channel: paramiko.Channel, command: bytes) -> bool:
        if command == b"refuse":
            return False
        body = self._instead or (lambda c: _serve(c, command))
        threading.Thread(target=body, args=(channel,), daemon=True).start()
        return True


def serve(sock: socket.socket, host_key: paramiko.PKey, server: paramiko.ServerInterface) -> paramiko.Transport:
    """Answer a client on the connected socket, in threads."""
    transport = paramiko.Transport(sock)
    transport.add_server_key(host_key)
    transport.start_server(threading.Event(), server)
    return transport


def _serve(channel: paramiko.Channel, command: bytes) -> None:
    process = subprocess.Popen(
        [b"sh", b"-c", command], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    if process.stdin is None or process.stdout is None or process.stderr is None:
        raise BrokenPipeError
    out, err = process.stdout.fileno(), process.stderr.fileno()
    threads = [
        threading.Thread(target=_copy, args=(lambda: os.read(out, _CHUNK), channel.sendall), daemon=True),
        threading.Thread(target=_copy, args=(lambda: os.read(err, _CHUNK), channel.sendall_stderr), daemon=True),
    ]
    feeder = threading.Thread(target=_feed, args=(channel, process), daemon=True)
    for thread in (*threads, feeder):
        thread.start()
    for thread in threads:
        thread.join()
    status = process.wait()
    process.stdout.close()
    process.stderr.close()
    try:
        if status >= 0:
            channel.send_exit_status(status)
        channel.close()
    except _CLOSED:
        return


def _copy(source: Callable[[], bytes], target: Callable[[bytes], None]) -> None:
    try:
        while data := source():
            target(data)
    except _CLOSED:
        return


def _feed(channel: paramiko.Channel, process: subprocess.Popen[bytes]) -> None:
    if process.stdin is None:
        raise BrokenPipeError
    try:
        with process.stdin as stdin:
            while data := channel.recv(_CHUNK):
                stdin.write(data)
    except _CLOSED:
        return
