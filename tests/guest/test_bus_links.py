"""One guest on links to other domains, at either end: as a driver domain, and as one that another domain serves."""

from __future__ import annotations

import os
import select
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

import pytest

from harness.bus.devices import Device
from harness.bus.nodes import Nodes, read_number
from harness.bus.tree import Permissions, make_node
from harness.bus.xenbus import XenbusState
from harness.domain.domain import Domain
from harness.host.deadline import Deadline
from harness.hypervisor.events import EventChannels, PortState
from harness.hypervisor.grants import GTF_READING, statuses
from harness.hypervisor.layout import GRANTEE, GRANTER, LINK_PORTS, PORT
from harness.hypervisor.link import GuestEnd, Link, LinkEnd
from harness.machine.descriptors import eventfds
from harness.pytest_plugin.plugin import StartDomain
from harness.store.client import StoreClient
from tests.guest.conftest import named
from tests.guest.links import SECONDS, plugged

SERVED, SERVING = 32000, 32001
"""Domains that only the store knows of: the tests play their end of a link."""
PORTS = range(1, LINK_PORTS)
DISK = 51712 + 16


@pytest.fixture(scope="module")
def guest(request: pytest.FixtureRequest, start_domain_for_module: StartDomain) -> Domain:
    return start_domain_for_module(named("pv", request))


@pytest.fixture
def store() -> Iterator[StoreClient]:
    with StoreClient.connect() as client:
        yield client


def announce(store: StoreClient, device: Device, frontend: Mapping[str, str], backend: Mapping[str, str]) -> None:
    """Write both ends of a device, as the toolstack does."""
    permissions = Permissions(device.domid, device.backend_domid)
    initial = {"state": str(XenbusState.INITIALISING.value)}

    def change(nodes: Nodes) -> None:
        make_node(
            nodes,
            device.frontend,
            permissions.frontend,
            {"backend": device.backend, "backend-id": str(device.backend_domid), **frontend, **initial},
        )
        make_node(
            nodes,
            device.backend,
            permissions.backend,
            {"frontend": device.frontend, "frontend-id": str(device.domid), **backend, **initial},
        )

    store.transact(change)


@contextmanager
def announced(
    store: StoreClient, device: Device, frontend: Mapping[str, str], backend: Mapping[str, str]
) -> Iterator[None]:
    announce(store, device, frontend, backend)
    try:
        yield
    finally:
        store.rm(device.frontend)
        store.rm(device.backend)


def wait_until(guest: Domain, condition: str) -> None:
    guest.execute(["sh", "-c", f"until {condition}; do sleep 0.05; done"], timeout=SECONDS).check()


def exists(guest: Domain, name: str) -> None:
    wait_until(guest, f"[ -e /sys/bus/pvbus/devices/{name} ]")


def gone(guest: Domain, name: str) -> None:
    wait_until(guest, f"[ ! -e /sys/bus/pvbus/devices/{name} ]")


def is_there(guest: Domain, name: str) -> bool:
    return guest.execute(["test", "-e", f"/sys/bus/pvbus/devices/{name}"]).status == 0


def wait_for(what: str, condition: Callable[[], bool]) -> None:
    limit = Deadline(SECONDS, what)
    poller = select.poll()
    while not condition():
        limit.check()
        poller.poll(10)


def quiet(guest: Domain) -> bool:
    return not any(word in guest.execute(["dmesg"]).check().text for word in ("BUG", "WARNING", "Call Trace"))


# ---- a driver domain ----


def test_backends_come_and_go_with_their_link(guest: Domain, store: StoreClient) -> None:
    device = Device("vbd", SERVED, DISK, guest.domid)
    name = f"backend-vbd-{SERVED}-{DISK}"
    with Link.between(SERVED, guest.domid) as link, announced(store, device, {}, {}):
        assert not is_there(guest, name)
        with plugged(guest, "served", link, GRANTEE):
            exists(guest, name)
            uevent = guest.read_file(f"/sys/bus/pvbus/devices/{name}/uevent").decode()
            assert "MODALIAS=pvbus-backend-vbd\n" in uevent
        assert not is_there(guest, name)
        # The link is plugged in once more, as another peer, and the node is as the guest has left it.
        link.renew()
        with plugged(guest, "served", link, GRANTEE):
            exists(guest, name)
            store.rm(device.backend)
            gone(guest, name)
            announce(store, device, {}, {})
            exists(guest, name)
    assert quiet(guest)


def test_a_backend_for_somebody_else_s_frontend_is_none(guest: Domain, store: StoreClient) -> None:
    device = Device("vbd", SERVED, DISK, guest.domid)
    stranger = Device("vbd", SERVED, DISK + 16, guest.domid)
    with (
        Link.between(SERVED, guest.domid) as link,
        announced(store, stranger, {}, {"frontend": Device("vbd", SERVED + 5, DISK).frontend}),
        announced(store, device, {}, {}),
        plugged(guest, "served", link, GRANTEE),
    ):
        exists(guest, f"backend-vbd-{SERVED}-{DISK}")
        assert not is_there(guest, f"backend-vbd-{SERVED}-{DISK + 16}")


def test_a_driver_domain_gives_back_what_its_predecessor_had(guest: Domain) -> None:
    with (
        Link.between(SERVED, guest.domid) as link,
        GuestEnd.from_fds([os.dup(one) for one in link.guest_fds()], vector=0, ports=PORTS) as granter,
    ):
        ports = [granter.events.alloc_unbound() for _ in range(3)]
        with LinkEnd.from_fds([os.dup(one) for one in link.store_fds()], vector=0, ports=PORTS) as dead:
            bound = [dead.events.bind_interdomain(port) for port in ports]
        marks = statuses(granter.memory, granter.layout)
        marks[5] = marks[9000] = GTF_READING
        link.renew()
        with plugged(guest, "served", link, GRANTEE):
            wait_for("the marks to go", lambda: not any(marks))
            wait_for(
                "the ports to wait",
                lambda: all(granter.events.status(port) == (PortState.UNBOUND, None) for port in ports),
            )
            assert all(own_state(granter, GRANTEE, port) == PortState.CLOSED for port in bound)
    assert quiet(guest)


def own_state(end: LinkEnd, which: int, port: int) -> int:
    """What a link's table says of a port."""
    start = end.layout.ports_frame[which] * 4096 + port * PORT.size
    state: int = PORT.unpack(end.memory[start : start + PORT.size])[0]
    return state


# ---- a domain that another one serves ----


class Backend:
    """As much of a block backend as it takes for the guest to send a request, which nobody answers."""

    def __init__(self, store: StoreClient, device: Device, link: Link) -> None:
        self._store = store
        self._device = device
        self._end = LinkEnd.from_fds([os.dup(one) for one in link.store_fds()], vector=0, ports=PORTS)
        self._end.events.reset()
        self._end.grants.reset()

    @property
    def events(self) -> EventChannels:
        return self._end.events

    def _write(self, name: str, value: object) -> None:
        self._store.write(f"{self._device.backend}/{name}", str(value))

    def _frontend(self, name: str) -> int:
        return read_number(self._store, f"{self._device.frontend}/{name}", range(1 << 16), default=0)

    def connect(self) -> None:
        self._write("state", XenbusState.INIT_WAIT.value)
        wait_for("the frontend", lambda: self._frontend("state") == XenbusState.INITIALISED.value)
        self._end.grants.map(self._frontend("ring-ref"), write=True)
        self.events.bind_interdomain(self._frontend("event-channel"))
        self.events.acknowledge()
        self.events.pending()
        for name, value in (("sectors", 2048), ("sector-size", 512), ("info", 0)):
            self._write(name, value)
        self._write("state", XenbusState.CONNECTED.value)

    def wait_request(self) -> None:
        poller = select.poll()
        poller.register(self.events.wait_fd, select.POLLIN)
        assert poller.poll(SECONDS * 1000)
        assert self.events.pending()

    def die(self) -> None:
        self._end.close()
        self._store.rm(self._device.backend)


def test_a_disk_is_served_over_another_link_by_one_backend_after_the_other(guest: Domain, store: StoreClient) -> None:
    device = Device("vbd", guest.domid, DISK, SERVING)
    name = f"vbd-{guest.domid}-{DISK}"
    frontend = {"virtual-device": str(DISK), "device-type": "disk"}
    with Link.between(guest.domid, SERVING) as link, announced(store, device, frontend, {}):
        assert not is_there(guest, name)
        with plugged(guest, "serving", link, GRANTER):
            exists(guest, name)
            first = Backend(store, device, link)
            first.connect()
            first.wait_request()
            first.die()
            link.renew()
            announce_backend(store, device)
            second = Backend(store, device, link)
            second.connect()
            # What the first one has not answered, on the doorbells of the second.
            second.wait_request()
            second.die()
        assert not is_there(guest, name)
        announce_backend(store, device)
    assert quiet(guest)


def test_a_card_waits_for_the_successor_of_a_backend_that_has_vanished(guest: Domain, store: StoreClient) -> None:
    device = Device("vif", guest.domid, 1, SERVING)
    frontend = {"mac": "00:16:3e:00:00:77", "handle": "1"}
    netdev = f"$(ls /sys/bus/pvbus/devices/vif-{guest.domid}-1/net)"

    def state() -> int:
        return read_number(store, f"{device.frontend}/state", range(9))

    def serve() -> None:
        store.write(f"{device.backend}/feature-rx-copy", "1")
        store.write(f"{device.backend}/state", str(XenbusState.INIT_WAIT.value))
        wait_for("the frontend", lambda: state() == XenbusState.CONNECTED)
        store.write(f"{device.backend}/state", str(XenbusState.CONNECTED.value))
        wait_until(guest, f"[ $(cat /sys/class/net/{netdev}/carrier) = 1 ]")

    with (
        Link.between(guest.domid, SERVING) as link,
        announced(store, device, frontend, {}),
        plugged(guest, "serving", link, GRANTER),
    ):
        wait_until(guest, f'[ -n "{netdev}" ]')
        guest.execute(["sh", "-c", f"ip link set {netdev} up"]).check()
        serve()
        store.rm(device.backend)
        wait_for("the frontend", lambda: state() == XenbusState.INITIALISING)
        assert guest.execute(["sh", "-c", f"cat /sys/class/net/{netdev}/carrier"]).check().text.strip() == "0"
        announce_backend(store, device)
        serve()
        store.rm(device.backend)
        store.rm(device.frontend)
        gone(guest, f"vif-{guest.domid}-1")
        announce(store, device, frontend, {})
    assert quiet(guest)


def announce_backend(store: StoreClient, device: Device) -> None:
    """Write the backend's node again; the frontend's is as it was."""
    make_node(
        store,
        device.backend,
        Permissions(device.domid, device.backend_domid).backend,
        {"frontend": device.frontend, "frontend-id": str(device.domid), "state": str(XenbusState.INITIALISING.value)},
    )


# ---- both ----


def test_nothing_gets_the_number_of_a_doorbell_that_was_unplugged(guest: Domain) -> None:
    pid = guest.parts.qemu.child.pid
    with Link.between(SERVED, guest.domid) as link:
        for _ in range(3):
            with plugged(guest, "served", link, GRANTEE):
                doorbells = eventfds(pid)
            # Still open, and never readable: QEMU itself closes them all.
            assert doorbells <= eventfds(pid)
            link.renew()


def test_links_without_a_store_go_and_come_with_the_one_that_has_it(guest: Domain, store: StoreClient) -> None:
    device = Device("vbd", SERVED, DISK, guest.domid)
    name = f"backend-vbd-{SERVED}-{DISK}"
    unbind_first = f"""
    first=$(basename $(dirname $(readlink -f /sys/bus/pvbus/devices/console-{guest.domid}-first)))
    echo $first >/sys/bus/pci/drivers/pvbus/unbind
    ls /sys/bus/pvbus/devices
    ls -d /sys/bus/pci/drivers/pvbus/*:* 2>/dev/null
    echo $first >/sys/bus/pci/drivers/pvbus/bind
    """
    reload = """
    # In use as long as the kernel looks for partitions on its disk.
    until rmmod pvblk 2>/dev/null; do sleep 0.05; done
    rmmod pvnet && rmmod pvcon && rmmod pvblkback && rmmod pvbus || exit
    modprobe pvbus && modprobe pvblk && modprobe pvnet && modprobe pvcon
    """
    with (
        Link.between(SERVED, guest.domid) as link,
        announced(store, device, {}, {}),
        plugged(guest, "served", link, GRANTEE),
    ):
        exists(guest, name)
        for script in (unbind_first, reload):
            assert guest.execute(["sh", "-c", script], timeout=SECONDS).check().text == ""
            exists(guest, name)
            exists(guest, f"vbd-{guest.domid}-51712")
    assert quiet(guest)
