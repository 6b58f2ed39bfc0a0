"""What Xen's toolstack does with the devices of a running domain: unplug, take away, let grow."""

from __future__ import annotations

from contextlib import suppress

from harness.bus.devices import Device
from harness.bus.nodes import Nodes, read_or_none
from harness.bus.xenbus import RESIZE, XenbusState, error_path, read_state, wait_for_state, wait_for_value
from harness.host.deadline import Deadline
from harness.store.client import StoreClient
from harness.store.errors import StoreError

_CLOSED = frozenset({XenbusState.CLOSED, XenbusState.UNKNOWN})


def close_device(store: StoreClient, device: Device) -> None:
    """Ask both ends to close a device; the frontend does when nobody uses it any more."""

    def close(nodes: Nodes) -> None:
        if read_state(nodes, device.backend) not in _CLOSED:
            nodes.write(f"{device.backend}/online", "0")
            nodes.write(f"{device.backend}/state", str(XenbusState.CLOSING.value))

    store.transact(close)


def take_away(store: StoreClient, device: Device) -> None:
    """Remove a device from its guest, whether or not it is in use; the backend closes it then."""
    _remove(store, [device.frontend])


def remove_device(store: StoreClient, device: Device, deadline: Deadline) -> None:
    """Wait until the backend has closed a device, and remove its nodes.

    :param store: a connection on which nobody else waits for events.
    :raise DeadlineExpired: it does not, for instance because the guest uses the disk. The device is left as it is then:
        closing, and with its nodes.
    """
    wait_for_state(store, device.backend, _CLOSED, deadline)
    forget(store, device)


def forget(store: StoreClient, device: Device) -> None:
    """Remove the nodes of a device, whatever its ends make of that."""
    reports = [error_path(path) for path in (device.frontend, device.backend)]
    _remove(store, [device.frontend, device.backend, device.toolstack, *reports])


def _remove(store: StoreClient, paths: list[str]) -> None:
    def remove(nodes: Nodes) -> None:
        for path in paths:
            # Without its parent it is not there either.
            with suppress(StoreError):
                nodes.rm(path)

    store.transact(remove)


def reported(store: StoreClient, path: str) -> str | None:
    """What an end of a device has reported to be wrong, as ``<errno> text``."""
    report = read_or_none(store, error_path(path))
    return report.decode(errors="replace") if report else None


def resize(store: StoreClient, device: Device, deadline: Deadline) -> None:
    """Have the backend of a disk look at the size of its image, and tell the guest.

    :param store: a connection on which nobody else waits for events.
    :raise DeadlineExpired: the backend does not.
    """
    store.write(f"{device.backend}/{RESIZE}", "1")
    wait_for_value(store, f"{device.backend}/{RESIZE}", b"0", deadline)
