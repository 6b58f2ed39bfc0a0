"""What each request means: one small function per operation, which returns the payload of the answer."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from harness.store import administration
from harness.store.control import control
from harness.store.errors import StoreError
from harness.store.paths import home, is_relative
from harness.store.permissions import ANY_DOMID, Permission
from harness.store.quotas import exceeds
from harness.store.request import OK, Request, number
from harness.store.ring import FEATURE_ANY_DOMAIN, FEATURE_WATCH_DEPTH
from harness.store.transactions import Transaction
from harness.store.watches import Watch
from harness.store.wire import PAYLOAD_MAX, Op, split, strings

Handler = Callable[[Request], bytes]


def perform(request: Request) -> bytes:
    """Do it and return the payload of the answer.

    :raise StoreError: it cannot be done.
    """
    kind, transaction = request.message.type, request.message.transaction_id
    handler = _HANDLERS.get(kind)
    if handler is None:
        raise StoreError("ENOSYS")
    if kind in _PRIVILEGED and not request.who.privileged:
        raise StoreError("EACCES")
    if transaction and kind not in _OUTSIDE_TRANSACTIONS:
        request.connection.transaction(transaction)
    return handler(request)


def _directory(request: Request) -> bytes:
    (path,) = request.strings(1)
    return strings(*request.space.directory(request.who, request.path(path)).children)


def _directory_part(request: Request) -> bytes:
    """A piece of the list that fits, after the node's generation; the last piece ends with an empty string."""
    path, offset = request.strings(2)
    node = request.space.directory(request.who, request.path(path))
    generation = strings(str(node.generation))
    rest = strings(*node.children)[number(offset) :]
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
    permissions = [Permission.parse(entry) for entry in entries]
    if permissions[0].domid == ANY_DOMID:
        raise StoreError("EINVAL")
    if not request.connection.features & FEATURE_ANY_DOMAIN:
        permissions = [replace(entry, void=entry.domid == ANY_DOMID) for entry in permissions]
    request.space.set_permissions(request.who, request.path(path, special=True), tuple(permissions))
    return OK


def _watch(request: Request) -> bytes:
    parts = split(request.message.payload)
    allowed = (2, 3) if request.connection.features & FEATURE_WATCH_DEPTH else (2,)
    if len(parts) not in allowed:
        raise StoreError("EINVAL")
    path, token, *depth = parts
    connection, watches = request.connection, request.store.watches
    absolute = request.path(path, special=True)
    prefix = len(home(request.who.domid)) + 1 if is_relative(path.decode()) else 0
    watch = Watch(connection, absolute, token, number(depth[0]) if depth else None, prefix)
    if watches.has(watch):
        raise StoreError("EEXIST")
    if exceeds(request.store.accounts.of(request.who).watches, watches.count(connection) + 1):
        raise StoreError("ENOSPC")
    request.store.accounts.require_memory(request.who, watch.size)
    watches.add(watch)
    request.first_events.append((path.decode(), token))
    return OK


def _unwatch(request: Request) -> bytes:
    path, token = request.strings(2)
    request.store.watches.remove(request.connection, request.path(path, special=True), token)
    return OK


def _reset_watches(request: Request) -> bytes:
    request.store.watches.forget(request.connection)
    request.connection.close_transactions()
    return OK


def _transaction_start(request: Request) -> bytes:
    if request.message.transaction_id:
        raise StoreError("EBUSY")
    connection = request.connection
    if exceeds(request.store.accounts.of(request.who).transactions, len(connection.transactions) + 1):
        raise StoreError("ENOSPC")
    transaction = connection.open_transaction(Transaction(request.store.tree, request.who))
    return strings(str(transaction))


def _transaction_end(request: Request) -> bytes:
    (choice,) = request.strings(1)
    if choice not in (b"T", b"F"):
        raise StoreError("EINVAL")
    transaction = request.connection.close_transaction(request.message.transaction_id)
    if choice == b"T":
        request.changes.extend(transaction.commit())
    return OK


_OUTSIDE_TRANSACTIONS = frozenset({Op.WATCH, Op.UNWATCH})
"""They ignore the transaction that a request names."""

_PRIVILEGED = frozenset(
    {
        *(Op.CONTROL, Op.INTRODUCE, Op.RELEASE, Op.RESUME, Op.SET_TARGET, Op.IS_DOMAIN_INTRODUCED),
        *(Op.SET_FEATURE, Op.GET_QUOTA, Op.SET_QUOTA),
    }
)

_HANDLERS: dict[int, Handler] = {
    Op.CONTROL: control,
    Op.DIRECTORY: _directory,
    Op.READ: _read,
    Op.GET_PERMS: _get_perms,
    Op.WATCH: _watch,
    Op.UNWATCH: _unwatch,
    Op.TRANSACTION_START: _transaction_start,
    Op.TRANSACTION_END: _transaction_end,
    Op.INTRODUCE: administration.introduce,
    Op.RELEASE: administration.release,
    Op.GET_DOMAIN_PATH: administration.get_domain_path,
    Op.WRITE: _write,
    Op.MKDIR: _mkdir,
    Op.RM: _rm,
    Op.SET_PERMS: _set_perms,
    Op.IS_DOMAIN_INTRODUCED: administration.is_domain_introduced,
    Op.RESUME: administration.resume,
    Op.SET_TARGET: administration.set_target,
    Op.RESET_WATCHES: _reset_watches,
    Op.DIRECTORY_PART: _directory_part,
    Op.GET_FEATURE: administration.get_feature,
    Op.SET_FEATURE: administration.set_feature,
    Op.GET_QUOTA: administration.get_quota,
    Op.SET_QUOTA: administration.set_quota,
}
