"""The commands of xenstore-control that make sense here."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence

from harness.store.errors import StoreError
from harness.store.quotas import WIRE_NAMES
from harness.store.request import OK, Request, domain_number, number
from harness.store.wire import split, strings

SHOWN_FAULTS = 20

Command = Callable[[Request, Sequence[bytes]], bytes]


def control(request: Request) -> bytes:
    """Do what the command says.

    :raise StoreError: EINVAL, there is no such command, or it does not take these arguments; EIO, the store is corrupt.
    """
    name, *arguments = split(request.message.payload)
    try:
        _, command = _COMMANDS[name.decode()]
    except (KeyError, UnicodeDecodeError):
        raise StoreError("EINVAL") from None
    return command(request, arguments)


def _none(arguments: Sequence[bytes]) -> None:
    if arguments:
        raise StoreError("EINVAL")


def _help(_request: Request, arguments: Sequence[bytes]) -> bytes:
    _none(arguments)
    return strings("".join(f"{name:<15} {takes}\n" for name, (takes, _) in _COMMANDS.items()))


def _check(request: Request, arguments: Sequence[bytes]) -> bytes:
    """Look whether the tree is whole; what is wrong with it is in the log."""
    _none(arguments)
    faults = list(request.store.tree.faults())
    for fault in faults[:SHOWN_FAULTS]:
        print(f"check: {fault}", file=sys.stderr)
    if faults:
        raise StoreError("EIO")
    return OK


def _print(_request: Request, arguments: Sequence[bytes]) -> bytes:
    if len(arguments) != 1:
        raise StoreError("EINVAL")
    print(f"control: {ascii(arguments[0].decode(errors='replace'))[1:-1]}", file=sys.stderr)
    return OK


def _memreport(request: Request, arguments: Sequence[bytes]) -> bytes:
    """What the store holds, by domain; the real daemon writes it to a file."""
    _none(arguments)
    store = request.store
    lines = [f"nodes: {len(store.tree)}", f"watches: {len(store.watches)}"]
    lines.append(f"open transactions: {store.tree.open_transactions}")
    lines += [f"memory of domain {domid}: {size}" for domid, size in sorted(store.accounts.memory.items()) if size]
    return strings("\n".join(lines) + "\n")


def _quota(request: Request, arguments: Sequence[bytes]) -> bytes:
    """All quotas for new domains, what a domain uses of its own, or a new value of one."""
    accounts = request.store.accounts
    match list(arguments):
        case []:
            return strings(
                "Quota settings:\n" + "".join(f"{name:<18}: {accounts.value(name):8}\n" for name in WIRE_NAMES)
            )
        case [b"set", name, value]:
            if number(value) < 1:
                raise StoreError("EINVAL")
            accounts.change(name.decode(errors="replace"), number(value))
            return OK
        case [domid]:
            return _use(request, domain_number(number(domid)))
        case _:
            raise StoreError("EINVAL")


def _use(request: Request, domid: int) -> bytes:
    store = request.store
    connection = store.domain(domid).connection
    used = {
        "nodes": store.tree.owned_by(domid),
        "watches": store.watches.count(connection),
        "outstanding": connection.outstanding,
        "memory": store.accounts.memory[domid],
        "transactions": len(connection.transactions),
    }
    lines = (f"{name:<18}: {count:8} (max {store.accounts.value(name, domid):8})\n" for name, count in used.items())
    return strings(f"Domain {domid}:\n" + "".join(lines))


_COMMANDS: dict[str, tuple[str, Command]] = {
    "check": ("", _check),
    "memreport": ("", _memreport),
    "print": ("<string>", _print),
    "quota": ("[set <name> <value>|<domid>]", _quota),
    "help": ("", _help),
}
