"""The private network: a network namespace with one bridge, to which guests are attached by TAP ports."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import socket
from pathlib import Path

from harness.backend.tap import open_tap
from harness.host.deadline import Deadline
from harness.host.directories import runtime
from harness.host.errors import HarnessError, HostError
from harness.host.process import run

BRIDGE = "br0"
BRIDGE_OPTIONS = "stp_state 0 forward_delay 0 mcast_snooping 0"
HOST_ADDRESS = "10.77.0.1"
NETWORK = "10.77.0.0"
PREFIX = 24
MTU = 1500
MIN_MTU = 68
MAX_MTU = 65521
"""What netif.h lets a packet have, less its Ethernet header."""
MAX_QUEUES = 8

CLONE_NEWUSER = 0x10000000
CLONE_NEWNET = 0x40000000

IP_SECONDS = 20.0
"""An `ip` run takes milliseconds; on a loaded machine, not this long."""


def guest_address(number: int) -> str:
    """IPv4 address of the guest with that number (2..254)."""
    return f"10.77.0.{number}"


def guest_mac(number: int) -> str:
    """The MAC that always goes with that address, so that nobody's ARP cache ever holds a stale pair."""
    return f"00:16:3e:4d:00:{number:02x}"


def _unshare(flags: int) -> None:
    # os.unshare exists only from Python 3.12 on.
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(ctypes.c_int(flags)) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


def _become_root_of_user_namespace() -> None:
    uid, gid = os.getuid(), os.getgid()
    # Inside we are root, but our files stay where the user's are.
    os.environ["HARNESS_RUNTIME"] = str(runtime())
    _unshare(CLONE_NEWUSER | CLONE_NEWNET)
    Path("/proc/self/setgroups").write_text("deny")
    Path("/proc/self/uid_map").write_text(f"0 {uid} 1")
    Path("/proc/self/gid_map").write_text(f"0 {gid} 1")


def _ip(*commands: str, force: bool = False) -> None:
    argv = ["ip", *(["-force"] if force else []), "-batch", "-"]
    run("configuring the private network", argv, Deadline(IP_SECONDS, "ip"), stdin="\n".join(commands).encode())


class Namespace:
    """This process's own network namespace, made by :meth:`enter`; there is one per process.

    :ivar own_user: it belongs to a user namespace of its own, since the user is not root.
    """

    def __init__(self, *, own_user: bool) -> None:
        self.own_user = own_user

    @classmethod
    def enter(cls) -> Namespace:
        """Move this (single-threaded) process into a new network namespace and build the bridge.

        :raise HostError: the kernel does not let us, or `ip` is missing.
        """
        own_user = False
        try:
            try:
                _unshare(CLONE_NEWNET)
            except PermissionError:
                own_user = True
                _become_root_of_user_namespace()
        except OSError as error:
            raise HostError(
                f"cannot create a network namespace: {error.strerror}",
                hint="run as root, or allow user namespaces: sysctl user.max_user_namespaces=10000",
            ) from error
        # Absent without IPv6, read-only in some containers: then guests merely see a few router solicitations.
        with contextlib.suppress(OSError):
            Path("/proc/sys/net/ipv6/conf/default/disable_ipv6").write_text("1")
        _ip(
            "link set lo up",
            # A fixed address: else the bridge's changes with its ports and breaks connections.
            f"link add {BRIDGE} address {guest_mac(1)} type bridge {BRIDGE_OPTIONS}",
            # The bridge passes what any port may have. What the host sends is for its receiver's MTU: see route().
            f"link set {BRIDGE} mtu {MAX_MTU} up",
            f"addr add {HOST_ADDRESS}/{PREFIX} dev {BRIDGE} noprefixroute",
            f"route add {NETWORK}/{PREFIX} dev {BRIDGE} src {HOST_ADDRESS} mtu {MTU}",
        )
        return cls(own_user=own_user)

    def add_tap(self, name: str, *, vnet_hdr: bool, mtu: int, queues: int) -> list[int]:
        """Make a TAP port of the bridge; the caller closes the descriptors, one for each queue.

        :raise HostError: the name is taken, or there is no usable /dev/net/tun.
        """
        if name in {device for _, device in socket.if_nameindex()}:
            raise HostError(f"the private network already has a device {name}")
        try:
            descriptors = open_tap(name, vnet_hdr=vnet_hdr, queues=queues)
        except OSError as error:
            missing = error.errno in (errno.ENOENT, errno.ENODEV)
            hint = "modprobe tun" if missing else "make /dev/net/tun readable and writable for this user"
            raise HostError(f"cannot create the TAP device {name}: {error.strerror}", hint=hint) from error
        try:
            _ip(f"link set dev {name} mtu {mtu} master {BRIDGE}", f"link set dev {name} up")
        except BaseException:
            for descriptor in descriptors:
                os.close(descriptor)
            raise
        return descriptors

    def route(self, address: str, mtu: int) -> None:
        """Have the host send packets of up to that size to a guest whose MTU is not the network's."""
        _ip(f"route replace {address}/32 dev {BRIDGE} src {HOST_ADDRESS} mtu {mtu}")

    def forget_route(self, address: str) -> None:
        """The network's MTU is that guest's again."""
        # It has gone by itself if the bridge has.
        with contextlib.suppress(HarnessError):
            _ip(f"route del {address}/32 dev {BRIDGE}", force=True)

    def remove_taps(self, names: set[str]) -> None:
        """Remove those of the TAP devices that still exist, whoever else holds a descriptor of them."""
        existing = names & {device for _, device in socket.if_nameindex()}
        if existing:
            # A device goes by itself when its last descriptor closes, which may happen right now.
            with contextlib.suppress(HarnessError):
                _ip(*(f"link del dev {name}" for name in sorted(existing)), force=True)

    def forget_neighbours(self, addresses: set[str]) -> None:
        """Drop what the bridge has learnt about guests that are gone, for the next owner of their addresses."""
        if addresses:
            # Should that fail, the kernel finds out by itself, only later.
            with contextlib.suppress(HarnessError):
                _ip(*(f"neigh flush to {address} dev {BRIDGE}" for address in sorted(addresses)), force=True)

    def descriptors(self) -> list[int]:
        """New descriptors of the network namespace and, if it has its own, its user namespace; the caller closes."""
        kinds = ["net", "user"] if self.own_user else ["net"]
        return [os.open(f"/proc/self/ns/{kind}", os.O_RDONLY | os.O_CLOEXEC) for kind in kinds]
