"""The control socket: its server in front of a domain that only pretends, its client in front of that."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from harness.backend.network_client import Lease
from harness.bus.features import BlockFeatures
from harness.domain import logs, messages, records, remote
from harness.domain.control import ControlServer
from harness.domain.definition import Disk, Network
from harness.domain.domain import Domain
from harness.domain.life import DomainState
from harness.domain.networks import AttachedNetwork
from harness.domain.remote import RemoteDomain
from harness.guest.completed import Completed
from harness.guest.console import ConsoleLog
from harness.host.errors import GuestCrashed, GuestError, HostError, UsageError
from harness.machine import loop

SECONDS = 10.0


class FakeDomain:
    """What the server uses of a domain."""

    def __init__(self, record: records.Record, console_log: Path) -> None:
        self.name = record.name
        self.state = DomainState.RUNNING
        self.parts = SimpleNamespace(record=record)
        self.calls: list[Any] = []
        self.has_pv_consoles = False
        self.release = threading.Event()
        self.asker: socket.socket | None = None
        self.console = loop.run(self._make_console(console_log))
        self.image = SimpleNamespace(ssh_host_key="ssh-ed25519 AAAA", ssh_client_key=Path("/key"))
        self.guest = socket.socketpair()

    @staticmethod
    async def _make_console(log: Path) -> ConsoleLog:
        return ConsoleLog(log)

    @property
    def pv_consoles(self) -> list[ConsoleLog]:
        if not self.has_pv_consoles:
            raise UsageError("it has none", hint="take the other")
        return [self.console]

    def execute(self, argv: list[str], *, stdin: bytes, timeout: float, asker: socket.socket) -> Completed:
        self.calls.append((argv, stdin, timeout))
        if argv[0] == "wait":
            assert self.release.wait(SECONDS)
        if argv[0] == "crash":
            raise GuestCrashed("it crashed", console=["its last line"])
        if argv[0] == "hang":
            loop.run(loop.while_connected(asyncio.sleep(SECONDS), asker))
        return Completed(tuple(argv), None, 9, stdin, b"\xff", truncated=True)

    def pause(self) -> None:
        self.calls.append("pause")

    def power_off(self, timeout: float) -> None:
        self.calls.append(("power_off", timeout))
        assert self.release.wait(SECONDS)

    def end(self) -> None:
        self.calls.append("end")
        self.release.set()

    def attach_disk(self, disk: Disk, *, asker: socket.socket) -> None:
        self.calls.append(disk)
        loop.run(loop.while_connected(asyncio.sleep(0), asker))

    def detach_disk(self, target: str, *, force: bool, timeout: float) -> None:
        self.calls.append((target, force, timeout))
        if not force:
            raise GuestError(f"it is still using {target}", hint="--force")

    def resize_disk(self, target: str, size: int | None, *, asker: socket.socket) -> int:
        self.calls.append((target, size))
        return size or 4096

    def attach_network(self, network: Network, *, asker: socket.socket) -> AttachedNetwork:
        self.calls.append(network)
        return AttachedNetwork(network, Lease("10.77.0.9", "00:16:3e:00:00:09"), 1)

    def detach_network(self, which: str, *, force: bool, timeout: float) -> None:
        self.calls.append((which, force, timeout))

    def connect(self, port: int, *, timeout: float) -> socket.socket:
        self.calls.append(("connect", port, timeout))
        if self.state is DomainState.RUNNING and timeout < 1:
            raise TimeoutError("timed out")
        return self.guest[0]


@pytest.fixture
def domain(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeDomain]:
    monkeypatch.setenv("HARNESS_RUNTIME", str(tmp_path / "r"))
    monkeypatch.setenv("HARNESS_CACHE", str(tmp_path / "c"))
    claim = records.claim("fake", "hvm", tmp_path)
    yield FakeDomain(claim.record, tmp_path / "console.log")
    claim.release()


@pytest.fixture
def server(domain: FakeDomain) -> Iterator[ControlServer]:
    server = ControlServer(cast(Domain, domain))
    yield server
    server.close()


@pytest.fixture
def client(server: ControlServer) -> RemoteDomain:
    return remote.find("fake")


def test_a_command_and_its_outcome_pass(domain: FakeDomain, client: RemoteDomain) -> None:
    done = client.execute(["a", "b c", ""], stdin=b"\0\xfe", timeout=3.5)
    assert done == Completed(("a", "b c", ""), None, 9, b"\0\xfe", b"\xff", truncated=True)
    assert domain.calls == [(["a", "b c", ""], b"\0\xfe", 3.5)]


def test_errors_pass(client: RemoteDomain) -> None:
    with pytest.raises(GuestError, match="it crashed\n  last console lines:\n    its last line"):
        client.execute(["crash"])


def test_devices_are_attached_as_their_settings_say(domain: FakeDomain, client: RemoteDomain) -> None:
    client.attach_disk({"target": "xvdb", "size": "1MiB", "features.discard": "false"})
    assert client.attach_network({"mtu": "9000"}) == (1, "00:16:3e:00:00:09", "10.77.0.9")
    assert domain.calls == [
        Disk("xvdb", "pv", None, 1 << 20, features=BlockFeatures(discard=False)),
        Network("pv", mtu=9000),
    ]
    with pytest.raises(UsageError, match="did you mean 'size'"):
        client.attach_disk({"target": "xvdb", "sise": "1MiB"})
    assert len(domain.calls) == 2


def test_devices_are_detached_and_grow(domain: FakeDomain, client: RemoteDomain) -> None:
    with pytest.raises(GuestError, match="still using xvdb"):
        client.detach_disk("xvdb", timeout=1.5)
    client.detach_disk("xvdb", force=True)
    client.detach_network("0", timeout=2)
    assert client.resize_disk("xvda", 8192) == 8192
    assert client.resize_disk("xvda") == 4096
    assert domain.calls == [
        ("xvdb", False, 1.5),
        ("xvdb", True, 10.0),
        ("0", False, 2.0),
        ("xvda", 8192),
        ("xvda", None),
    ]


def test_settings_are_text(server: ControlServer, domain: FakeDomain) -> None:
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(str(domain.parts.record.control_socket))
        messages.send(connection, {"op": "attach-disk", "settings": {"target": 1}})
        answer = messages.receive(connection, messages.MAX_ANSWER)
    assert answer is not None
    assert answer.fields["error"] == "settings is no object of strings"


def test_a_long_command_holds_up_nobody(domain: FakeDomain, client: RemoteDomain) -> None:
    waiting = threading.Thread(target=client.execute, args=(["wait"],))
    waiting.start()
    assert client.execute(["quick"]).argv == ("quick",)
    client.pause()
    assert waiting.is_alive()
    domain.release.set()
    waiting.join(SECONDS)
    assert not waiting.is_alive()


def test_a_command_ends_with_whoever_asked_for_it(domain: FakeDomain, client: RemoteDomain) -> None:
    connection = socket.socket(socket.AF_UNIX)
    connection.connect(str(client.record.control_socket))
    messages.send(connection, {"op": "execute", "argv": ["hang"], "stdin": "", "timeout": 60})
    connection.shutdown(socket.SHUT_WR)
    connection.settimeout(SECONDS / 2)
    answer = messages.receive(connection, 1000)
    connection.close()
    assert answer is not None
    assert answer.fields["error"] == "whoever asked for it has gone"


def test_destroy_interrupts_a_shutdown_and_nothing_else_does(domain: FakeDomain, client: RemoteDomain) -> None:
    shutting_down = threading.Thread(target=client.shutdown, args=(7.0,), daemon=True)
    shutting_down.start()
    while ("power_off", 7.0) not in domain.calls:
        assert shutting_down.is_alive()
    with pytest.raises(UsageError, match="is being paused, unpaused, saved or shut down already"):
        client.pause()
    with connected(client) as connection:
        messages.send(connection, {"op": "destroy"})
        assert messages.receive(connection, 1000) is not None
        # The connection is held until the owner has ended.
        connection.settimeout(0.1)
        with pytest.raises(TimeoutError):
            connection.recv(1)
    assert domain.calls[-1] == "end"


def test_the_console_becomes_a_stream(domain: FakeDomain, client: RemoteDomain) -> None:
    ours, theirs = socket.socketpair()
    reading = asyncio.run_coroutine_threadsafe(domain.console.run(ours), loop.get())
    theirs.settimeout(SECONDS)
    with client.open_console("serial") as stream:
        stream.settimeout(SECONDS)
        stream.sendall(b"typed")
        assert theirs.recv(100) == b"typed"
        # Whoever types is looking on already.
        theirs.sendall(b"shown\xff")
        assert stream.recv(100) == b"shown\xff"
        theirs.close()
        assert stream.recv(100) == b""
    reading.result(SECONDS)
    ours.close()


def test_consoles_that_are_not_there(domain: FakeDomain, client: RemoteDomain) -> None:
    with pytest.raises(UsageError, match="it has none\ntake the other"):
        client.open_console("pv")
    with pytest.raises(UsageError, match="no console 'vnc'; expected one of serial, pv"):
        client.open_console("vnc")
    domain.has_pv_consoles = True
    client.open_console("pv", 0).close()
    for number in (1, -1):
        with pytest.raises(UsageError, match=f"has no console {number}\nits last one is 0"):
            client.open_console("pv", number)


def test_ssh_hands_over_the_connection_and_the_keys(domain: FakeDomain, client: RemoteDomain) -> None:
    with connected(client) as connection:
        messages.send(connection, {"op": "ssh", "timeout": 5})
        answer = messages.receive(connection, 1000)
    assert answer is not None
    assert answer.fields == {"host_key": "ssh-ed25519 AAAA", "client_key": "/key"}
    with socket.socket(fileno=answer.descriptors[0]) as guest:
        domain.guest[1].sendall(b"SSH-2.0")
        assert guest.recv(10) == b"SSH-2.0"
    assert domain.calls == [("connect", 22, 5.0)]


def test_ssh_that_nobody_answers(domain: FakeDomain, client: RemoteDomain) -> None:
    with pytest.raises(GuestError, match="the SSH server of domain fake cannot be reached: timed out"):
        client.ssh(timeout=0.5)
    domain.state = DomainState.PAUSED
    with pytest.raises(UsageError, match="fake is paused, not running"):
        client.ssh()


@pytest.mark.parametrize(
    ("request_fields", "complaint"),
    [
        ({}, "op is missing, or no str"),
        ({"op": ["pause"]}, "op is missing, or no str"),
        ({"op": "__init__"}, "knows no request '__init__'"),
        ({"op": "execute"}, "argv is missing, or no list"),
        ({"op": "execute", "argv": [1], "stdin": "", "timeout": 1}, "argv is empty, or not a list of strings"),
        ({"op": "execute", "argv": ["a"], "stdin": "?", "timeout": 1}, "stdin is not base64"),
        ({"op": "execute", "argv": ["a"], "stdin": "", "timeout": -1}, "timeout is missing, or no number of seconds"),
        ({"op": "shutdown", "timeout": True}, "timeout is missing, or no number of seconds"),
        ({"op": "console", "which": 1}, "which is missing, or no str"),
    ],
)
def test_nonsense_is_refused_and_harms_nobody(
    request_fields: dict[str, object], complaint: str, domain: FakeDomain, client: RemoteDomain
) -> None:
    with connected(client) as connection:
        messages.send(connection, request_fields)
        answer = messages.receive(connection, 1000)
    assert answer is not None
    assert complaint in answer.fields["error"]
    assert answer.fields["exit_code"] == 2
    assert domain.calls == []
    client.pause()
    assert domain.calls == ["pause"]


def test_a_domain_without_a_control_socket(domain: FakeDomain) -> None:
    with pytest.raises(UsageError, match="domain fake takes no commands: it belongs to process"):
        remote.find("fake").pause()


def test_an_owner_that_has_gone(domain: FakeDomain, server: ControlServer) -> None:
    client = remote.find("fake")
    server.close()
    with pytest.raises(HostError, match=r"the owner of domain fake, process .*, has ended"):
        client.pause()


def test_how_a_domain_has_ended_is_told(domain: FakeDomain) -> None:
    with pytest.raises(UsageError) as never:
        remote.find("other")
    assert "has ended" not in str(never.value)
    for name, how in (("other", "it panicked"), ("another", "it slept"), ("other-1", "it ate")):
        logs.bury(logs.make(name), how)
    with pytest.raises(
        UsageError, match=r"no domain is called other; running: fake\n.*has ended: it panicked\nits logs: "
    ):
        remote.find("other")


@contextlib.contextmanager
def connected(client: RemoteDomain) -> Iterator[socket.socket]:
    """A connection to say something improper over."""
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(SECONDS)
        connection.connect(str(client.record.control_socket))
        yield connection
