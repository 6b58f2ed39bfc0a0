"""What is special to the block backend of a driver domain: its devices, its module, and its link."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from harness.bus.devices import Device, disk_number
from harness.bus.features import Notification, Notifications
from harness.bus.hotplug import resize
from harness.bus.nodes import Nodes
from harness.bus.tree import Permissions, make_node
from harness.bus.xenbus import XenbusState
from harness.host.deadline import Deadline
from harness.ring.blkif import REQUEST, SEGMENT, Operation, Status
from tests.guest.driver_guest import SIZE, DriverGuest, plugged
from tests.unit.backend_guest import SECONDS, pattern, repeating, wait_until
from tests.unit.blockfront import SECTORS, BlockFront, RingFront, attached, connected

READ, WRITE = Operation.READ, Operation.WRITE
OKAY, ERROR = Status.OKAY, Status.ERROR


@contextmanager
def kept_on(guest: DriverGuest, target: str, storage: str) -> Iterator[Device]:
    """A disk that is kept on a device of the driver domain, under a name that the others do not have."""
    device = guest.add_storage(target, storage)
    yield device
    guest.remove_disk(device)


def test_what_the_backend_publishes(guest: DriverGuest, image: Path) -> None:
    with connected(guest, image) as front:
        published = {
            "sectors": str(SECTORS),
            "sector-size": "512",
            "physical-sector-size": "512",
            "info": "0",
            "feature-flush-cache": "1",
            "feature-barrier": "1",
            "feature-discard": "1",
            "discard-granularity": "512",
            "discard-alignment": "0",
            "discard-secure": "0",
            "feature-persistent": "1",
            "feature-max-indirect-segments": "256",
            "max-ring-page-order": "4",
            "multi-queue-max-queues": "8",
        }
        assert {name: guest.backend_node(front.device, name) for name in published} == published


# ---- what a disk is kept on ----------------------------------------------------------------------------------------


def test_a_file_behind_a_loop_device(guest: DriverGuest) -> None:
    script = "dd if=/dev/zero of=/tmp/file bs=1M count=2 && losetup /dev/loop0 /tmp/file"
    guest.domain.execute(["sh", "-c", f"modprobe loop && {script}"]).check()
    with kept_on(guest, "xvdzv", "/dev/loop0") as device:
        front = BlockFront(guest, device).connect()
        front.fill(pattern(8 * 4096, 5))
        assert front.do(WRITE, 64, front.whole(8)) == OKAY
        assert front.do(Operation.FLUSH_DISKCACHE, 0, []) == OKAY
        assert front.read(64, 8) == pattern(8 * 4096, 5)
        front.close()
        assert guest.domain.read_file("/tmp/file")[64 * 512 :][: 8 * 4096] == pattern(8 * 4096, 5)
        guest.domain.execute(["losetup", "-d", "/dev/loop0"]).check()


def test_it_waits_for_the_device_to_be_prepared(guest: DriverGuest, image: Path) -> None:
    storage = guest.device_file(guest.take(image))
    device = Device("vbd", guest.domid, disk_number("xvdzy"), guest.domain.domid)
    permissions = Permissions(guest.domid, guest.domain.domid)

    def announce(nodes: Nodes) -> None:
        front = {"backend": device.backend, "backend-id": str(device.backend_domid), "state": "1"}
        make_node(nodes, device.frontend, permissions.frontend, front)
        back = {"frontend": device.frontend, "online": "1", "mode": "w", "state": "1"}
        make_node(nodes, device.backend, permissions.backend, back)

    guest.store.transact(announce)
    front = BlockFront(guest, device)
    front.publish()
    # It has been found by then, as this is found after it.
    with connected(guest, image) as other:
        assert other.read(0, 1) == pattern(4096, 1)
    assert guest.state(device) == XenbusState.INITIALISING
    guest.write(device.backend, {"physical-device-path": storage})
    guest.wait_for_backend(device, XenbusState.CONNECTED)
    assert front.read(8, 1) == pattern(8192, 1)[4096:]
    front.close()
    guest.remove_disk(device)


@pytest.mark.parametrize(("storage", "complaint"), [("/dev/nothing", "cannot open"), ("/etc/passwd", "cannot open")])
def test_a_device_that_cannot_be_used(guest: DriverGuest, storage: str, complaint: str) -> None:
    with kept_on(guest, "xvdzz", storage) as device:
        guest.wait_until_failed(device, complaint)


def test_who_writes_to_a_device_is_alone(guest: DriverGuest, image: Path) -> None:
    with connected(guest, image) as front:
        storage = guest.backend_node(front.device, "physical-device-path")
        with kept_on(guest, "xvdzx", storage) as device:
            guest.wait_until_failed(device, "cannot open")
        assert guest.domain.execute(["mkfs.ext4", "-q", "-F", storage]).status != 0
        assert front.read(0, 1) == pattern(4096, 1)


@pytest.mark.parametrize("sectors", [SECTORS * 2, SECTORS // 2])
def test_a_device_that_changes_its_size(guest: DriverGuest, image: Path, sectors: int) -> None:
    with connected(guest, image, queues=2) as front:
        storage = guest.backend_node(front.device, "physical-device-path")
        number = next(number for number in range(6) if guest.device_file(number) == storage)
        guest.resize(number, sectors * 512)
        resize(guest.store, front.device, Deadline(SECONDS, "resizing"))
        assert guest.backend_node(front.device, "sectors") == str(sectors)
        assert guest.state(front.device) == XenbusState.CONNECTED
        for queue in range(2):
            front.use(queue)
            assert front.do(READ, sectors - 8, front.whole(1)) == OKAY
            assert front.do(READ, sectors - 7, front.whole(1)) == ERROR
    guest.resize(number, SIZE)


@pytest.fixture(params=[True, False], ids=["persistent", "transient"])
def copied(request: pytest.FixtureRequest, guest: DriverGuest, image: Path) -> Iterator[BlockFront]:
    """A disk on a device that does not get at the link's memory."""
    switch = "/sys/module/pvblkback/parameters/always_copy"
    guest.domain.write_file(switch, b"Y")
    with connected(guest, image, persistent=request.param) as front:
        yield front
    guest.domain.write_file(switch, b"N")


def test_data_is_copied_for_a_device_that_cannot_reach_it(copied: BlockFront, image: Path) -> None:
    # Whole frames and parts of them, and nothing beside.
    copied.fill(pattern(11 * 4096, 9))
    segments = [(copied.refs[0], 3, 5), *copied.whole(9, 1), (copied.refs[10], 0, 0)]
    assert copied.do(WRITE, 5, segments) == OKAY
    data = pattern(11 * 4096, 9)[3 * 512 : 10 * 4096 + 512]
    data = data[: 3 * 512] + data[5 * 512 :]
    before = pattern(SIZE, 1)
    after = before[: 5 * 512] + data + before[5 * 512 + len(data) :]
    assert image.read_bytes() == after
    copied.fill(b"-" * 2 * 4096)
    assert copied.do(READ, 4, [(copied.refs[0], 2, 6), (copied.refs[1], 7, 7)]) == OKAY
    assert bytes(copied.data(0)) == b"-" * 1024 + after[4 * 512 : 9 * 512] + b"-" * 512
    assert bytes(copied.data(1)) == b"-" * 7 * 512 + after[9 * 512 : 10 * 512]
    assert copied.do(READ, SECTORS - 4, copied.whole(1)) == ERROR
    assert copied.do(READ, 0, [(copied.refs[0], 0, 7), (0, 0, 7)]) == ERROR


# ---- coming and going ----------------------------------------------------------------------------------------------


def test_a_new_backend_begins_with_new_rings(guest: DriverGuest, image: Path) -> None:
    """As when the driver domain has been restarted: its node is gone and comes again, and the frontend is connected."""
    with connected(guest, image) as front:
        storage, name = (guest.backend_node(front.device, node) for node in ("physical-device-path", "dev"))
        guest.store.rm(front.device.backend)
        wait_until("the end of the old backend", lambda: guest.mapped() == 0)
        old = front.queues
        front.page[:64] = b"\xee" * 64
        guest.add_storage(name, storage, again=True)
        guest.wait_for_backend(front.device, XenbusState.INIT_WAIT)
        # What is in the old ring is for nobody.
        guest.switch(front.device, XenbusState.CONNECTED)
        with connected(guest, image) as other:
            assert other.read(0, 1) == pattern(4096, 1)
        assert guest.state(front.device) == XenbusState.INIT_WAIT
        for queue in old:
            queue.close()
        guest.switch(front.device, XenbusState.INITIALISING)
        front.queues = [RingFront(guest, 0, front.abi)]
        front.publish()
        guest.wait_for_backend(front.device, XenbusState.CONNECTED)
        guest.switch(front.device, XenbusState.CONNECTED)
        front.use(0)
        assert front.read(16, 2) == pattern(SIZE, 1)[8192:16384]


def test_removing_a_disk_lets_go_of_everything(guest: DriverGuest, image: Path) -> None:
    with attached(guest, image) as device:
        front = BlockFront(guest, device).connect()
        front.read(0, 3)
        storage = guest.backend_node(device, "physical-device-path")
        assert guest.mapped() > 3
        guest.store.rm(device.backend)
        wait_until("the end of the device", lambda: guest.mapped() == 0)
        front.take_back()
        # Another may write to it now.
        assert guest.domain.execute(["mkfs.ext4", "-q", "-F", storage]).status == 0
        assert not guest.store.exists(f"{device.backend}/state")


def test_the_toolstack_may_have_a_disk_closed(guest: DriverGuest, image: Path) -> None:
    with attached(guest, image) as device:
        front = BlockFront(guest, device).connect()
        guest.write(device.backend, {"online": 0, "state": XenbusState.CLOSING.value})
        # In its own time.
        assert front.read(0, 1) == pattern(4096, 1)
        front.close()


def test_the_module_can_be_unloaded_while_disks_are_connected(guest: DriverGuest, image: Path) -> None:
    with attached(guest, image) as device:
        front = BlockFront(guest, device, queues=3).connect()
        front.put(READ, 0, front.whole(1))
        front.push()
        guest.domain.execute(["rmmod", "pvblkback"]).check()
        assert guest.state(device) == XenbusState.CLOSED
        assert guest.mapped() == 0
        front.take_back()
        guest.switch(device, XenbusState.CLOSED)
        guest.domain.execute(["modprobe", "pvblkback"]).check()
        guest.switch(device, XenbusState.INITIALISING)
        again = BlockFront(guest, device, queues=3).connect()
        assert again.read(0, 1) == pattern(4096, 1)
        again.close()


def test_a_link_can_be_unplugged_while_a_disk_is_connected(guest: DriverGuest, image: Path, tmp_path: Path) -> None:
    with plugged(guest.domain, tmp_path, guest.domid + 1) as another:
        device = another.add_storage("xvdzw", guest.device_file(guest.take(image)))
        front = BlockFront(another, device).connect()
        assert front.read(0, 2) == pattern(8192, 1)
        another.unplug()
        assert another.mapped() == 0
        front.take_back()
        another.remove_disk(device)
    with connected(guest, image) as other:
        assert other.read(0, 1) == pattern(4096, 1)


# ---- what others must not suffer from ------------------------------------------------------------------------------


@pytest.mark.parametrize("notification", [Notification.ADAPTIVE, Notification.EVENT])
def test_an_event_storm_is_throttled_and_others_are_served(
    guest: DriverGuest, image: Path, notification: Notification
) -> None:
    with (
        connected(guest, image) as bystander,
        connected(guest, image, notifications=Notifications(backend=notification)) as front,
    ):
        before = guest.statistics(front.device)["queue-0/interrupts"]
        started = time.monotonic()
        with repeating(lambda: guest.end.events.send(front.port)):
            for sector in range(64):
                assert bystander.do(READ, sector, bystander.whole(1)) == OKAY
        took = time.monotonic() - started
        # 64 at once, then four after each pause.
        assert guest.statistics(front.device)["queue-0/interrupts"] - before < 200 + 200 * took
        assert front.read(0, 1) == pattern(4096, 1)


def test_a_request_that_changes_while_it_is_served(guest: DriverGuest, image: Path) -> None:
    """It is answered as one of those that it has been."""
    with connected(guest, image) as front:
        first, second = 64, 64 + 112

        def flip() -> None:
            # Behind what the response takes.
            for high, last in ((0, 7), (255, 7), (0, 200)):
                for offset in (first, second):
                    front.page[offset + 23] = high
                    front.page[offset + 29] = last

        with repeating(flip):
            for _ in range(500):
                front.put_raw(REQUEST.pack(READ, 1, 0, 77, 0) + SEGMENT.pack(front.refs[0], 0, 7) * 11)
                front.push()
                ((request_id, operation, status),) = front.responses(1)
                assert (request_id, operation) == (77, READ)
                assert status in (OKAY, ERROR)
        assert front.read(0, 1) == pattern(4096, 1)


def test_requests_are_found_without_a_doorbell(guest: DriverGuest, image: Path) -> None:
    """One after the other, they are met by an idle processor that looks, or by the ring's task."""
    with connected(guest, image, notifications=Notifications(backend=Notification.POLL)) as front:
        front.read(0, 1)
        before = guest.statistics(front.device)
        for sector in range(200):
            front.put(READ, sector, front.whole(1))
            front.push()
            wait_until("a response", lambda: bool(front.ring.unconsumed()))
            front.ring.take()
        after = guest.statistics(front.device)
        assert after["queue-0/requests"] - before["queue-0/requests"] == 200
        assert after["queue-0/interrupts"] - before["queue-0/interrupts"] < 20
