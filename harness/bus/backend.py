"""The backend's side of XenBus: which state of a device follows from which, and what there is to do then."""

from __future__ import annotations

import errno
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Protocol, runtime_checkable

from harness.bus.nodes import read_number, read_or_none
from harness.bus.xenbus import RESIZE, XenbusState, read_state, report_error, switch_state
from harness.host.errors import GuestError, HarnessError
from harness.store.client import StoreClient
from harness.store.errors import StoreError


class Backend(Protocol):
    """What a kind of device does; ``BackendDevice`` says when."""

    def features(self) -> Mapping[str, str]:
        """Nodes to publish before the frontend makes its choices.

        :raise HarnessError: the device cannot be served; so may OSError. It is closed with that text.
        """

    def connect(self, frontend: str) -> Mapping[str, str]:
        """Read what the frontend has written below its path, start to serve it, and return the nodes to publish.

        :raise HarnessError: the frontend has written what cannot be; the device is closed with that text.
        :raise OSError: what the device stands on cannot be used; likewise.
        """

    def disconnect(self) -> None:
        """Stop serving and give back grants and event channels; called in any state, and more than once."""


@runtime_checkable
class Resizable(Protocol):
    """A kind of device whose size may change while it is connected."""

    def resized(self) -> Mapping[str, str]:
        """Look at the size of what the device stands on, serve all of it from now on, and return the nodes that tell.

        :raise HarnessError: that size cannot be; so may OSError. The device goes on as it was.
        """


@runtime_checkable
class Adjustable(Protocol):
    """A kind of device whose frontend may change its mind about something while it is connected.

    :ivar adjusted: the names of the frontend's nodes that say so.
    """

    adjusted: Sequence[str]

    def refresh(self, frontend: str) -> None:
        """Look at these nodes.

        :raise HarnessError: what the frontend has written there cannot be; the device is closed with that text.
        """


ORPHANED = "orphaned"
"""The node in which a backend notes, with ``1``, that a frontend in state Connected is connected to a dead one."""


class BackendDevice:
    """The backend's side of the handshake for one device.

    The caller watches ``watched`` and calls ``frontend_changed`` whenever one of these fires.

    A backend may find a device that a predecessor, which has died, had brought further than its first state. It then
    offers its features anew. A frontend that is connected, or closing, has to leave that state first: its ring belongs
    to the dead one, and what it holds is for the frontend to bring again in a new one.

    :param path: the backend's node, made by the toolstack.
    :raise GuestError: the toolstack's nodes are incomplete.
    """

    def __init__(self, store: StoreClient, path: str, domid: int, make: Callable[[BackendDevice], Backend]) -> None:
        self.store = store
        self.path = path
        self.domid = domid
        frontend = read_or_none(store, f"{path}/frontend")
        # The frontend is what we believe about what to connect to: it must be in the domain that we serve.
        if frontend is None or not frontend.startswith(f"/local/domain/{domid}/".encode()):
            raise GuestError(f"{path}/frontend is {frontend!r}, expected a path of domain {domid}")
        self.frontend = frontend.decode(errors="replace")
        self.state = read_state(store, path)
        self.gone = False
        self._orphaned = False
        self._backend = make(self)

    @property
    def watched(self) -> tuple[str, ...]:
        """The nodes to watch: what the frontend may change, its state first, and the toolstack's wish for a size."""
        wishes = self._backend.adjusted if isinstance(self._backend, Adjustable) else ()
        return f"{self.frontend}/state", f"{self.path}/{RESIZE}", *(f"{self.frontend}/{name}" for name in wishes)

    def start(self) -> None:
        """Publish the features and wait for the frontend, taking over what a predecessor has left."""
        if self.state == XenbusState.CLOSED:
            return
        # Also one that is to close may have requests under way, without whose answers its users do not let go of it.
        served = self.state in {XenbusState.CONNECTED, XenbusState.CLOSING}
        self._orphaned = served or read_or_none(self.store, f"{self.path}/{ORPHANED}") == b"1"
        self._offer({ORPHANED: "1"} if served else {})

    def frontend_changed(self) -> None:
        """Look at the frontend's state and do what follows from it; does nothing when nothing has changed."""
        self._resize()
        self._refresh()
        state = read_state(self.store, self.frontend)
        if state not in {XenbusState.CONNECTED, XenbusState.CLOSING}:
            self._orphaned = False
        elif self._orphaned:
            return
        match state:
            case XenbusState.INITIALISING:
                # A frontend that is back at the start without having closed has been restarted, or is playing games.
                if self.state in {XenbusState.CLOSED, XenbusState.CONNECTED}:
                    self.close()
                    self._start_again()
            case XenbusState.INITIALISED | XenbusState.CONNECTED:
                # Once we are closing, the frontend has to follow before it can connect again.
                if self.state in {XenbusState.INITIALISING, XenbusState.INIT_WAIT}:
                    self._connect()
                elif state == self.state and not self._online():
                    # It was told to close before it was connected again.
                    self._switch(XenbusState.CLOSING)
            case XenbusState.CLOSING:
                if self.state != XenbusState.CLOSED:
                    self._switch(XenbusState.CLOSING)
            case XenbusState.CLOSED:
                self._follow_to_the_end()
                self.gone = self.gone or not self._online()
            case XenbusState.UNKNOWN:
                if not self.store.exists(f"{self.frontend}/state"):
                    self._follow_to_the_end()
                    self.gone = True
            case _:
                pass

    def _offer(self, nodes: Mapping[str, str]) -> None:
        # Also to a frontend that knows us in this state: it is another backend that is waiting now.
        self._switch(XenbusState.INIT_WAIT, {**self._backend.features(), **nodes}, again=True)

    def _start_again(self) -> None:
        try:
            self._offer({})
        except (HarnessError, OSError) as error:
            self.fail(error)

    def _connect(self) -> None:
        try:
            nodes = self._backend.connect(self.frontend)
        except (HarnessError, OSError) as error:
            self.fail(error)
        else:
            noted = self.store.exists(f"{self.path}/{ORPHANED}")
            self._switch(XenbusState.CONNECTED, {**nodes, **({ORPHANED: "0"} if noted else {})})

    def _follow_to_the_end(self) -> None:
        self.close()
        self._switch(XenbusState.CLOSED)

    def _online(self) -> bool:
        try:
            return read_number(self.store, f"{self.path}/online", range(2), default=0) == 1
        except GuestError:
            return False

    def _resize(self) -> None:
        """Do what the toolstack asks for in the node :data:`RESIZE`."""
        if not isinstance(self._backend, Resizable) or read_or_none(self.store, f"{self.path}/{RESIZE}") != b"1":
            return
        nodes: Mapping[str, str] = {}
        try:
            nodes = self._backend.resized()
        except (HarnessError, OSError) as error:
            self._report(error)
        self._switch(self.state, {**nodes, RESIZE: "0"}, again=True)

    def _refresh(self) -> None:
        if self.state == XenbusState.CONNECTED and isinstance(self._backend, Adjustable):
            try:
                self._backend.refresh(self.frontend)
            except HarnessError as error:
                self.fail(error)

    def _switch(self, state: XenbusState, nodes: Mapping[str, str] | None = None, *, again: bool = False) -> None:
        left_first = self.state != XenbusState.INITIALISING
        self.state = state
        if not switch_state(self.store, self.path, state, nodes, again=again, left_first=left_first):
            # The toolstack has removed the device under us.
            self.close()
            self.gone = True

    def close(self) -> None:
        """Stop serving, without a word to the frontend."""
        self._backend.disconnect()

    def fail(self, error: Exception) -> None:
        """Stop serving, report why, and ask the frontend to close. Only this device is concerned."""
        self.close()
        self._report(error)
        self._switch(XenbusState.CLOSING)

    def _report(self, error: Exception) -> None:
        with suppress(StoreError):
            report_error(self.store, self.path, getattr(error, "errno", None) or errno.EIO, str(error))
