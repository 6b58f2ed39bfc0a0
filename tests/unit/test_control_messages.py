"""Messages of the control socket, and what hostile or broken ones come to."""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.domain import messages
from harness.domain.messages import LENGTH, Message
from harness.guest.completed import CommandTimeout
from harness.host.errors import CheckFailed, GuestCrashed, GuestError, HarnessError, HostError, LaunchError, UsageError

Pair = tuple[socket.socket, socket.socket]
JSON = st.recursive(st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(), st.lists)


@pytest.fixture
def pair() -> Iterator[Pair]:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        yield ours, theirs


def through(data: bytes, limit: int = messages.MAX_REQUEST) -> Message | None:
    ours, theirs = socket.socketpair()
    with ours:
        with theirs:
            theirs.sendall(data)
        return messages.receive(ours, limit)


@given(fields=st.dictionaries(st.text(), JSON), rest=st.binary(max_size=50))
def test_a_message_arrives_and_not_a_byte_more_is_read(fields: dict[str, Any], rest: bytes) -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        messages.send(theirs, fields)
        theirs.sendall(rest)
        theirs.close()
        message = messages.receive(ours, messages.MAX_REQUEST)
        assert message is not None
        assert message.fields == fields
        assert ours.recv(100) == rest


def test_a_descriptor_comes_along(pair: Pair) -> None:
    reader, writer = os.pipe()
    messages.send(pair[0], {"here": "it is"}, [writer])
    os.close(writer)
    message = messages.receive(pair[1], 100)
    assert message is not None
    os.write(message.descriptors[0], b"x")
    message.close()
    assert message.descriptors == []
    # The last copy is closed: after the byte comes the end.
    assert [os.read(reader, 10), os.read(reader, 10)] == [b"x", b""]
    os.close(reader)


def test_a_descriptor_of_a_broken_message_is_closed(pair: Pair) -> None:
    reader, writer = os.pipe()
    socket.send_fds(pair[0], [LENGTH.pack(3) + b"{x}"], [writer])
    os.close(writer)
    with pytest.raises(UsageError, match="no JSON"):
        messages.receive(pair[1], 100)
    assert os.read(reader, 1) == b""
    os.close(reader)


def test_the_end_of_the_stream_is_no_message() -> None:
    assert through(b"") is None


@pytest.mark.parametrize("data", [b"\0", LENGTH.pack(2), LENGTH.pack(2) + b"{", b"\0\0\0"])
def test_a_message_that_is_cut_off(data: bytes) -> None:
    with pytest.raises(ConnectionAbortedError):
        through(data)


@pytest.mark.parametrize("payload", [b"", b"[]", b"null", b"{", b"\xff", b"[" * 5000, b"{}x"])
def test_what_is_no_json_object_is_refused(payload: bytes) -> None:
    with pytest.raises(UsageError, match="a message is no JSON"):
        through(LENGTH.pack(len(payload)) + payload)


def test_a_long_message_is_refused_before_it_is_read() -> None:
    with pytest.raises(UsageError, match="a message of 4294967295 bytes is more than 100"):
        through(LENGTH.pack(0xFFFFFFFF), 100)


@given(key=st.sampled_from(["argv", "stdin", "timeout", "flag"]), value=JSON)
def test_fields_are_what_they_should_be_or_refused(key: str, value: object) -> None:
    message = Message({key: value})
    checks: list[tuple[Any, Any]] = [
        (lambda: message.strings(key), lambda got: got and all(type(one) is str for one in got)),
        (lambda: message.seconds(key), lambda got: type(got) is float and 0 < got < float("inf")),
        (lambda: message.data(key), lambda got: type(got) is bytes),
        (lambda: message.get(key, int), lambda got: type(got) is int),
        (lambda: message.get(key, bool), lambda got: type(got) is bool),
    ]
    for read, is_right in checks:
        with suppress(UsageError):
            assert is_right(read())


@given(data=st.binary())
def test_bytes_survive(data: bytes) -> None:
    assert Message({"data": messages.encoded(data)}).data("data") == data


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (CheckFailed("a"), CheckFailed),
        (UsageError("b", hint="do this"), UsageError),
        (HostError("c"), HostError),
        (LaunchError("d", argv=["x"], exit_status=1, output="said"), HostError),
        (GuestCrashed("e", console=["one", "two"], hint="look there"), GuestError),
        (CommandTimeout(["sleep"], 1.0, fate="killed"), GuestError),
    ],
)
def test_errors_arrive_with_their_text_and_exit_code(error: HarnessError, kind: type[HarnessError]) -> None:
    fields = json.loads(json.dumps(messages.error_fields(error)))
    with pytest.raises(kind) as caught:
        messages.raise_error(Message(fields))
    assert str(caught.value) == str(error)
    assert caught.value.exit_code == error.exit_code


def test_an_answer_is_no_error() -> None:
    messages.raise_error(Message({"status": 4}))
