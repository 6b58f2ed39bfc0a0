"""The private network: a real service in a real namespace, seen by its clients."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from harness.backend.namespace import guest_address
from harness.backend.net_addresses import Addresses
from harness.backend.network_client import NetworkClient
from harness.backend.tap import TUN_DEVICE
from harness.host.deadline import Deadline
from harness.host.errors import HostError

needs_tap = pytest.mark.skipif(
    not os.access(TUN_DEVICE, os.R_OK | os.W_OK), reason=f"{TUN_DEVICE} is missing or not writable for this user"
)


@pytest.fixture
def client(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[NetworkClient]:
    monkeypatch.setenv("HARNESS_RUNTIME", str(tmp_path))
    try:
        client = NetworkClient.connect()
    except HostError as error:
        pytest.skip(str(error))
    with client:
        yield client


def wait_until_gone(path: Path) -> None:
    deadline = Deadline(10, f"the removal of {path}")
    while path.exists():
        deadline.check()
        time.sleep(0.01)


def devices(client: NetworkClient) -> set[str]:
    """Names of the network devices inside the private network."""
    argv, descriptors = client.inside(["ip", "-brief", "link"])
    listing = subprocess.run(argv, pass_fds=descriptors, capture_output=True, text=True, check=True).stdout
    return {line.split()[0] for line in listing.splitlines()}


def test_the_host_answers_on_the_bridge_only(client: NetworkClient) -> None:
    with client.socket(socket.AF_INET, socket.SOCK_STREAM) as server:
        server.bind((client.host_address, 0))
        server.listen()
        port = server.getsockname()[1]
        with client.socket(socket.AF_INET, socket.SOCK_STREAM) as inside:
            inside.connect((client.host_address, port))
            assert server.accept()[1][0] == client.host_address
    outside = {name for _, name in socket.if_nameindex()}
    assert devices(client) == {"lo", client.bridge}
    assert client.bridge not in outside


def test_a_lease_is_nobody_elses(client: NetworkClient) -> None:
    with NetworkClient.connect() as other:
        mine, theirs, wanted = client.lease(), other.lease(), other.lease("52:54:00:00:00:09")
        assert len({mine.address, theirs.address, wanted.address}) == 3
        assert mine.mac != theirs.mac
        assert wanted.mac == "52:54:00:00:00:09"
        with pytest.raises(HostError, match="in use by another guest"):
            client.lease("52:54:00:00:00:09")
        other.release(wanted)
        assert client.lease("52:54:00:00:00:09").mac == "52:54:00:00:00:09"
        with pytest.raises(HostError, match="was not leased on this connection"):
            client.release(theirs)


def test_an_address_rests_before_it_is_used_again() -> None:
    addresses = Addresses()
    first, mac = addresses.take(None)
    addresses.give_back(first)
    others = [addresses.take(None) for _ in range(252)]
    assert first not in {address for address, _ in others}
    assert addresses.take(None) == (first, mac)
    with pytest.raises(HostError, match="all guest addresses"):
        addresses.take(None)
    assert guest_address(254) in {address for address, _ in others}


@pytest.mark.parametrize("mac", ["", "52:54:00:00:00", "01:00:5e:00:00:01", "52:54:00:00:00:0G", "52:54:00:00:00:0\n"])
def test_a_mac_that_is_none_is_refused(client: NetworkClient, mac: str) -> None:
    with pytest.raises(HostError, match="not the MAC address of a single card"):
        client.lease(mac)


@needs_tap
def test_a_tap_is_a_port_of_the_bridge_until_its_client_leaves(client: NetworkClient) -> None:
    with NetworkClient.connect() as other:
        descriptor = other.tap("vif7.0", vnet_hdr=True)
        assert "vif7.0" in devices(client)
        with pytest.raises(HostError, match=r"already has a device vif7\.0"):
            client.tap("vif7.0", vnet_hdr=False)
    # The descriptor is still open: the device goes with the connection all the same.
    deadline = Deadline(10, "the removal of vif7.0")
    while "vif7.0" in devices(client):
        deadline.check()
    os.close(descriptor)
    os.close(client.tap("vif7.0", vnet_hdr=False))


@needs_tap
@pytest.mark.parametrize("name", ["", "../x", "vif 1", "sixteen-letters-", "1.0", "a\nlink del br0"])
def test_a_device_name_is_checked(client: NetworkClient, name: str) -> None:
    with pytest.raises(HostError, match="no name for a TAP device"):
        client.tap(name, vnet_hdr=True)
    assert devices(client) == {"lo", client.bridge}


@needs_tap
def test_an_mtu_is_checked(client: NetworkClient) -> None:
    with pytest.raises(HostError, match="no MTU"):
        client.tap_queues("vif1.0", vnet_hdr=True, mtu=1 << 16, queues=1)


@needs_tap
@pytest.mark.parametrize("queues", [-1, 0, 9])
def test_a_number_of_queues_is_checked(client: NetworkClient, queues: int) -> None:
    with pytest.raises(HostError, match="no number of queues"):
        client.tap_queues("vif1.0", vnet_hdr=True, mtu=1500, queues=queues)
    assert devices(client) == {"lo", client.bridge}


@needs_tap
def test_a_tap_device_has_as_many_queues_as_it_is_asked_for(client: NetworkClient) -> None:
    descriptors = client.tap_queues("vif1.0", vnet_hdr=True, mtu=1500, queues=8)
    assert len(set(descriptors)) == 8
    assert "vif1.0" in devices(client)
    for descriptor in descriptors:
        os.close(descriptor)
    assert devices(client) == {"lo", client.bridge}


def say(sender: socket.socket, size: int, address: str) -> None:
    sender.sendto(bytes(size), (address, 9))


def sizes_of_ip_packets(tap: int) -> list[int]:
    """IP packets that a TAP device without VNET_HDR gives at once."""
    found: list[int] = []
    while True:
        try:
            packet = os.read(tap, 1 << 17)
        except BlockingIOError:
            return found
        if packet[12:14] == b"\x08\x00":
            found.append(len(packet) - 14)


def wait_until_forwarding(client: NetworkClient, port: str) -> None:
    """Wait until the bridge passes packets on to a port, which it does when the kernel has noticed that it is up."""
    argv, descriptors = client.inside(["bridge", "link", "show", "dev", port])
    deadline = Deadline(10.0, f"the bridge to forward to {port}")
    while b"state forwarding" not in subprocess.run(argv, pass_fds=descriptors, capture_output=True, check=True).stdout:
        deadline.check()


@needs_tap
def test_the_host_sends_each_guest_what_its_mtu_allows(client: NetworkClient) -> None:
    """The host's neighbours are entered by hand, since nobody answers its questions here."""
    plain, jumbo = client.lease(), client.lease()
    for lease in (plain, jumbo):
        entry = ["ip", "neigh", "add", lease.address, "lladdr", lease.mac, "dev", client.bridge]
        argv, descriptors = client.inside(entry)
        subprocess.run(argv, pass_fds=descriptors, check=True)
    # Only one port each time: what is for a MAC not seen yet goes to every port.
    with client.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
        tap = client.tap("vif1.0", vnet_hdr=False)
        wait_until_forwarding(client, "vif1.0")
        say(sender, 3000, plain.address)
        assert sorted(sizes_of_ip_packets(tap)) == [68, 1500, 1500]
        os.close(tap)
        for mtu in (9000, 65521):
            (tap,) = client.tap_queues("vif2.0", vnet_hdr=False, mtu=mtu, queues=1, mac=jumbo.mac)
            wait_until_forwarding(client, "vif2.0")
            say(sender, min(mtu, 65535 - 28) - 28, jumbo.address)
            assert sizes_of_ip_packets(tap) == [min(mtu, 65535 - 28)]
            client.remove_tap("vif2.0")
            os.close(tap)
        tap = client.tap("vif2.0", vnet_hdr=False)
        wait_until_forwarding(client, "vif2.0")
        say(sender, 3000, jumbo.address)
        assert sorted(sizes_of_ip_packets(tap)) == [68, 1500, 1500]
        os.close(tap)


@needs_tap
def test_the_name_of_a_killed_clients_device_is_free_at_once(client: NetworkClient) -> None:
    """As for the successor of a backend process that has died."""
    program = (
        "import signal; from harness.backend.network_client import NetworkClient as N;"
        "c = N.connect(); c.tap_queues('vif3.0', vnet_hdr=True, mtu=9000, queues=2); print('made', flush=True);"
        "signal.pause()"
    )
    for _ in range(3):
        with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE) as victim:
            assert victim.stdout is not None
            assert victim.stdout.readline()
            victim.send_signal(signal.SIGKILL)
        with NetworkClient.connect() as successor:
            os.close(successor.tap("vif3.0", vnet_hdr=True))
            successor.remove_tap("vif3.0")


@pytest.mark.parametrize(
    ("line", "complaint"),
    [
        (b"nonsense\n", "not JSON"),
        (b"[1]\n", "JSON object"),
        (b'{"op": "fly"}\n', "no operation 'fly'"),
        (b'{"op": {}}\n', "no operation {}"),
        (b'{"op": "tap", "name": 3}\n', "wants name to be a str"),
        (b'{"op": "tap", "name": "x", "mtu": true}\n', "wants mtu to be a int"),
        (b'{"op": "socket", "kind": "packet"}\n', "no kind of socket"),
        (b"[" * 4000 + b"\n", "not JSON"),
    ],
)
def test_nonsense_is_answered_with_what_is_wrong(
    client: NetworkClient, tmp_path: Path, line: bytes, complaint: str
) -> None:
    with socket.socket(socket.AF_UNIX) as raw:
        raw.connect(str(tmp_path / "network.sock"))
        raw.sendall(line)
        assert complaint in raw.recv(65536).decode()
        raw.sendall(b'{"op": "describe"}\n')
        assert b'"ok": true' in raw.recv(65536)


def test_an_endless_line_ends_the_connection_only(client: NetworkClient, tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as raw:
        raw.connect(str(tmp_path / "network.sock"))
        with contextlib.suppress(ConnectionError):
            raw.sendall(b"x" * 100_000)
        with contextlib.suppress(ConnectionError):
            assert raw.recv(1) == b""
    assert client.lease().address


def test_the_service_ends_with_its_last_client(client: NetworkClient, tmp_path: Path) -> None:
    with NetworkClient.connect():
        client.close()
        assert (tmp_path / "network.sock").exists()
    wait_until_gone(tmp_path / "network.sock")
    with NetworkClient.connect() as again:
        assert again.lease().address == guest_address(2)


def test_a_killed_client_leaves_nothing(client: NetworkClient, tmp_path: Path) -> None:
    program = (
        "import signal; from harness.backend.network_client import NetworkClient as N;"
        "c = N.connect(); print(c.lease('52:54:00:00:00:07').address, flush=True); signal.pause()"
    )
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE) as victim:
        assert victim.stdout is not None
        assert victim.stdout.readline()
        client.close()
        victim.send_signal(signal.SIGKILL)
    wait_until_gone(tmp_path / "network.sock")
    assert list(tmp_path.iterdir()) == []
