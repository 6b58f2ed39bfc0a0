"""A domain as a test, a benchmark or the command line holds it: plain synchronous calls, from definition to death."""

from __future__ import annotations

import socket
from collections.abc import Mapping, Sequence
from functools import partial

from harness.domain import disks
from harness.domain.life import DomainLife, DomainState
from harness.guest.completed import Completed
from harness.guest.ssh import SshClient
from harness.host.deadline import Deadline
from harness.host.errors import UsageError
from harness.host.interruption import cut

EXECUTE_SECONDS = 60.0
SSH_SECONDS = 60.0
SSH_PORT = 22


class Domain(DomainLife):
    """One domain, from its launch until it is destroyed. Use it as a context manager: it is destroyed at the end.

    Its life is in :class:`harness.domain.life.DomainLife`, which also tells what it is made of; this is what there is
    to do with its guest. Every call raises, besides what it says itself:

    :raise UsageError: the domain is not in a state that allows the call.
    :raise GuestError: the guest crashed, ended, or did not answer in time; with its last console lines.
    :raise HostError: a process that serves the domain ended.
    """

    def execute(
        self,
        argv: Sequence[str],
        *,
        stdin: bytes = b"",
        env: Mapping[str, str] | None = None,
        timeout: float = EXECUTE_SECONDS,
        asker: socket.socket | None = None,
    ) -> Completed:
        """Run a command in the guest to its end; its exit status is in what is returned.

        May be called from several threads at once.

        :param asker: a connection that sends nothing more; when its peer hangs up, the command is killed.
        :raise CommandTimeout: it was still running after ``timeout`` seconds and has been killed.
        """
        self._require(DomainState.RUNNING)
        return self._running.execute(argv, stdin=stdin, env=env, timeout=timeout, asker=asker)

    def start_service(self, argv: Sequence[str]) -> None:
        """Start a command that goes on in the background until the guest ends."""
        self.execute(["sh", "-c", '"$@" </dev/null >/dev/null 2>&1 &', "sh", *argv]).check()

    def read_file(self, path: str, *, timeout: float = EXECUTE_SECONDS) -> bytes:
        """The content of a file in the guest."""
        self._require(DomainState.RUNNING)
        deadline = Deadline(timeout, f"reading {path} in domain {self.name}")
        return self._running.guarded(self._running.agent.read_file(path, deadline), deadline)

    def write_file(self, path: str, content: bytes, *, timeout: float = EXECUTE_SECONDS) -> None:
        """Create a file in the guest, or replace the content of one."""
        self._require(DomainState.RUNNING)
        deadline = Deadline(timeout, f"writing {path} in domain {self.name}")
        self._running.guarded(self._running.agent.write_file(path, content, deadline), deadline)

    def connect(self, port: int, *, card: int = 0, timeout: float = SSH_SECONDS) -> socket.socket:
        """A TCP connection from the host to the guest, over one of its network cards.

        :raise OSError: nobody listens there.
        """
        connection = self.network.socket(socket.AF_INET, socket.SOCK_STREAM)
        connection.settimeout(timeout)
        try:
            with self._running.watched(partial(cut, connection)):
                connection.connect((self.addresses[card], port))
        except BaseException:
            connection.close()
            raise
        return connection

    def ssh(self, *, card: int = 0, timeout: float = SSH_SECONDS) -> SshClient:
        """Log in over the network card under test; the image's own host key is insisted on."""
        self._require(DomainState.RUNNING)
        deadline = Deadline(timeout, f"an SSH login on domain {self.name}")
        return SshClient.connect(
            self.connect(SSH_PORT, card=card, timeout=deadline.left),
            host_key=self.image.ssh_host_key,
            client_key=self.image.ssh_client_key,
            deadline=deadline,
            guard=self._running.watched,
        )

    def device(self, target: str) -> str:
        """The guest's device file of a disk.

        :param target: of the disk in the definition.
        :raise UsageError: the domain has no such disk.
        """
        disk = next((disk for disk in self.definition.disks if disk.target == target), None)
        if disk is None:
            raise UsageError(f"domain {self.name} has no disk {target}")
        if disk.model == "ide":
            return disks.ide_device(target, self.execute(disks.LIST_SCSI_DISKS).check().text)
        if disk.model == "virtio":
            return disks.virtio_device(target, self.execute(disks.LIST_VIRTIO_DISKS).check().text)
        return f"/dev/{target}"
