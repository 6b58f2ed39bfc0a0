"""Frames, packets and streams over each kind of network card: nothing is lost, cut, changed or mixed up."""

from __future__ import annotations

import errno
import random
import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from dataclasses import replace
from hashlib import sha256

import pytest

from harness.domain.domain import Domain
from harness.pytest_plugin.plugin import StartDomain
from tests.guest.conftest import named
from tests.guest.icmp import ECHO_REQUEST, icmp
from tests.guest.tftp import tftp

MTU = 1500
LONGEST = MTU - 28
"""Payload of an echo that fills a frame: what the headers of IPv4 and ICMP leave of the MTU."""

SIZES = [0, 1, 17, 18, 19, 28, 63, 64, 65, 101, 255, 256, 512, 777, 1023, 1024, 1371, 1470, 1471, LONGEST]
"""Payloads of frames from the shortest that Ethernet has (18 fill 64 bytes) to the longest; many of them odd."""

STREAM = 8 << 20
PORT = 5000
SECONDS = 60.0

PING = 'for size in $2; do ping -q -c 1 -W 20 -p a5 -s "$size" "$1" || exit; done'
FRAGMENTS = r"sed -n 's/^Ip: \([0-9].*\)/\1/p' /proc/net/snmp"
SEND_AND_RECEIVE = """
head -c "$3" /dev/urandom >/tmp/sent &&
nc "$1" "$2" </tmp/sent >/tmp/received && sha256sum </tmp/sent && sha256sum </tmp/received
"""
SEND = 'head -c "$3" /dev/urandom >/tmp/sent && sha256sum </tmp/sent && nc "$1" "$2" </tmp/sent'
WAIT_FOR_LISTENER = 'until netstat -ltn | grep -q ":$1 "; do usleep 20000; done'


def fragments(domain: Domain) -> list[str]:
    """The guest's counters of packets that were put together from pieces or cut into them."""
    return domain.execute(["sh", "-c", FRAGMENTS]).check().text.split()[12:]


def serve(domain: Domain, program: str) -> None:
    """Have the guest run a program for each connection, with the connection as its standard input and output."""
    domain.start_service(["nc", "-ll", "-p", str(PORT), "-e", program])
    domain.execute(["sh", "-c", WAIT_FOR_LISTENER, "sh", str(PORT)]).check()


@pytest.fixture
def listener(domain: Domain) -> Iterator[socket.socket]:
    """A socket on the host's end of the bridge that guests can connect to."""
    with closing(domain.network.socket(socket.AF_INET, socket.SOCK_STREAM)) as server:
        server.settimeout(SECONDS)
        server.bind((domain.network.host_address, 0))
        server.listen()
        yield server


def test_the_host_pings_the_guest_in_every_size(domain: Domain) -> None:
    generator = random.Random(1)
    before = fragments(domain)
    with icmp(domain.network) as sender:
        for size in SIZES:
            payload = generator.randbytes(size)
            assert sender.ping(domain.addresses[0], payload) == payload
        with pytest.raises(OSError, match="Message too long") as refusal:
            sender.ping(domain.addresses[0], bytes(LONGEST + 1))
    assert refusal.value.errno == errno.EMSGSIZE
    # Frames of the MTU went as they were, in both directions.
    assert fragments(domain) == before


def test_the_guest_pings_the_host_in_every_size(domain: Domain) -> None:
    sizes = " ".join(map(str, SIZES))
    with icmp(domain.network) as observer:
        domain.execute(["sh", "-c", PING, "sh", domain.network.host_address, sizes]).check()
        for size in SIZES:
            payload = observer.receive(domain.addresses[0], ECHO_REQUEST).payload
            # The guest's ping begins with the time, if there is room for it.
            assert len(payload) == size
            assert payload[4:] == b"\xa5" * max(0, size - 4)


def test_longer_packets_are_cut_and_put_together_again(domain: Domain) -> None:
    generator = random.Random(2)
    before = fragments(domain)
    with icmp(domain.network, fragment=True) as sender:
        # As many frames at once as the smallest card has room for: an NE2000 holds eight.
        for size in (LONGEST + 1, 4000, 8001):
            payload = generator.randbytes(size)
            assert sender.ping(domain.addresses[0], payload) == payload
    assert fragments(domain) != before


def receive(connection: socket.socket, length: int) -> bytes:
    """As many bytes as are wanted, or fewer if the stream ends before."""
    received = bytearray()
    while data := connection.recv(min(length - len(received), 1 << 16)):
        received += data
    return bytes(received)


def test_tcp_carries_streams_in_both_directions_at_once(domain: Domain, listener: socket.socket) -> None:
    address, port = listener.getsockname()
    content = random.Random(3).randbytes(STREAM)
    with ThreadPoolExecutor() as pool:
        argv = ["sh", "-c", SEND_AND_RECEIVE, "sh", address, str(port), str(STREAM)]
        guest = pool.submit(domain.execute, argv, timeout=SECONDS)
        connection, (source, _) = listener.accept()
        with closing(connection):
            connection.settimeout(SECONDS)
            sending = pool.submit(connection.sendall, content)
            received = receive(connection, STREAM + 1)
            sending.result()
        sums = guest.result().check().text.split()[::2]
    assert source == domain.addresses[0]
    assert len(received) == STREAM
    assert sums == [sha256(received).hexdigest(), sha256(content).hexdigest()]


def test_many_connections_at_once_are_kept_apart(domain: Domain) -> None:
    serve(domain, "cat")

    def talk(connection: socket.socket, seed: int) -> None:
        generator = random.Random(seed)
        for _ in range(20):
            # Short enough for the buffers on the way, so that nobody has to read while it writes.
            said = generator.randbytes(generator.randrange(1, 8192))
            connection.sendall(said)
            assert receive(connection, len(said)) == said

    with ExitStack() as stack, ThreadPoolExecutor(max_workers=16) as pool:
        connections = [stack.enter_context(domain.connect(PORT)) for _ in range(16)]
        list(pool.map(talk, connections, range(len(connections))))


@pytest.mark.parametrize("size", [59, 500, 1023, 1467, 1468, 1469, 4001])
def test_udp_datagrams_keep_their_size_and_content(domain: Domain, size: int) -> None:
    content = random.Random(size).randbytes(size * 5 + size // 2)
    blocks = [content[start : start + size] for start in range(0, len(content), size)]

    with tftp(domain.network) as server, ThreadPoolExecutor() as pool:
        copy = ["tftp", "-b", str(size), "-l", "/tmp/file", "-r", "x", domain.network.host_address, str(server.port)]
        guest = pool.submit(domain.execute, [*copy, "-g"])
        server.give(blocks)
        guest.result().check()
        assert domain.read_file("/tmp/file") == content
        guest = pool.submit(domain.execute, [*copy, "-p"])
        assert server.take() == blocks
        guest.result().check()


def test_an_unmodified_and_a_paravirtual_guest_talk_to_each_other(
    request: pytest.FixtureRequest, start_domain: StartDomain
) -> None:
    hvm, pv = (
        start_domain(replace(definition, name=f"{definition.name}-peer"))
        for definition in (named("hvm", request), named("pv", request))
    )
    sizes = " ".join(map(str, SIZES))
    for guest in (hvm, pv):
        serve(guest, "sha256sum")
    for one, other in ((hvm, pv), (pv, hvm)):
        address = other.addresses[0]
        one.execute(["sh", "-c", PING, "sh", address, sizes]).check()
        argv = ["sh", "-c", SEND, "sh", address, str(PORT), str(STREAM)]
        sent, received = one.execute(argv, timeout=SECONDS).check().text.split()[::2]
        assert received == sent
