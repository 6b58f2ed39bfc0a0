"""A domain as a test, a benchmark or the command line holds it: plain synchronous calls, from definition to death."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial

from harness.backend.network_client import NetworkClient
from harness.domain import disks, networks
from harness.domain.definition import Disk, Network
from harness.domain.leases import Lease
from harness.domain.life import DomainLife, DomainState
from harness.domain.networks import AttachedNetwork
from harness.guest.completed import Completed
from harness.guest.ssh import SshClient
from harness.host.deadline import Deadline
from harness.host.errors import UsageError
from harness.host.interruption import cut
from harness.machine import loop

EXECUTE_SECONDS = 60.0
SSH_SECONDS = 60.0
SSH_PORT = 22
ATTACH_SECONDS = 60.0
DETACH_SECONDS = 10.0
"""What a guest gets to let go of a device; one that is in use it keeps for as long as it likes."""

ANY_CARD = Network("pv")


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
        return self.session.execute(argv, stdin=stdin, env=env, timeout=timeout, asker=asker)

    def start_service(self, argv: Sequence[str]) -> None:
        """Start a command that goes on in the background until the guest ends."""
        self.execute(["sh", "-c", '"$@" </dev/null >/dev/null 2>&1 &', "sh", *argv]).check()

    def read_file(self, path: str, *, timeout: float = EXECUTE_SECONDS) -> bytes:
        """The content of a file in the guest."""
        self._require(DomainState.RUNNING)
        deadline = Deadline(timeout, f"reading {path} in domain {self.name}")
        return self.session.guarded(self.session.agent.read_file(path, deadline), deadline)

    def write_file(self, path: str, content: bytes, *, timeout: float = EXECUTE_SECONDS) -> None:
        """Create a file in the guest, or replace the content of one."""
        self._require(DomainState.RUNNING)
        deadline = Deadline(timeout, f"writing {path} in domain {self.name}")
        self.session.guarded(self.session.agent.write_file(path, content, deadline), deadline)

    def connect(self, port: int, *, card: int = 0, timeout: float = SSH_SECONDS) -> socket.socket:
        """A TCP connection from the host to the guest, over one of its network cards.

        :raise OSError: nobody listens there.
        """
        connection = self.network.socket(socket.AF_INET, socket.SOCK_STREAM)
        connection.settimeout(timeout)
        try:
            with self.session.watched(partial(cut, connection)):
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
            guard=self.session.watched,
        )

    @property
    def targets(self) -> list[str]:
        """The names of all disks that it has now."""
        return [disk.target for disk in self._all_disks]

    @property
    def _all_disks(self) -> list[Disk]:
        return [*(one.disk for one in self.parts.disks), *self.parts.held.served_disks]

    def device(self, target: str) -> str:
        """The guest's device file of a disk.

        :param target: of the disk, as in the definition.
        :raise UsageError: the domain has no such disk.
        """
        disk = next((one for one in self._all_disks if one.target == target), None)
        if disk is None:
            raise UsageError(f"domain {self.name} has no disk {target}")
        if disk.model == "ide":
            return disks.ide_device(target, self.execute(disks.LIST_SCSI_DISKS).check().text)
        if disk.model == "virtio":
            return disks.virtio_device(target, self.execute(disks.LIST_VIRTIO_DISKS).check().text)
        return f"/dev/{target}"

    # -- looking at its rings, of paravirtual domains ------------------------------------------------------------------

    def observe(self, word: bytes) -> socket.socket:
        """A stream that the backend process answers on, see :mod:`harness.backend.observe`."""
        paravirtual = self.parts.paravirtual
        if paravirtual is None:
            raise UsageError(
                f"domain {self.name} has no rings: its devices are emulated",
                hint="create one that has: harness create guests/pv.yaml",
            )
        return paravirtual.backend.observe(word)

    def trace_guest(self, connection: socket.socket, started: Callable[[], None]) -> None:
        """Have the frontends' trace, lines of text, sent to a connection until its peer hangs up.

        :param started: called when they are being traced.
        :raise AgentError: the guest's kernel cannot be traced.
        """
        self._require(DomainState.RUNNING)
        self.session.trace_guest(connection, started)

    # -- devices that come and go, of paravirtual domains --------------------------------------------------------------

    def attach_disk(
        self,
        disk: Disk,
        *,
        shared_lease: Lease | None = None,
        timeout: float = ATTACH_SECONDS,
        asker: socket.socket | None = None,
    ) -> None:
        """Plug a disk in; returns when the guest has it, as :meth:`device` tells. When this fails, nothing is left.

        :param shared_lease: held by the caller on the image, which others have, too.
        :param asker: as for :meth:`execute`.
        :raise UsageError: the image or the target is in use, or of no use.
        :raise HostError: the backend cannot serve the disk; says why.
        """
        self._require(DomainState.RUNNING)
        deadline = Deadline(timeout, f"attaching {disk.target} to domain {self.name}")

        def settle() -> None:
            self.session.execute(disks.wait_for([disk.target]), timeout=deadline.left).check()

        self._plugs.attach_disk(disk, settle, deadline, partial(self._wanted_by, asker), shared_lease)

    def detach_disk(self, target: str, *, force: bool = False, timeout: float = DETACH_SECONDS) -> None:
        """Unplug a disk, and give its image free.

        :param force: take it away from the guest also while it is in use there.
        :raise GuestError: after ``timeout`` seconds the guest is still using it. It goes when the guest lets go of it.
        """
        self._require(DomainState.RUNNING)
        deadline = Deadline(timeout, f"detaching {target} from domain {self.name}")
        self._wait_forgotten(self._plugs.detach_disk(target, deadline, force=force))

    def resize_disk(
        self,
        target: str,
        size: int | None = None,
        *,
        timeout: float = ATTACH_SECONDS,
        asker: socket.socket | None = None,
    ) -> int:
        """Let a disk grow, its image first; the guest sees that while it uses the disk. Returns the size in bytes.

        :param size: bytes; None for the size that the image has got by other means.
        :raise UsageError: it is no size for this disk, or less than it has.
        """
        self._require(DomainState.RUNNING)
        deadline = Deadline(timeout, f"resizing {target} of domain {self.name}")
        return self._plugs.resize_disk(target, size, deadline, partial(self._wanted_by, asker))

    def attach_network(
        self, network: Network = ANY_CARD, *, timeout: float = ATTACH_SECONDS, asker: socket.socket | None = None
    ) -> AttachedNetwork:
        """Plug a network card in; returns when the guest has it and has given it its address.

        :raise HostError: there is no private network to be had, or the MAC address is in use.
        """
        self._require(DomainState.RUNNING)
        deadline = Deadline(timeout, f"attaching a network card to domain {self.name}")

        def configure(card: AttachedNetwork) -> None:
            self.session.execute(networks.configuration(card, self.network), timeout=deadline.left).check()

        wanted = partial(self._wanted_by, asker)
        return self._plugs.attach_network(network, self._join_network, configure, deadline, wanted)

    def detach_network(self, which: str, *, force: bool = False, timeout: float = DETACH_SECONDS) -> None:
        """Unplug a network card; as :meth:`detach_disk`.

        :param which: its MAC address or its number.
        """
        self._require(DomainState.RUNNING)
        deadline = Deadline(timeout, f"detaching card {which} from domain {self.name}")
        self._wait_forgotten(self._plugs.detach_network(which, deadline, force=force))

    def _join_network(self) -> NetworkClient:
        """The private network, which a domain without cards has not joined yet."""
        held = self.parts.held
        if held.network is None:
            held.network = self._stack.enter_context(NetworkClient.connect())
            loop.get().call_soon_threadsafe(self.session.watch_network, held.network)
        return held.network

    @contextmanager
    def _wanted_by(self, asker: socket.socket | None, interrupt: Callable[[], object]) -> Iterator[None]:
        """Wait for the guest inside for as long as it is all right, and somebody wants that.

        :param asker: a connection; when its peer hangs up, the wait is interrupted.
        """
        with self.session.watched(interrupt), loop.on_hang_up(asker, interrupt):
            yield
