"""All backends of one domain: finds its devices in XenStore and runs their handshakes."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from functools import partial

from harness.backend.block import BlockDevice
from harness.backend.console import Console, ConsoleDevice
from harness.backend.loop import Loop
from harness.backend.net import NetDevice
from harness.backend.network_client import NetworkClient
from harness.bus.backend import Backend, BackendDevice
from harness.bus.devices import backend_directory
from harness.bus.xenbus import XenbusState, read_state
from harness.host.errors import GuestError, HarnessError
from harness.hypervisor.link import LinkEnd
from harness.store.client import StoreClient
from harness.store.errors import StoreError

KINDS = ("vbd", "vif", "console")


class _Device(BackendDevice):
    """A device whose failures are also in this process's log."""

    def fail(self, error: Exception) -> None:
        print(f"{self.path}: {error}", file=sys.stderr, flush=True)
        super().fail(error)


class DomainBackends:
    """The backends of a domain whose devices are found through XenBus.

    :param domid: the domain with the frontends.
    :param consoles: by device number, all but the first console, which needs no handshake.
    """

    def __init__(
        self, domid: int, store: StoreClient, link: LinkEnd, loop: Loop, consoles: Mapping[int, Console]
    ) -> None:
        self._domid = domid
        self._store = store
        self._link = link
        self._loop = loop
        self._consoles = {str(number): console for number, console in consoles.items()}
        self._network: NetworkClient | None = None
        self._devices: dict[str, _Device] = {}
        self._directories = {backend_directory(kind, domid): kind for kind in KINDS}
        # The token of a watch is the path of what is to be looked at: a directory of devices, or a device.
        for directory in self._directories:
            store.watch(directory, directory, depth=1)
        loop.watch(store.fileno(), self.process_events)

    def process_events(self) -> None:
        """Look at everything in XenStore that has changed.

        :raise HostError: the store is gone.
        """
        changed = set()
        # However many events a frontend causes, each device is looked at once.
        while (event := self._store.poll_event()) is not None:
            changed.add(event[1])
        for path in sorted(changed):
            if path in self._directories:
                self._scan(path)
            elif path in self._devices:
                self._update(self._devices[path])

    def _scan(self, directory: str) -> None:
        try:
            names = self._store.directory(directory)
        except StoreError as error:
            if error.name != "ENOENT":
                raise
            names = []
        if self._directories[directory] == "console":
            names = [name for name in names if name in self._consoles]
        present = {f"{directory}/{name}" for name in names}
        for path, device in list(self._devices.items()):
            if path.startswith(f"{directory}/") and (path not in present or self._replaced(device)):
                self._remove(device)
        for path in sorted(present - self._devices.keys()):
            self._add(path, self._directories[directory])

    def _replaced(self, device: _Device) -> bool:
        """Whether the toolstack has removed a device and made another one in its place."""
        initial = XenbusState.INITIALISING
        return device.state != initial and read_state(self._store, device.path) == initial

    def _add(self, path: str, kind: str) -> None:
        try:
            device = _Device(self._store, path, self._domid, partial(self._make, kind))
        except GuestError as error:
            print(f"{path}: {error}", file=sys.stderr, flush=True)
            return
        if device.state == XenbusState.UNKNOWN:
            return
        self._devices[path] = device
        try:
            device.start()
        except (HarnessError, OSError) as error:
            device.fail(error)
        for node in device.watched:
            self._store.watch(node, path)

    def _make(self, kind: str, device: BackendDevice) -> Backend:
        if kind == "vbd":
            return BlockDevice(device, self._link, self._loop)
        number = device.path.rpartition("/")[2]
        if kind == "console":
            return ConsoleDevice(device, self._link, self._consoles[number])
        name = f"vif{self._domid}.{number}"
        return NetDevice(name, device, self._link, self._loop, self._connect_network)

    def _update(self, device: _Device) -> None:
        try:
            device.frontend_changed()
        except StoreError as error:
            device.fail(error)
        if device.gone:
            self._remove(device)

    def _remove(self, device: _Device) -> None:
        del self._devices[device.path]
        device.close()
        for node in device.watched:
            self._store.unwatch(node, device.path)

    def _connect_network(self) -> NetworkClient:
        if self._network is None:
            self._network = NetworkClient.connect()
        return self._network
