"""The far end of the network workloads: an iperf3 server on the bridge, and a client of the guest's echo."""

from __future__ import annotations

import socket
import time
from contextlib import suppress
from pathlib import Path

from harness.backend.network_client import NetworkClient
from harness.host.deadline import Deadline
from harness.host.errors import DeadlineExpired, GuestSilent
from harness.host.process import Child, spawn

IPERF_PORT = 5201
ECHO_PORT = 7
ROUND_TRIP_SECONDS = 10.0
CONNECT_PAUSE = 0.05


class Peer:
    """What every guest's network path leads to. Lives in the private network, on the bridge's own address.

    :param clients: how many guests may run iperf3 at once: a server serves one. Each has a port, from the first on.
    """

    def __init__(self, network: NetworkClient, log: Path, clients: int) -> None:
        self._network = network
        self.address = network.host_address
        self._servers = [self._start(IPERF_PORT + number, log) for number in range(clients)]

    def _start(self, port: int, log: Path) -> Child:
        command, descriptors = self._network.inside(["iperf3", "--server", "--bind", self.address, "--port", str(port)])
        server = spawn("iperf3", command, log=log, pass_fds=descriptors)
        self._connect((self.address, port), server).close()
        return server

    def _connect(self, address: tuple[str, int], server: Child) -> socket.socket:
        """Connect to a listener that is just starting: only trying tells whether it listens yet."""
        deadline = Deadline(ROUND_TRIP_SECONDS, f"a connection to {server.name} at {address[0]}")
        while True:
            client = self._network.socket(socket.AF_INET, socket.SOCK_STREAM)
            client.settimeout(deadline.check())
            try:
                client.connect(address)
                return client
            except ConnectionRefusedError:
                client.close()
                with suppress(DeadlineExpired):
                    server.wait(Deadline(CONNECT_PAUSE, "the end of iperf3"))
                    raise server.error("iperf3 ended at once") from None

    def round_trips(self, guest: str, seconds: float) -> list[float]:
        """Send one byte to the guest's echo and wait for it, again and again; returns the seconds each took.

        :raise GuestSilent: the echo stopped answering.
        """
        latencies: list[float] = []
        with self._network.socket(socket.AF_INET, socket.SOCK_STREAM) as client:
            client.settimeout(ROUND_TRIP_SECONDS)
            client.connect((guest, ECHO_PORT))
            client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            end = time.perf_counter() + seconds
            while (started := time.perf_counter()) < end or not latencies:
                client.sendall(b"x")
                try:
                    answer = client.recv(1)
                except TimeoutError:
                    answer = b""
                if not answer:
                    raise GuestSilent(f"the echo at {guest} stopped after {len(latencies)} round trips")
                latencies.append(time.perf_counter() - started)
        return latencies

    def close(self) -> None:
        for server in self._servers:
            server.stop()
