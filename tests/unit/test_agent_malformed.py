"""The agent itself, given what is no request: it answers with an error, once, and goes on."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.unit.agent_process import RawClient, compile_agent, running_agent


@pytest.fixture(scope="module")
def binary(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return compile_agent(tmp_path_factory.mktemp("agent"))


@pytest.fixture
def agent(binary: Path) -> Iterator[RawClient]:
    with running_agent(binary) as sock:
        yield RawClient(sock)


@pytest.mark.parametrize(
    "line",
    [
        b"{",
        b"[]",
        b"nul",
        b"{}",
        b'{"execute": 1}',
        b'{"execute": "guest-ping", "extra": 1}',
        b'{"execute": "guest-ping", "arguments": []}',
        b'{"execute": "guest-ping", "execute": "guest-ping"}',
        b'{"execute": "guest-ping"} x',
        b'{"execute": "guest-ping\\u0000"}',
        b'{"execute": "\\ud800"}',
        b'{"execute": "\\x41"}',
        b'{"execute": "a\tb"}',
        b'{"execute": "\xc0\xaf"}',
        b'{"execute": "\xed\xa0\x80"}',
        b'{"execute": "guest-sync", "arguments": {"id": 9223372036854775808}}',
        b'{"execute": "guest-sync", "arguments": {"id": 1.5}}',
        b'{"execute": "guest-sync", "arguments": {"id": 01}}',
        b'{"execute": "guest-sync", "arguments": {"id": true}}',
        b"[" * 17 + b"]" * 17,
        b"[" * 1000000,
        b'{"a":' * 100000,
        b"[" + b"1," * 5000 + b"1]",
        b'{"execute": "x", "arguments": {' + b",".join(b'"%d": 0' % n for n in range(40)) + b"}}",
        b"\0" * 100,
        b'"\0"',
    ],
    ids=lambda line: repr(line[:40]),
)
def test_malformed_requests_get_an_error(agent: RawClient, line: bytes) -> None:
    assert agent.raw(line)["error"]["class"] == "GenericError"
    assert agent.raw(b'{"execute": "guest-ping"}') == {"return": {}}


def test_an_unknown_command_has_its_own_class(agent: RawClient) -> None:
    error = agent.raw(b'{"execute": "guest-\\u00e4\\"\\ud83d\\ude00"}')["error"]
    assert error["class"] == "CommandNotFound"
    assert 'guest-\u00e4"\U0001f600' in error["desc"]


def test_empty_lines_are_ignored(agent: RawClient) -> None:
    agent.send(b"\n \t\r\n\n")
    assert agent.ask("guest-ping") == {}


def test_overlong_request_gets_one_error(agent: RawClient) -> None:
    for length in ((1 << 20) - 1, 1 << 20, (1 << 20) + 1, 5 << 20):
        answer = agent.raw(b"x" * length)
        assert "too long" in answer["error"]["desc"] or length < 1 << 20
        assert agent.ask("guest-ping") == {}


def test_sentinel_ends_an_overlong_request_silently(agent: RawClient) -> None:
    agent.send(b"x" * (3 << 20) + b"\xff")
    assert agent.ask("guest-ping") == {}


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=30,
)
names = st.sampled_from(["guest-exec-status", "guest-sync", "guest-ping", "guest-file-read", "guest-file-seek"])
members = st.sampled_from(["id", "pid", "handle", "count", "offset", "whence"])
requests = st.fixed_dictionaries(
    {}, optional={"execute": names | values, "arguments": st.dictionaries(members, values) | values}
)
#: One line, never empty, without the byte that silences the agent.
lines = st.one_of(
    requests.map(lambda r: json.dumps(r).encode()),
    requests.map(lambda r: json.dumps(r, ensure_ascii=False).encode(errors="surrogatepass")),
    st.binary(min_size=1).map(lambda b: b.replace(b"\n", b"").replace(b"\xff", b"")).filter(lambda b: b.strip() != b""),
)


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.tuples(lines, st.integers(0, 40)), max_size=4))
def test_every_line_gets_one_answer(agent: RawClient, mangled: list[tuple[bytes, int]]) -> None:
    for line, cut in mangled:
        request = (line[:-cut] if cut < len(line.strip()) and cut % 4 == 0 and cut else line).strip(b" \t\r") or b"{"
        answer = agent.raw(request)
        assert ("return" in answer) != ("error" in answer)
    assert agent.ask("guest-sync", id=5) == 5
