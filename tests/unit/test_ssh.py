"""The SSH client, against a real server."""

from __future__ import annotations

import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import paramiko
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from harness.guest import ssh
from harness.guest.completed import CommandFailed, CommandTimeout
from harness.guest.ssh import SshClient, SshError
from harness.host.deadline import Deadline
from harness.host.errors import GuestError, GuestGone, GuestSilent, HostError
from tests.unit.ssh_server import Server, serve


def soon(seconds: float = 30.0) -> Deadline:
    return Deadline(seconds, "the test")


def make_key(path: Path) -> paramiko.PKey:
    """A new private key in a file."""
    private = Ed25519PrivateKey.generate()
    path.write_bytes(
        private.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.OpenSSH, serialization.NoEncryption()
        )
    )
    return paramiko.PKey.from_path(path)


class Keys:
    """The image's keys, as an image has them."""

    def __init__(self, directory: Path) -> None:
        self.host = make_key(directory / "host")
        self.client_path = directory / "client"
        self.client = make_key(self.client_path)

    @property
    def host_line(self) -> str:
        return f"{self.host.get_name()} {self.host.get_base64()}"


@pytest.fixture
def keys(tmp_path: Path) -> Keys:
    return Keys(tmp_path)


@contextmanager
def server_for(
    keys: Keys, *, host_key: paramiko.PKey | None = None, instead: Callable[[paramiko.Channel], None] | None = None
) -> Iterator[tuple[socket.socket, paramiko.Transport]]:
    """A server; gives a socket connected to it."""
    ours, theirs = socket.socketpair()
    transport = serve(theirs, host_key or keys.host, Server(keys.client, instead))
    try:
        yield ours, transport
    finally:
        transport.close()
        ours.close()


def connect(keys: Keys, sock: socket.socket, deadline: Deadline | None = None) -> SshClient:
    return SshClient.connect(sock, deadline or soon(), host_key=keys.host_line, client_key=keys.client_path)


@pytest.fixture
def client(keys: Keys) -> Iterator[SshClient]:
    with server_for(keys) as (sock, _), connect(keys, sock) as client:
        yield client


def test_status_and_both_streams(client: SshClient) -> None:
    done = client.run("echo out; echo err >&2; exit 7", soon())
    assert (done.status, done.stdout, done.stderr) == (7, b"out\n", b"err\n")
    with pytest.raises(CommandFailed, match="status 7"):
        done.check()


def test_a_sequence_reaches_the_program_unchanged(client: SshClient) -> None:
    arguments = ["a b", "$HOME", "'", "*", "", "\u00e4\n"]
    done = client.run(["printf", "%s|", *arguments], soon())
    assert done.stdout.decode() == "".join(argument + "|" for argument in arguments)


def test_big_binary_data_both_ways_at_once(client: SshClient) -> None:
    """With either stream left alone, its window would fill and the command would wait for ever."""
    data = os.urandom(5_000_000)
    done = client.run("tee /dev/stderr", soon(), stdin=data)
    assert done.stdout == data
    assert done.stderr == data


def test_input_that_nobody_reads(client: SshClient) -> None:
    started = time.monotonic()
    assert client.run("exit 3", soon(), stdin=bytes(20_000_000)).status == 3
    assert time.monotonic() - started < 15


def test_killed_by_a_signal(client: SshClient) -> None:
    done = client.run("kill -9 $$", soon())
    assert (done.status, done.signal) == (None, None)
    with pytest.raises(CommandFailed, match="was killed by a signal"):
        done.check()


def test_files(client: SshClient, tmp_path: Path) -> None:
    path = tmp_path / "it's a file"
    client.put(str(path), bytes(range(256)) * 1000, soon())
    assert path.read_bytes() == bytes(range(256)) * 1000
    assert client.get(str(path), soon()) == path.read_bytes()
    with pytest.raises(CommandFailed, match="none"):
        client.get(str(tmp_path / "none"), soon())
    with pytest.raises(CommandFailed, match="none"):
        client.put(str(tmp_path / "none" / "file"), b"", soon())


def test_hanging_command_times_out_with_its_output(client: SshClient) -> None:
    started = time.monotonic()
    with pytest.raises(CommandTimeout, match=r"within 0\.5 s.*\n.*sleep 30") as caught:
        client.run("echo before; sleep 30", soon(0.5))
    assert time.monotonic() - started < 3
    assert caught.value.stdout == b"before\n"
    assert client.run("echo next", soon()).text == "next"


def test_endless_output_times_out(client: SshClient) -> None:
    with pytest.raises(CommandTimeout):
        client.run("yes", soon(0.5))


def test_too_much_output_is_refused(client: SshClient, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ssh, "MAX_OUTPUT", 100_000)
    with pytest.raises(GuestError, match="more than 100000 bytes"):
        client.run("yes", soon())


def test_threads_share_a_client(client: SshClient) -> None:
    results: dict[int, str] = {}

    def one(number: int) -> None:
        results[number] = client.run(f"sleep 0.2; echo {number}", soon()).text

    threads = [threading.Thread(target=one, args=(n,)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == {n: str(n) for n in range(8)}


def test_refused_command(client: SshClient) -> None:
    with pytest.raises(SshError, match="refused to run"):
        client.run("refuse", soon())


def test_wrong_host_key_is_refused_before_login(keys: Keys, tmp_path: Path) -> None:
    impostor = make_key(tmp_path / "impostor")
    with server_for(keys, host_key=impostor) as (sock, transport):
        with pytest.raises(SshError, match="not the image's own") as caught:
            connect(keys, sock)
        assert impostor.get_base64() in str(caught.value)
        assert not transport.is_authenticated()


def test_server_without_a_key_of_the_right_type(keys: Keys) -> None:
    with (
        server_for(keys, host_key=paramiko.ECDSAKey.generate()) as (sock, _),
        pytest.raises(SshError, match="host key"),
    ):
        connect(keys, sock)


def test_key_that_the_guest_does_not_know(keys: Keys, tmp_path: Path) -> None:
    stranger = tmp_path / "stranger"
    make_key(stranger)
    with server_for(keys) as (sock, _), pytest.raises(SshError, match="does not accept our key for root"):
        SshClient.connect(sock, soon(), host_key=keys.host_line, client_key=stranger)


@pytest.mark.parametrize("content", [None, b"", b"not a key"])
def test_unreadable_key(keys: Keys, tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "bad"
    if content is not None:
        path.write_bytes(content)
    with server_for(keys) as (sock, _), pytest.raises(HostError, match="cannot read the SSH key"):
        SshClient.connect(sock, soon(), host_key=keys.host_line, client_key=path)


def test_silent_server(keys: Keys) -> None:
    ours, theirs = socket.socketpair()
    started = time.monotonic()
    with theirs, pytest.raises(GuestSilent):
        connect(keys, ours, soon(0.3))
    assert time.monotonic() - started < 2


def test_server_that_hangs_up(keys: Keys) -> None:
    ours, theirs = socket.socketpair()
    theirs.close()
    with pytest.raises(GuestGone):
        connect(keys, ours)


def test_something_that_is_no_ssh_server(keys: Keys) -> None:
    ours, theirs = socket.socketpair()
    theirs.sendall(b"HTTP/1.0 400 Bad Request\r\n\r\n" * 200)
    theirs.close()
    with pytest.raises(GuestGone, match="before login"):
        connect(keys, ours)


def test_connection_lost_during_a_command(keys: Keys) -> None:
    with server_for(keys) as (sock, transport), connect(keys, sock) as client:
        threading.Timer(0.3, transport.close).start()
        with pytest.raises(GuestGone, match="sleep 30"):
            client.run("sleep 30", soon())
        with pytest.raises(GuestGone):
            client.run("true", soon())


def test_frozen_guest_times_out(keys: Keys) -> None:
    """Nothing is answered any more, not even the request for a channel."""
    ours, middle = socket.socketpair()
    far, theirs = socket.socketpair()
    frozen = threading.Event()
    pumps = [
        threading.Thread(target=_pump, args=ends, daemon=True)
        for ends in ((middle, far, frozen), (far, middle, frozen))
    ]
    for pump in pumps:
        pump.start()
    transport = serve(theirs, keys.host, Server(keys.client))
    with ours, middle, far, theirs, connect(keys, ours) as client:
        assert client.run("echo alive", soon()).text == "alive"
        frozen.set()
        started = time.monotonic()
        with pytest.raises(CommandTimeout):
            client.run("cat", soon(0.4), stdin=bytes(5_000_000))
        assert time.monotonic() - started < 5
        transport.close()


def _pump(source: socket.socket, target: socket.socket, frozen: threading.Event) -> None:
    try:
        while data := source.recv(65536):
            if frozen.is_set():
                return
            target.sendall(data)
    except OSError:
        return


def test_exit_status_without_end_of_output(keys: Keys) -> None:
    """A server that forgets to close the channel makes a timeout, not a hang."""

    def only_status(channel: paramiko.Channel) -> None:
        channel.sendall(b"text")
        channel.send_exit_status(0)

    with (
        server_for(keys, instead=only_status) as (sock, _),
        connect(keys, sock) as client,
        pytest.raises(CommandTimeout) as caught,
    ):
        client.run("x", soon(0.5))
    assert caught.value.stdout == b"text"
