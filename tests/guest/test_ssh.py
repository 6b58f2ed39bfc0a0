"""SSH into each guest, over its own network card."""

from __future__ import annotations

import random
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import paramiko
import pytest

from harness.domain.domain import SSH_PORT, Domain
from harness.guest.completed import CommandFailed, CommandTimeout
from harness.guest.ssh import SshClient, SshError
from harness.host.deadline import Deadline

MIB = 1 << 20


def soon() -> Deadline:
    return Deadline(60, "a command over SSH")


@pytest.fixture
def ssh(domain: Domain) -> Iterator[SshClient]:
    with domain.ssh() as client:
        yield client


def test_it_goes_over_the_network_card(domain: Domain, ssh: SshClient) -> None:
    client, _, server, port = ssh.run('echo "$SSH_CONNECTION"', soon()).check().text.split()
    assert (client, server, int(port)) == (domain.network.host_address, domain.addresses[0], SSH_PORT)


def test_streams_and_exit_status(ssh: SshClient) -> None:
    completed = ssh.run("echo out; echo err >&2; exit 3", soon())
    assert (completed.status, completed.stdout, completed.stderr) == (3, b"out\n", b"err\n")
    with pytest.raises(CommandFailed, match="exited with status 3"):
        completed.check()
    # A sequence reaches the program as it is, whatever the guest's shell would make of it.
    assert ssh.run(["printf", "%s|", "a b", "$HOME", "'", "*"], soon()).check().stdout == b"a b|$HOME|'|*|"


def test_a_mebibyte_of_anything_goes_in_and_comes_back(ssh: SshClient) -> None:
    content = random.Random(1).randbytes(MIB) + bytes(range(256))
    assert ssh.run("cat", soon(), stdin=content).check().stdout == content


def test_files(ssh: SshClient) -> None:
    content = random.Random(2).randbytes(MIB)
    ssh.put("/tmp/a file", content, soon())
    assert ssh.get("/tmp/a file", soon()) == content
    with pytest.raises(CommandFailed, match="no such file"):
        ssh.get("/tmp/missing", soon())


def test_several_commands_share_a_connection(ssh: SshClient) -> None:
    # Each needs something of the next, so that none ends unless all of them run at once.
    names = ["first", "second", "third", "fourth"]
    pairs = list(zip(names, [*names[1:], names[0]], strict=True))
    ssh.run("rm -f {0}; mkfifo {0}".format(" ".join(f"/tmp/{name}" for name in names)), soon()).check()

    def pass_on(pair: tuple[str, str]) -> bytes:
        own, other = pair
        return ssh.run(f"echo {own} >/tmp/{other} & cat /tmp/{own}", soon()).check().stdout

    with ThreadPoolExecutor() as pool:
        heard = list(pool.map(pass_on, pairs))
    assert heard == [b"fourth\n", b"first\n", b"second\n", b"third\n"]


def test_a_command_that_does_not_end(ssh: SshClient) -> None:
    with pytest.raises(CommandTimeout) as caught:
        ssh.run("echo begun; sleep 600", Deadline(2, "the end of a long sleep"))
    assert caught.value.stdout == b"begun\n"
    # The connection is as good as before.
    assert ssh.run("echo next", soon()).check().stdout == b"next\n"


def test_a_signal_ends_a_program(ssh: SshClient) -> None:
    # SIGINT is what Ctrl-C sends: nothing that started the server may have had it ignored.
    killed = ssh.run("kill -INT $$; echo survived", soon())
    assert (killed.status, killed.stdout) == (None, b"")


def test_another_host_key_is_refused(domain: Domain) -> None:
    # A valid key, of the right kind: but not the one that this guest has.
    other = paramiko.PKey.from_path(domain.image.ssh_client_key)
    assert other.get_name() == domain.image.ssh_host_key.split()[0]
    with pytest.raises(SshError, match="not the image's own"):
        SshClient.connect(
            domain.connect(SSH_PORT),
            soon(),
            host_key=f"{other.get_name()} {other.get_base64()}",
            client_key=domain.image.ssh_client_key,
        )
