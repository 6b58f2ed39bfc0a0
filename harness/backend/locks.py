"""The socket by which the owner of a domain sends descriptors to its backend process.

Most are locks. An image's lease is a set of descriptors (:mod:`harness.domain.leases`). The owner has them, and the
backend process holds duplicates: should the owner be killed, the image stays locked until its backend is dead, too.

The others are sockets of those who want to look into the process (:mod:`harness.backend.observe`).
"""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Sequence

from harness.host.deadline import Deadline

MAX_NAME = 4096
MAX_DESCRIPTORS = 16
DONE = b"done"
RELEASE_SECONDS = 10.0
LOCK, OBSERVE = b"L", b"O"
"""What a message begins with; the name of an image follows, or what an observer wants."""


class LockSender:
    """The owner's end, made anew for each backend process.

    :ivar theirs: the end for the process to inherit.
    """

    def __init__(self) -> None:
        self._ours, self.theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)

    def hold(self, name: str, descriptors: Sequence[int]) -> None:
        """Have the process hold duplicates of descriptors, also before it runs. A process that has ended holds nothing.

        :param name: of an image, for :meth:`release`.
        """
        self._send(LOCK + _encoded(name), descriptors)

    def release(self, name: str) -> None:
        """Have the process close what it holds for an image; returns when it has, or has ended.

        :raise DeadlineExpired: it does not answer.
        """
        if not self._send(LOCK + _encoded(name), ()):
            return
        deadline = Deadline(RELEASE_SECONDS, f"the release of {name} by the backend process")
        self._ours.settimeout(deadline.check())
        try:
            self._ours.recv(len(DONE))
        except TimeoutError:
            raise deadline.error() from None
        except ConnectionError:
            return

    def observe(self, word: bytes, descriptor: int) -> bool:
        """Have the process answer an observer; False when it has ended.

        :param word: what is wanted, of ``harness.backend.observe.WORDS``.
        :param descriptor: one end of a stream socket, for the process to duplicate.
        """
        return self._send(OBSERVE + word, [descriptor])

    def _send(self, message: bytes, descriptors: Sequence[int]) -> bool:
        try:
            socket.send_fds(self._ours, [message], descriptors)
        except ConnectionError:
            return False
        return True

    def close(self) -> None:
        self._ours.close()
        self.theirs.close()


def _encoded(name: str) -> bytes:
    return name.encode(errors="surrogateescape")[: MAX_NAME - 1]


class Locks:
    """The backend process's end.

    :param descriptor: of the socket, which it owns from now on.
    :param observed: called with what an observer wants, and a socket to answer it on.
    """

    def __init__(self, descriptor: int, observed: Callable[[bytes, int], None]) -> None:
        self._observed = observed
        self._channel = socket.socket(fileno=descriptor)
        self._channel.setblocking(False)
        self._held: dict[bytes, list[int]] = {}

    def fileno(self) -> int:
        return self._channel.fileno()

    def receive(self) -> bool:
        """Take in what has come; False when the owner has gone, and this process is about to follow."""
        try:
            name, descriptors, _, _ = socket.recv_fds(self._channel, MAX_NAME, MAX_DESCRIPTORS)
        except BlockingIOError:
            return True
        if not name:
            return False
        if name.startswith(OBSERVE):
            for descriptor in descriptors:
                self._observed(name[len(OBSERVE) :], descriptor)
            return True
        for descriptor in self._held.pop(name, []):
            os.close(descriptor)
        if descriptors:
            self._held[name] = list(descriptors)
        else:
            self._channel.send(DONE)
        return True
