"""The framing and the names of xs_wire.h."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.store.errors import NAMES, ProtocolError, StoreError
from harness.store.wire import HEADER, PAYLOAD_MAX, Decoder, Message, Op, split, strings
from tests.unit import abi

u32 = st.integers(0, 0xFFFFFFFF)
messages = st.builds(Message, u32, u32, u32, st.binary(max_size=PAYLOAD_MAX))


@given(st.lists(messages, max_size=8), st.lists(st.integers(0, 8000), max_size=12))
def test_a_stream_cut_anywhere_gives_the_messages_that_were_sent(sent: list[Message], cuts: list[int]) -> None:
    stream = b"".join(message.pack() for message in sent)
    decoder, received = Decoder(), []
    borders = sorted({0, len(stream), *(min(cut, len(stream)) for cut in cuts)})
    for start, end in pairwise(borders):
        decoder.feed(stream[start:end])
        while decoder.ready:
            message = decoder.next()
            assert message is not None
            received.append(message)
        assert decoder.next() is None
    assert received == sent


@pytest.mark.parametrize("length", [PAYLOAD_MAX + 1, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF])
def test_a_length_over_the_limit_ends_the_stream_before_the_payload_comes(length: int) -> None:
    decoder = Decoder()
    decoder.feed(Message(Op.READ, 1, 0, b"/\0").pack() + HEADER.pack(Op.WRITE, 2, 0, length))
    assert decoder.next() == Message(Op.READ, 1, 0, b"/\0")
    assert decoder.ready
    with pytest.raises(ProtocolError, match=str(length)):
        decoder.next()


@given(st.lists(st.binary().filter(lambda part: b"\0" not in part), min_size=1))
def test_strings_and_split_are_inverse(parts: list[bytes]) -> None:
    assert split(strings(*parts)) == parts


@pytest.mark.parametrize("payload", [b"", b"/a", b"/a\0b"])
def test_a_string_without_its_end_is_refused(payload: bytes) -> None:
    with pytest.raises(StoreError) as refused:
        split(payload)
    assert refused.value.name == "EINVAL"


def test_numbers_are_those_of_the_header(tmp_path: Path) -> None:
    """Also shows that no error name of the header is missing here, and none is invented."""
    ours = {f"XS_{op.name}": op.value for op in Op if op < Op.GET_FEATURE}
    count = "(int)(sizeof(xsd_errors) / sizeof(xsd_errors[0]))"
    known = [f"xsd_errors[{index}].errnum == {name}" for index, name in enumerate(NAMES)]
    expressions = [*ours, "XENSTORE_PAYLOAD_MAX", "sizeof(struct xsd_sockmsg)", count, *known]
    theirs = abi.ask(tmp_path, ["<xen/io/xs_wire.h>"], expressions=expressions)
    assert theirs == {
        **ours,
        "XENSTORE_PAYLOAD_MAX": PAYLOAD_MAX,
        "sizeof(struct xsd_sockmsg)": HEADER.size,
        count: len(NAMES),
        **dict.fromkeys(known, 1),
    }


def test_the_numbers_that_are_newer_than_the_header() -> None:
    newer = {op.name: op.value for op in Op if op >= Op.GET_FEATURE}
    assert newer == {"GET_FEATURE": 23, "SET_FEATURE": 24, "GET_QUOTA": 25, "SET_QUOTA": 26}


def test_an_error_says_what_was_asked_of_what_and_has_the_number_of_its_name() -> None:
    error = StoreError("ENOENT", "READ", "/local/domain/9/name")
    assert "READ /local/domain/9/name: ENOENT" in str(error)
    assert error.errno == 2
    assert StoreError("EBOGUS").name == "EINVAL"
