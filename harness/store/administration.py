"""The requests about domains: who is there, what they may use and which features they are offered."""

from __future__ import annotations

from dataclasses import replace

from harness.store.errors import StoreError
from harness.store.paths import home
from harness.store.permissions import DOMID_SELF
from harness.store.quotas import WIRE_NAMES
from harness.store.request import OK, Request, domain_number, number
from harness.store.wire import split, strings

DOMID_MAX = 65535


def introduce(request: Request) -> bytes:
    """``domid|frame|port|``, and whatever a later version may add."""
    parts = split(request.message.payload)
    if len(parts) < 3:
        raise StoreError("EINVAL")
    domid, frame, port = (number(part) for part in parts[:3])
    request.store.introduce(request.connection, domain_number(domid), frame, port, request.fds)
    return OK


def _managed(request: Request) -> int:
    """The domain that a request is about; not Domain 0, which is always there."""
    (domid,) = request.numbers(1)
    if domid == 0:
        raise StoreError("EINVAL")
    return request.store.domain(domid).domid


def release(request: Request) -> bytes:
    request.store.release(_managed(request))
    return OK


def resume(request: Request) -> bytes:
    """Nothing to do: that a domain has been shut down is not a state here, its end is told as its release."""
    _managed(request)
    return OK


def set_target(request: Request) -> bytes:
    domid, target = request.numbers(2)
    connection = request.store.domain(domid).connection
    connection.who = replace(connection.who, target=request.store.domain(target).domid)
    return OK


def get_domain_path(request: Request) -> bytes:
    (domid,) = request.numbers(1)
    if domid > DOMID_MAX:
        raise StoreError("EINVAL")
    return strings(home(domid))


def is_domain_introduced(request: Request) -> bytes:
    (domid,) = request.numbers(1)
    return strings("T" if domid in (0, DOMID_SELF) or domid in request.store.domains else "F")


def _arguments(request: Request) -> list[bytes]:
    """The strings of a request that may have none."""
    payload = request.message.payload
    return split(payload) if payload.strip(b"\0") else []


def get_feature(request: Request) -> bytes:
    """Of whoever asks, or of a domain if Domain 0 asks."""
    arguments = _arguments(request)
    if not arguments:
        return strings(str(request.connection.features))
    if not request.who.privileged:
        raise StoreError("EACCES")
    (domid,) = request.numbers(1)
    return strings(str(request.store.features_of(domain_number(domid))))


def set_feature(request: Request) -> bytes:
    domid, features = request.numbers(2)
    request.store.offer_features(domain_number(domid), features)
    return OK


def get_quota(request: Request) -> bytes:
    """The names of all quotas, or the value of one, of a domain or for new domains."""
    arguments = _arguments(request)
    match arguments:
        case []:
            return strings(" ".join(WIRE_NAMES))
        case [name]:
            domid = None
        case [text, name]:
            domid = domain_number(number(text))
        case _:
            raise StoreError("EINVAL")
    return strings(str(request.store.accounts.value(_quota_name(name), domid)))


def set_quota(request: Request) -> bytes:
    match _arguments(request):
        case [name, value]:
            request.store.accounts.change(_quota_name(name), number(value))
        case [text, name, value]:
            request.store.accounts.change(_quota_name(name), number(value), domain_number(number(text)))
        case _:
            raise StoreError("EINVAL")
    return OK


def _quota_name(raw: bytes) -> str:
    return raw.decode(errors="replace")
