"""The framing of xs_wire.h: a 16-byte header, then at most 4096 bytes of payload, in both directions."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from enum import IntEnum

from harness.store.errors import ProtocolError, StoreError

PAYLOAD_MAX = 4096
HEADER = struct.Struct("<IIII")
"""u32 type, request ID, transaction ID, length of the payload."""


class Op(IntEnum):
    """Message types (enum xsd_sockmsg_type)."""

    CONTROL = 0
    DIRECTORY = 1
    READ = 2
    GET_PERMS = 3
    WATCH = 4
    UNWATCH = 5
    TRANSACTION_START = 6
    TRANSACTION_END = 7
    INTRODUCE = 8
    RELEASE = 9
    GET_DOMAIN_PATH = 10
    WRITE = 11
    MKDIR = 12
    RM = 13
    SET_PERMS = 14
    WATCH_EVENT = 15
    ERROR = 16
    IS_DOMAIN_INTRODUCED = 17
    RESUME = 18
    SET_TARGET = 19
    RESET_WATCHES = 21
    DIRECTORY_PART = 22
    GET_FEATURE = 23
    SET_FEATURE = 24
    GET_QUOTA = 25
    SET_QUOTA = 26


@dataclass(frozen=True, slots=True)
class Message:
    """One message of either direction; ``type`` is any u32, since a peer may send what no Op names."""

    type: int
    request_id: int
    transaction_id: int
    payload: bytes

    def pack(self) -> bytes:
        return HEADER.pack(self.type, self.request_id, self.transaction_id, len(self.payload)) + self.payload


class Decoder:
    """Turns a stream of bytes, cut anywhere, into messages."""

    def __init__(self) -> None:
        self._buffer = bytearray()

    def feed(self, data: bytes) -> None:
        """Take in what was received."""
        self._buffer += data

    @property
    def ready(self) -> bool:
        """Whether :meth:`next` has something to say: the next message is complete, or it can never be."""
        if len(self._buffer) < HEADER.size:
            return False
        length: int = HEADER.unpack_from(self._buffer)[3]
        return length > PAYLOAD_MAX or len(self._buffer) >= HEADER.size + length

    def next(self) -> Message | None:
        """The next message if it is complete.

        :raise ProtocolError: its header announces more than PAYLOAD_MAX; nothing after it can be understood.
        """
        if not self.ready:
            return None
        kind, request_id, transaction_id, length = HEADER.unpack_from(self._buffer)
        if length > PAYLOAD_MAX:
            raise ProtocolError(f"a payload of {length} bytes is announced, the limit is {PAYLOAD_MAX}")
        end = HEADER.size + length
        payload = bytes(self._buffer[HEADER.size : end])
        del self._buffer[:end]
        return Message(kind, request_id, transaction_id, payload)


def strings(*parts: str | bytes) -> bytes:
    """Each part followed by a NUL."""
    return b"".join((part.encode() if isinstance(part, str) else part) + b"\0" for part in parts)


def split(payload: bytes) -> list[bytes]:
    """The NUL-terminated strings of a payload.

    :raise StoreError: EINVAL, the last one is not terminated.
    """
    if not payload.endswith(b"\0"):
        raise StoreError("EINVAL")
    return payload[:-1].split(b"\0")
