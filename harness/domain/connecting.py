"""Waiting for both ends of devices to connect, and saying why they do not."""

from __future__ import annotations

from collections.abc import Iterable

from harness.bus.devices import Device
from harness.bus.hotplug import reported
from harness.bus.xenbus import XenbusState, read_state, wait_for_state
from harness.host.deadline import Deadline
from harness.host.errors import DeadlineExpired, GuestError, GuestSilent, HarnessError, HostError
from harness.host.interruption import Guard
from harness.store.client import StoreClient

_DECIDED = frozenset({XenbusState.CONNECTED, XenbusState.CLOSING, XenbusState.CLOSED})


def wait_connected(devices: Iterable[Device], deadline: Deadline, guard: Guard) -> None:
    """Wait until every device is connected at both ends.

    :param guard: cuts the waiting short.
    :raise HostError: a backend gave up on its device; says why.
    :raise GuestError: a frontend did.
    :raise GuestSilent: a device did not get that far; says how far.
    """
    # A connection of its own, since closing it is what ends the waiting.
    with StoreClient.connect() as store, guard(store.close):
        for device in devices:
            for path in (device.backend, device.frontend):
                _wait_for_end(store, device, path, deadline)


def _wait_for_end(store: StoreClient, device: Device, path: str, deadline: Deadline) -> None:
    """Wait until the end of a device at ``path`` is connected."""
    try:
        reached = wait_for_state(store, path, _DECIDED, deadline)
    except DeadlineExpired as error:
        raise _error(store, device, path, read_state(store, path), f"; {error.what}", silent=True) from error
    if reached != XenbusState.CONNECTED:
        raise _error(store, device, path, reached, "")


def _error(
    store: StoreClient, device: Device, path: str, state: XenbusState, more: str, *, silent: bool = False
) -> HarnessError:
    """What is wrong with a device, whose fault it is by what its ends have reported."""
    backend, frontend = reported(store, device.backend), reported(store, device.frontend)
    reasons = "".join(f": {reason}" for reason in (backend, frontend) if reason is not None)
    what = (
        f"the {device.kind} {device.devid} of domain {device.domid} did not connect: "
        f"{path} is {state.name.lower()}{reasons}{more}"
    )
    if silent:
        return GuestSilent(what)
    kind = GuestError if backend is None and frontend is not None else HostError
    return kind(what, hint="see: harness store ls")
