"""What goes over a domain's control socket: a length (u32, network order), then a JSON object, with descriptors or not.

The length lets a raw stream follow a message on the same socket without a byte of it being read too early.
"""

from __future__ import annotations

import base64
import binascii
import json
import os
import socket
import struct
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

from harness.host.errors import CheckFailed, GuestError, HarnessError, HostError, UsageError

LENGTH = struct.Struct(">I")
MAX_REQUEST = 1 << 20
"""Bytes: more than the standard input of a command, which is at most 256 KiB, takes in base64."""
MAX_ANSWER = 64 << 20
"""Bytes: more than both streams of a command, of which an agent keeps 16 MiB each, take in base64."""
MAX_DESCRIPTORS = 1

Value = TypeVar("Value")


class Message:
    """A JSON object from the other end, whose fields are checked when they are looked at.

    :param descriptors: what came with it, for the receiver to close.
    """

    def __init__(self, fields: Mapping[str, Any], descriptors: Sequence[int] = ()) -> None:
        self.fields = fields
        self.descriptors = list(descriptors)

    def get(self, key: str, kind: type[Value]) -> Value:
        """:raise UsageError: the field is missing, or of another type."""
        value = self.fields.get(key)
        # To Python, True is a number.
        if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
            raise UsageError(f"{key} is missing, or no {kind.__name__}")
        return value

    def seconds(self, key: str) -> float:
        """A positive number."""
        value = self.fields.get(key)
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < float("inf"):
            raise UsageError(f"{key} is missing, or no number of seconds")
        return float(value)

    def data(self, key: str) -> bytes:
        """Bytes, which travel in base64."""
        try:
            return base64.b64decode(self.get(key, str), validate=True)
        except (binascii.Error, ValueError):
            raise UsageError(f"{key} is not base64") from None

    def strings(self, key: str) -> list[str]:
        """A list of strings with at least one in it."""
        values = self.get(key, list)
        if not values or not all(isinstance(value, str) for value in values):
            raise UsageError(f"{key} is empty, or not a list of strings")
        return values

    def texts(self, key: str) -> dict[str, str]:
        """An object whose values are strings."""
        values = self.get(key, dict)
        if not all(isinstance(value, str) for value in values.values()):
            raise UsageError(f"{key} is no object of strings")
        return values

    def messages(self, key: str) -> list[Message]:
        """A list of objects."""
        values = self.get(key, list)
        if not all(isinstance(value, dict) for value in values):
            raise UsageError(f"{key} is no list of objects")
        return [Message(value) for value in values]

    def encoded(self, key: str) -> bytes:
        """An object as JSON."""
        return json.dumps(self.get(key, dict), ensure_ascii=False).encode(errors="surrogatepass")

    def close(self) -> None:
        """Close the descriptors that nobody has taken."""
        while self.descriptors:
            os.close(self.descriptors.pop())


def encoded(data: bytes) -> str:
    """Bytes for a field."""
    return base64.b64encode(data).decode()


def error_fields(error: HarnessError) -> dict[str, Any]:
    """An error as a message; :func:`raise_error` makes an error of the same text and exit code of it."""
    return {"error": error.what, "hint": error.hint, "exit_code": error.exit_code}


_ERRORS: dict[int, type[HarnessError]] = {1: CheckFailed, 2: UsageError, 3: HostError, 4: GuestError}


def raise_error(message: Message) -> None:
    """Raise the error that a message is, if it is one."""
    if "error" in message.fields:
        hint = message.fields.get("hint")
        kind = _ERRORS.get(message.get("exit_code", int), HostError)
        raise kind(message.get("error", str), hint=hint if isinstance(hint, str) else None)


def send(connection: socket.socket, fields: Mapping[str, Any], descriptors: Sequence[int] = ()) -> None:
    """Send a message.

    :raise OSError: nobody takes it.
    """
    payload = json.dumps(fields).encode()
    data = LENGTH.pack(len(payload)) + payload
    sent = socket.send_fds(connection, [data], descriptors) if descriptors else 0
    # Who has all of it may have answered and gone: to send nothing would be an error then.
    if sent < len(data):
        connection.sendall(data[sent:])


def receive(connection: socket.socket, limit: int) -> Message | None:
    """The next message, or None at the end of the stream.

    :param limit: bytes; a longer message is refused.
    :raise UsageError: what came is no message.
    :raise OSError: the connection broke.
    """
    header, descriptors, _, _ = socket.recv_fds(connection, LENGTH.size, MAX_DESCRIPTORS)
    message = Message({}, descriptors)
    try:
        if not header:
            return None
        header += _exactly(connection, LENGTH.size - len(header))
        (length,) = LENGTH.unpack(header)
        if length > limit:
            raise UsageError(f"a message of {length} bytes is more than {limit}")
        fields = json.loads(_exactly(connection, length))
        if not isinstance(fields, dict):
            raise UsageError("a message is no JSON object")
        message.fields = fields
        return message
    except (ValueError, RecursionError) as error:
        message.close()
        raise UsageError(f"a message is no JSON: {error}") from error
    except BaseException:
        message.close()
        raise


def _exactly(connection: socket.socket, count: int) -> bytes:
    data = bytearray()
    while len(data) < count:
        piece = connection.recv(count - len(data))
        if not piece:
            raise ConnectionAbortedError("the connection ended within a message")
        data += piece
    return bytes(data)
