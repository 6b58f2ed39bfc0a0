"""The messages of QEMU's guest agent protocol: JSON in lines, and distrust of whoever wrote them.

QEMU's ``qga/qapi-schema.json`` says what the commands mean. A request is one line; the answer is one line with either
``return`` or ``error``. The byte 0xFF, which no JSON contains, tells the other side to forget what came before it.
"""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Mapping
from dataclasses import dataclass

from harness.guest.text import printable
from harness.host.errors import AgentError

SENTINEL = b"\xff"
MAX_STREAM = 16 << 20
"""Bytes that an agent keeps of each output stream of a command."""

MAX_LINE = 2 * (MAX_STREAM // 3 * 4 + 4) + 4096
"""Bytes of the longest answer: both streams of a command, in base64."""

_MAX_STRUCTURED = 1 << 20
_MAX_SHOWN = 300


def request(command: str, arguments: Mapping[str, object] | None = None) -> bytes:
    """The line that asks for a command."""
    message: dict[str, object] = {"execute": command}
    if arguments:
        message["arguments"] = arguments
    return json.dumps(message).encode() + b"\n"


def _shown(line: bytes) -> str:
    return printable(line[:_MAX_SHOWN].decode(errors="replace"))


def parse_answer(command: str, line: bytes) -> object:
    """The value of ``return``.

    :raise AgentError: the agent reported an error, or the line is no answer.
    """
    # A long answer is long because of a string. Anything else that long would cost far more memory than its size.
    if len(line) > _MAX_STRUCTURED and line.count(b",") + line.count(b"[") + line.count(b"{") > 100:
        raise AgentError(f"the guest's agent answered {command} with an absurdly large structure")
    try:
        message = json.loads(line)
    except (ValueError, RecursionError):
        raise AgentError(
            f"the guest's agent answered {command} with something that is not JSON: {_shown(line)}"
        ) from None
    if not isinstance(message, dict) or ("return" in message) == ("error" in message):
        raise AgentError(f"the guest's agent answered {command} with neither a result nor an error: {_shown(line)}")
    if "error" in message:
        raise AgentError(f"the guest's agent refused {command}: {_description(message['error'])}")
    return message["return"]


def _description(error: object) -> str:
    if isinstance(error, dict) and isinstance(error.get("desc"), str):
        return printable(error["desc"][:_MAX_SHOWN])
    return "(it did not say why)"


class Fields:
    """Typed access to the members of an answer.

    :raise AgentError: from each method, when the member is missing or not what it should be.
    """

    def __init__(self, command: str, value: object) -> None:
        self._command = command
        if not isinstance(value, dict):
            raise self._error("an object", value)
        self._members = value

    def _error(self, expected: str, found: object, name: str | None = None) -> AgentError:
        member = f" in {name}" if name else ""
        return AgentError(
            f"the guest's agent answered {self._command} with {type(found).__name__}{member}, expected {expected}"
        )

    def boolean(self, name: str, *, otherwise: bool | None = None) -> bool:
        value = self._members.get(name, otherwise)
        if not isinstance(value, bool):
            raise self._error("a boolean", value, name)
        return value

    def integer(self, name: str) -> int:
        return integer(self._command, self._members.get(name), name)

    def optional_integer(self, name: str) -> int | None:
        return self.integer(name) if name in self._members else None

    def text(self, name: str, *, otherwise: str | None = None) -> str:
        value = self._members.get(name, otherwise)
        if not isinstance(value, str):
            raise self._error("a string", value, name)
        return value

    def objects(self, name: str) -> list[Fields]:
        return objects(self._command, self._members.get(name, []))

    def data(self, name: str) -> bytes:
        """Bytes in base64; none if the member is missing."""
        try:
            return base64.b64decode(self.text(name, otherwise=""), validate=True)
        except (binascii.Error, ValueError):
            raise self._error("base64", "", name) from None


def integer(command: str, value: object, name: str | None = None) -> int:
    """An answer, or a member of one, that must be an integer of 64 bits."""
    if not isinstance(value, int) or isinstance(value, bool) or abs(value) >= 1 << 63:
        member = f" in {name}" if name else ""
        raise AgentError(f"the guest's agent answered {command} with {type(value).__name__}{member}, not an integer")
    return value


def objects(command: str, value: object) -> list[Fields]:
    """An answer, or a member of one, that must be a list of objects."""
    if not isinstance(value, list):
        raise AgentError(f"the guest's agent answered {command} with {type(value).__name__}, not a list")
    return [Fields(command, item) for item in value]


@dataclass(frozen=True, slots=True)
class ExecStatus:
    """An answer to ``guest-exec-status``; only a command that has ended has more than the first member."""

    exited: bool
    status: int | None = None
    signal: int | None = None
    stdout: bytes = b""
    stderr: bytes = b""
    truncated: bool = False

    @classmethod
    def parse(cls, answer: object) -> ExecStatus:
        """Check an answer.

        :raise AgentError: it makes no sense.
        """
        fields = Fields("guest-exec-status", answer)
        if not fields.boolean("exited"):
            return cls(exited=False)
        status, signal = fields.optional_integer("exitcode"), fields.optional_integer("signal")
        if (status is None) == (signal is None):
            raise AgentError("the guest's agent reported the end of a command not with either a status or a signal")
        return cls(
            exited=True,
            status=status,
            signal=signal,
            stdout=fields.data("out-data"),
            stderr=fields.data("err-data"),
            truncated=fields.boolean("out-truncated", otherwise=False)
            or fields.boolean("err-truncated", otherwise=False),
        )
