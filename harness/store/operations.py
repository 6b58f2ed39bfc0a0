"""What each request means: one small function per operation, which returns the payload of the answer."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from harness.store.errors import StoreError
from harness.store.paths import home, is_relative, length_in_domain, resolve
from harness.store.permissions import FIRST_RESERVED_DOMID, Permission, Requester
from harness.store.transactions import Transaction
from harness.store.tree import NodeSpace
from harness.store.watches import Watch
from harness.store.wire import PAYLOAD_MAX, Message, Op, split, strings

if TYPE_CHECKING:
    from harness.store.connection import Connection
    from harness.store.core import Store

OK = b"OK\0"


@dataclass(frozen=True, slots=True)
class Request:
    """One request and everything it can act on.

    :param fds: descriptors that came with the request; what it makes use of, it takes out.
    :param first_events: watch events (path, token) to send right after the answer.
    """

    store: Store
    connection: Connection
    message: Message
    fds: list[int]
    first_events: list[tuple[str, bytes]] = field(default_factory=list)

    @property
    def who(self) -> Requester:
        return self.connection.who

    @property
    def space(self) -> NodeSpace:
        """:raise StoreError: ENOENT, there is no such transaction."""
        return self.store.space(self.connection, self.message.transaction_id)

    def path(self, raw: bytes, *, special: bool = False) -> str:
        """:raise StoreError: EINVAL, it is no path, or a longer one than this client may use."""
        path = resolve(raw, self.who.domid, special=special)
        if not self.who.privileged and length_in_domain(path) > self.store.quota.path:
            raise StoreError("EINVAL")
        return path

    def strings(self, count: int) -> list[bytes]:
        """:raise StoreError: EINVAL, the payload is not so many strings."""
        parts = split(self.message.payload)
        if len(parts) != count:
            raise StoreError("EINVAL")
        return parts

    def numbers(self, count: int) -> list[int]:
        """:raise StoreError: EINVAL, the payload is not so many decimal numbers below 2^32."""
        return [_number(part) for part in self.strings(count)]


Handler = Callable[[Request], bytes]


def perform(request: Request) -> bytes:
    """Do it and return the payload of the answer.

    :raise StoreError: it cannot be done.
    """
    handler = _HANDLERS.get(request.message.type)
    if handler is None:
        raise StoreError("ENOSYS")
    if request.message.type in _PRIVILEGED and not request.who.privileged:
        raise StoreError("EACCES")
    return handler(request)


def _number(text: bytes) -> int:
    if not (text.isdigit() and len(text) <= 10 and int(text) <= 0xFFFFFFFF):
        raise StoreError("EINVAL")
    return int(text)


def _domid(number: int) -> int:
    if number >= FIRST_RESERVED_DOMID:
        raise StoreError("EINVAL")
    return number


def _directory(request: Request) -> bytes:
    (path,) = request.strings(1)
    return strings(*request.space.directory(request.who, request.path(path)).children)


def _directory_part(request: Request) -> bytes:
    """A piece of the list that fits, after the node's generation; the last piece ends with an empty string."""
    path, offset = request.strings(2)
    node = request.space.directory(request.who, request.path(path))
    generation = strings(str(node.generation))
    rest = strings(*node.children)[_number(offset) :]
    room = PAYLOAD_MAX - len(generation) - 1
    if len(rest) <= room:
        return generation + rest + b"\0"
    return generation + rest[: rest.rindex(b"\0", 0, room) + 1]


def _read(request: Request) -> bytes:
    (path,) = request.strings(1)
    return request.space.read(request.who, request.path(path))


def _write(request: Request) -> bytes:
    path, terminator, value = request.message.payload.partition(b"\0")
    if not terminator:
        raise StoreError("EINVAL")
    request.space.write(request.who, request.path(path), value)
    return OK


def _mkdir(request: Request) -> bytes:
    (path,) = request.strings(1)
    request.space.make(request.who, request.path(path))
    return OK


def _rm(request: Request) -> bytes:
    (path,) = request.strings(1)
    request.space.remove(request.who, request.path(path))
    return OK


def _get_perms(request: Request) -> bytes:
    (path,) = request.strings(1)
    permissions = request.space.get_permissions(request.who, request.path(path, special=True))
    return strings(*(str(entry) for entry in permissions))


def _set_perms(request: Request) -> bytes:
    path, *entries = split(request.message.payload)
    if not entries:
        raise StoreError("EINVAL")
    permissions = tuple(Permission.parse(entry) for entry in entries)
    request.space.set_permissions(request.who, request.path(path, special=True), permissions)
    return OK


def _watch(request: Request) -> bytes:
    parts = split(request.message.payload)
    if len(parts) not in (2, 3):
        raise StoreError("EINVAL")
    path, token, *depth = parts
    connection, watches = request.connection, request.store.watches
    if not request.who.privileged and watches.count(connection) >= request.store.quota.watches:
        raise StoreError("E2BIG")
    absolute = request.path(path, special=True)
    prefix = len(home(request.who.domid)) + 1 if is_relative(path.decode()) else 0
    levels = _number(depth[0]) if depth else None
    watches.add(Watch(connection, absolute, token, levels, prefix))
    request.first_events.append((path.decode(), token))
    return OK


def _unwatch(request: Request) -> bytes:
    path, token = request.strings(2)
    request.store.watches.remove(request.connection, request.path(path, special=True), token)
    return OK


def _reset_watches(request: Request) -> bytes:
    request.store.watches.forget(request.connection)
    request.connection.transactions.clear()
    return OK


def _transaction_start(request: Request) -> bytes:
    if request.message.transaction_id:
        raise StoreError("EBUSY")
    connection = request.connection
    if not request.who.privileged and len(connection.transactions) >= request.store.quota.transactions:
        raise StoreError("ENOSPC")
    number = connection.open_transaction(Transaction(request.store.tree, request.who))
    return strings(str(number))


def _transaction_end(request: Request) -> bytes:
    (choice,) = request.strings(1)
    if choice not in (b"T", b"F"):
        raise StoreError("EINVAL")
    transaction = request.connection.transaction(request.message.transaction_id)
    del request.connection.transactions[request.message.transaction_id]
    if choice == b"T":
        request.store.publish(transaction.commit())
    return OK


def _introduce(request: Request) -> bytes:
    domid, frame, port = request.numbers(3)
    request.store.introduce(request.connection, _domid(domid), frame, port, request.fds)
    return OK


def _release(request: Request) -> bytes:
    (domid,) = request.numbers(1)
    request.store.release(domid)
    return OK


def _resume(request: Request) -> bytes:
    (domid,) = request.numbers(1)
    request.store.domain(domid)
    return OK


def _set_target(request: Request) -> bytes:
    domid, target = request.numbers(2)
    connection = request.store.domain(domid).connection
    connection.who = replace(connection.who, target=request.store.domain(target).domid)
    return OK


def _get_domain_path(request: Request) -> bytes:
    (domid,) = request.numbers(1)
    return strings(home(_domid(domid)))


def _is_domain_introduced(request: Request) -> bytes:
    (domid,) = request.numbers(1)
    return strings("T" if domid == 0 or domid in request.store.domains else "F")


def _control(request: Request) -> bytes:
    """The two commands of xenstore-control that make sense here."""
    command, *_ = split(request.message.payload)
    if command == b"help":
        return strings("help", "quota")
    if command == b"quota":
        lines = [f"{name}: {getattr(request.store.quota, name)}" for name in request.store.quota.__slots__]
        return strings("\n".join(lines))
    raise StoreError("EINVAL")


_PRIVILEGED = frozenset(
    {Op.CONTROL, Op.INTRODUCE, Op.RELEASE, Op.RESUME, Op.SET_TARGET, Op.IS_DOMAIN_INTRODUCED},
)

_HANDLERS: dict[int, Handler] = {
    Op.CONTROL: _control,
    Op.DIRECTORY: _directory,
    Op.READ: _read,
    Op.GET_PERMS: _get_perms,
    Op.WATCH: _watch,
    Op.UNWATCH: _unwatch,
    Op.TRANSACTION_START: _transaction_start,
    Op.TRANSACTION_END: _transaction_end,
    Op.INTRODUCE: _introduce,
    Op.RELEASE: _release,
    Op.GET_DOMAIN_PATH: _get_domain_path,
    Op.WRITE: _write,
    Op.MKDIR: _mkdir,
    Op.RM: _rm,
    Op.SET_PERMS: _set_perms,
    Op.IS_DOMAIN_INTRODUCED: _is_domain_introduced,
    Op.RESUME: _resume,
    Op.SET_TARGET: _set_target,
    Op.RESET_WATCHES: _reset_watches,
    Op.DIRECTORY_PART: _directory_part,
}
