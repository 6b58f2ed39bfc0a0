"""A driver domain's owner, as those see it whose domains it serves: the hotplug scripts, and the news.

A client is the owner of a domain, and lasts as long as its connection to the driver domain's socket, on which it is
told when the driver domain has gone and when it is there again. Everything else it asks for on connections of their
own, each with one request and one answer. When its connection ends, however that comes, all that it had here ends.
"""

from __future__ import annotations

import itertools
import socket
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Protocol

from harness.domain import messages
from harness.domain.identity import parse_identity
from harness.domain.messages import Message
from harness.domain.networks import BRIDGE
from harness.domain.storage import SURVEY, Survey
from harness.guest.completed import Completed
from harness.host.errors import GuestError, HarnessError, UsageError
from harness.host.interruption import cut

BACKLOG = 16
SCRIPT_SECONDS = 30.0
UNPLUG_SECONDS = 20.0
"""What the guest gets to let go of a link; with it, backends let go of a domain that has gone."""

GONE, BACK = "gone", "back"

# Puts a file on a loop device, and prints the device with its number.
ATTACH_LOOP = """
[ -e /dev/loop-control ] || modprobe -q loop
device=$(losetup -f) && losetup $2 "$device" "$1" && exec stat -c '%n %t:%T' "$device"
"""

# Has what was written to a disk really written, and prints by what it is known again that nobody has written to: the
# size and, of a file, when it was written to last, in whole seconds and once more with the fraction; of a block device,
# the checksum of its beginning, past the cache, in which what backends have written is not.
SETTLE = """
sync "$2" || exit
if [ ! -b "$1" ]; then exec stat -L -c '%s %Y %y' "$1"; fi
size=$(blockdev --getsize64 "$1") || exit
sum=$(dd if="$1" bs=64k count=16 iflag=direct 2>/dev/null | sha256sum) && echo "$size ${sum%% *}"
"""

# Makes the backend's end of a network interface a port of the bridge, as soon as the backend has made it.
JOIN_BRIDGE = """
until [ -e "/sys/class/net/$1" ]; do sleep 0.02; done
[ -e "/sys/class/net/$2/bridge" ] || { echo "there is no bridge $2: the domain has no network card" >&2; exit 1; }
brctl addif "$2" "$1" && exec ip link set "$1" up
"""


class Guest(Protocol):
    """The driver domain itself."""

    def plug_link(self, name: str, link: socket.socket, vectors: int, domid: int) -> None:
        """Plug a link into its QEMU, of which it is the end that maps, and the other one this domain."""

    def unplug_link(self, name: str, seconds: float) -> None:
        """Unplug it again, and wait until the guest has let go of it."""

    def run(self, argv: Sequence[str], seconds: float) -> Completed:
        """Run a command in it."""


@dataclass(frozen=True)
class _Prepared:
    """A disk that a client has been given.

    :param path: under which it was asked for.
    :param identity: see :attr:`Survey.identity`.
    :param loop: the loop device that a file was put on.
    """

    path: str
    identity: str
    readonly: bool
    loop: str | None


@dataclass(eq=False)
class _Client:
    """A domain that is served.

    :param plugged: its link is in the driver domain's QEMU.
    """

    number: int
    name: str
    connection: socket.socket
    plugged: bool = False
    disks: dict[int, _Prepared] = field(default_factory=dict)

    @property
    def link(self) -> str:
        return f"client{self.number}"


class Serving:
    """Takes in clients from now on, and serves them while the domain is :meth:`up`.

    :param name: of the driver domain.
    :param path: of the socket to make.
    :param log: gets a line about each client.
    """

    def __init__(self, name: str, domid: int, guest: Guest, path: Path, log: Path) -> None:
        self._name = name
        self._domid = domid
        self._guest = guest
        self._log = log
        self._up = False
        self._turn = threading.Lock()
        self._numbers = itertools.count(1)
        self._clients: dict[int, _Client] = {}
        self._operations: dict[str, Callable[[_Client, Message], dict[str, object]]] = {
            "plug": self._plug,
            "unplug": self._unplug,
            "identify-disk": self._identify_disk,
            "prepare-disk": self._prepare_disk,
            "release-disk": self._release_disk,
            "join-bridge": self._join_bridge,
        }
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._listener.bind(str(path))
        self._listener.listen(BACKLOG)
        threading.Thread(target=self._accept, name=f"clients of {name}", daemon=True).start()

    # -- the life of the driver domain ---------------------------------------------------------------------------------

    def up(self) -> None:
        """The domain works, perhaps again: those that it served before may come back."""
        with self._turn:
            self._up = True
            self._tell(BACK)

    def down(self) -> None:
        """Its QEMU has ended, and with it all that was plugged in and prepared."""
        with self._turn:
            self._up = False
            for client in self._clients.values():
                client.plugged = False
                client.disks.clear()
            self._tell(GONE)

    @contextmanager
    def at_rest(self) -> Iterator[None]:
        """Inside, the domain serves nobody, and afterwards neither, unless that has failed.

        :raise UsageError: it does; says whom.
        """
        with self._turn:
            if self._clients:
                names = ", ".join(client.name for client in self._clients.values())
                raise UsageError(
                    f"driver domain {self._name} cannot be saved while it serves {names}: their devices would be lost",
                    hint=f"end those first, or save them without these devices: harness shutdown {names}",
                )
            yield
            self._up = False

    def close(self) -> None:
        """Take in nobody more, and leave those that are there: the domain has ended."""
        cut(self._listener)
        self._listener.close()
        with self._turn:
            self._up = False
            for client in self._clients.values():
                cut(client.connection)

    def _tell(self, event: str) -> None:
        for client in self._clients.values():
            # Who is gone will be noticed by whoever reads there.
            with suppress(OSError):
                messages.send(client.connection, {"event": event})

    # -- connections ---------------------------------------------------------------------------------------------------

    def _accept(self) -> None:
        # Ends when the listener is cut.
        with suppress(OSError):
            while True:
                connection, _ = self._listener.accept()
                threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        # Whoever asked may go at any time.
        with connection, suppress(OSError):
            try:
                request = messages.receive(connection, messages.MAX_REQUEST)
                if request is None:
                    return
                try:
                    self._handle(request, connection)
                finally:
                    request.close()
            except HarnessError as error:
                messages.send(connection, messages.error_fields(error))

    def _handle(self, request: Message, connection: socket.socket) -> None:
        name = request.get("op", str)
        if name == "serve":
            self._keep(request, connection)
            return
        if name not in self._operations:
            raise UsageError(f"the owner of driver domain {self._name} knows no request {name!r}")
        with self._turn:
            self._require_up()
            client = self._clients.get(request.get("client", int))
            if client is None:
                raise UsageError(f"driver domain {self._name} has no such client")
            answer = self._operations[name](client, request)
        messages.send(connection, answer)

    def _require_up(self) -> None:
        if not self._up:
            raise UsageError(
                f"driver domain {self._name} is not ready to serve anybody", hint="it starts anew; see: harness list"
            )

    def _keep(self, request: Message, connection: socket.socket) -> None:
        """Have a client until it goes."""
        with self._turn:
            self._require_up()
            client = _Client(next(self._numbers), request.get("name", str), connection)
            self._clients[client.number] = client
            messages.send(connection, {"client": client.number, "domid": self._domid})
        self._note(f"domain {client.name} has come")
        try:
            # It sends nothing more, and ends at some time.
            with suppress(OSError):
                connection.recv(1)
        finally:
            self._leave(client)

    def _leave(self, client: _Client) -> None:
        """Give back what a client had."""
        with self._turn:
            del self._clients[client.number]
            if self._up:
                try:
                    self._take_apart(client)
                except HarnessError as error:
                    # Its domain has ended, so there is nobody else to tell.
                    self._note(f"domain {client.name} has left something behind: {error}")
        self._note(f"domain {client.name} has gone")

    def _take_apart(self, client: _Client) -> None:
        try:
            if client.plugged:
                self._guest.unplug_link(client.link, UNPLUG_SECONDS)
        finally:
            for prepared in client.disks.values():
                self._detach_loop(prepared)

    def _note(self, line: str) -> None:
        with self._log.open("a") as log:
            log.write(f"{line}\n")

    # -- what clients ask for ------------------------------------------------------------------------------------------

    def _plug(self, client: _Client, request: Message) -> dict[str, object]:
        if not request.descriptors or client.plugged:
            raise UsageError(f"domain {client.name} gave no link to driver domain {self._name}, or another one")
        with socket.socket(fileno=request.descriptors.pop()) as link:
            self._guest.plug_link(client.link, link, request.get("vectors", int), request.get("domid", int))
        client.plugged = True
        return {}

    def _unplug(self, client: _Client, _: Message) -> dict[str, object]:
        if client.plugged:
            self._guest.unplug_link(client.link, UNPLUG_SECONDS)
            client.plugged = False
        return {}

    def _prepare_disk(self, client: _Client, request: Message) -> dict[str, object]:
        path, readonly = request.get("path", str), request.get("readonly", bool)
        # What the client had under this number it gives back, but to nobody else in between.
        self._release_disk(client, request)
        survey = Survey.parse(self._name, path, self._run(["sh", "-c", SURVEY, "sh", path]))
        self._require_free(survey, readonly=readonly)
        device, number, loop = path, survey.device, None
        if number is None:
            loop, number = self._attach_loop(path, readonly=readonly)
            device = loop
        client.disks[request.get("devid", int)] = _Prepared(path, survey.identity, readonly, loop)
        return {"device": device, "major": number[0], "minor": number[1]}

    def _attach_loop(self, path: str, *, readonly: bool) -> tuple[str, tuple[int, int]]:
        """Put a file on a loop device; returns that, and its number."""
        answer = self._run(["sh", "-c", ATTACH_LOOP, "sh", path, "-r" if readonly else ""])
        device, _, number = answer.strip().partition(" ")
        major, minor = (int(part, 16) for part in number.split(":"))
        return device, (major, minor)

    def _require_free(self, survey: Survey, *, readonly: bool) -> None:
        """Check that nobody else writes to what shall be used, or uses what shall be written to."""
        given = [(other, prepared) for other in self._clients.values() for prepared in other.disks.values()]
        for other, prepared in given:
            if survey.overlaps(prepared.identity) and not (readonly and prepared.readonly):
                there = "" if prepared.path == survey.path else f", which has {prepared.path}"
                raise UsageError(
                    f"{survey.path} of driver domain {self._name} is in use by domain {other.name}{there}",
                    hint="use another one, or have readonly: true in both",
                )
        ours = {prepared.loop for _, prepared in given if prepared.loop is not None}
        survey.require_unused(ours, readonly=readonly)

    def _identify_disk(self, client: _Client, request: Message) -> dict[str, object]:
        prepared = client.disks.get(request.get("devid", int))
        if prepared is None:
            raise UsageError(f"domain {client.name} has no such disk of driver domain {self._name}")
        identity = parse_identity(self._run(["sh", "-c", SETTLE, "sh", prepared.path, prepared.loop or prepared.path]))
        return asdict(identity)

    def _release_disk(self, client: _Client, request: Message) -> dict[str, object]:
        prepared = client.disks.pop(request.get("devid", int), None)
        if prepared is not None:
            self._detach_loop(prepared)
        return {}

    def _detach_loop(self, prepared: _Prepared) -> None:
        if prepared.loop is not None:
            self._run(["losetup", "-d", prepared.loop])

    def _join_bridge(self, client: _Client, request: Message) -> dict[str, object]:
        self._run(["sh", "-c", JOIN_BRIDGE, "sh", request.get("interface", str), BRIDGE])
        return {}

    def _run(self, argv: Sequence[str]) -> str:
        """Run a script in the driver domain; what it says on standard error is the reason if it fails."""
        done = self._guest.run(argv, SCRIPT_SECONDS)
        if done.status != 0:
            reason = done.stderr.decode(errors="replace").strip() or f"{argv[0]} ended with {done.status}"
            raise GuestError(f"driver domain {self._name}: {reason}")
        return done.text
