"""The agent itself, at the level of bytes: what the protocol asks for."""

from __future__ import annotations

import base64
import json
import os
import select
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.unit.agent_process import PATIENCE, RawClient, compile_agent, running_agent, running_agent_on_terminal

ALL_BYTES = bytes(range(256))


@pytest.fixture(scope="module")
def binary(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return compile_agent(tmp_path_factory.mktemp("agent"))


@pytest.fixture
def agent(binary: Path) -> Iterator[RawClient]:
    with running_agent(binary) as sock:
        yield RawClient(sock)


def finish(agent: RawClient, pid: int) -> dict[str, Any]:
    """Ask for a command's status until it has ended."""
    end = time.monotonic() + PATIENCE
    while time.monotonic() < end:
        status = agent.ask("guest-exec-status", pid=pid)
        assert isinstance(status, dict)
        if status["exited"]:
            return status
    raise TimeoutError(pid)


def run(agent: RawClient, *argv: str, **more: object) -> dict[str, Any]:
    started = agent.ask("guest-exec", path=argv[0], arg=list(argv[1:]), capture_output=True, **more)
    return finish(agent, started["pid"])


def test_sync_returns_the_number(agent: RawClient) -> None:
    for number in (0, -1, 2**63 - 1, -(2**63)):
        assert agent.ask("guest-sync", id=number) == number


def test_sync_delimited_puts_the_sentinel_before_its_answer(agent: RawClient) -> None:
    agent.send(b'{"execute": "guest-sync-delimited", "arguments": {"id": 77}}\n')
    assert agent.line() == b'\xff{"return": 77}\n'


def test_sentinel_drops_half_a_request(agent: RawClient) -> None:
    agent.send(b'{"execute": "guest-pi\xff')
    assert agent.raw(b'{"execute": "guest-ping"}') == {"return": {}}


def test_requests_sent_at_once_are_answered_in_order(agent: RawClient) -> None:
    requests = [b'{"execute": "guest-sync", "arguments": {"id": %d}}\n' % n for n in range(500)]
    agent.send(b"".join(requests))
    assert [json.loads(agent.line())["return"] for _ in requests] == list(range(500))


def test_info_lists_what_is_there(agent: RawClient) -> None:
    commands = {c["name"]: c for c in agent.ask("guest-info")["supported_commands"]}
    assert commands["guest-exec"] == {"name": "guest-exec", "enabled": True, "success-response": True}
    assert commands["guest-shutdown"]["success-response"] is False


def test_time_is_in_nanoseconds(agent: RawClient) -> None:
    assert abs(agent.ask("guest-get-time") - time.time_ns()) < 10**9


def test_interfaces_include_the_loopback(agent: RawClient) -> None:
    (loopback,) = [i for i in agent.ask("guest-network-get-interfaces") if i["name"] == "lo"]
    assert loopback["hardware-address"] == "00:00:00:00:00:00"
    assert {"ip-address-type": "ipv4", "ip-address": "127.0.0.1", "prefix": 8} in loopback["ip-addresses"]


def test_every_byte_passes_through_a_command(agent: RawClient) -> None:
    status = run(agent, "cat", input_data=base64.b64encode(ALL_BYTES).decode())
    assert base64.b64decode(status["out-data"]) == ALL_BYTES
    assert status["exitcode"] == 0
    assert "err-data" not in status


def test_a_command_without_input_reads_nothing(agent: RawClient) -> None:
    status = run(agent, "cat")
    assert status == {"exited": True, "exitcode": 0}


def test_output_is_only_captured_on_request(agent: RawClient) -> None:
    pid = agent.ask("guest-exec", path="echo", arg=["unheard"])["pid"]
    assert finish(agent, pid) == {"exited": True, "exitcode": 0}


def test_exit_status_and_signal(agent: RawClient) -> None:
    assert run(agent, "sh", "-c", "exit 200") == {"exited": True, "exitcode": 200}
    assert run(agent, "sh", "-c", "kill -KILL $$") == {"exited": True, "signal": 9}


def test_environment_replaces_the_agents(agent: RawClient) -> None:
    status = run(agent, "/usr/bin/env", env=["A=1", "B=\u00e4 b"])
    assert base64.b64decode(status["out-data"]).decode() == "A=1\nB=\u00e4 b\n"


def test_a_command_leads_its_own_session(agent: RawClient) -> None:
    pid = agent.ask("guest-exec", path="sh", arg=["-c", "ps -o pid=,pgid=,sid= -p $$"], capture_output=True)["pid"]
    assert base64.b64decode(finish(agent, pid)["out-data"]).split() == [str(pid).encode()] * 3


def test_a_command_inherits_only_its_three_streams(agent: RawClient) -> None:
    # No pattern: to expand one, the shell would open a directory.
    status = run(agent, "sh", "-c", "for n in 0 1 2 3 4 5 6 7 8 9; do [ ! -e /proc/$$/fd/$n ] || echo $n; done")
    assert base64.b64decode(status["out-data"]).split() == [b"0", b"1", b"2"]


def test_result_is_given_once(agent: RawClient) -> None:
    pid = agent.ask("guest-exec", path="true")["pid"]
    finish(agent, pid)
    assert "no command has PID" in agent.refusal("guest-exec-status", pid=pid)


def test_output_beyond_the_limit_is_cut_and_marked(agent: RawClient) -> None:
    status = run(agent, "sh", "-c", "head -c 20000000 /dev/zero; echo done >&2")
    assert len(base64.b64decode(status["out-data"])) == 16 << 20
    assert status["out-truncated"] is True
    assert base64.b64decode(status["err-data"]) == b"done\n"
    assert "err-truncated" not in status


def test_memory_for_output_is_bounded_over_all_commands(agent: RawClient) -> None:
    pids = [
        agent.ask("guest-exec", path="head", arg=["-c", "15000000", "/dev/zero"], capture_output=True)["pid"]
        for _ in range(6)
    ]
    kept = []
    for pid in pids:
        end = finish(agent, pid)
        kept.append((len(base64.b64decode(end.get("out-data", ""))), end.get("out-truncated", False)))
    assert all(truncated or length == 15000000 for length, truncated in kept)


def test_abandoned_results_make_room(agent: RawClient) -> None:
    pids = [agent.ask("guest-exec", path="true")["pid"] for _ in range(300)]
    assert finish(agent, pids[-1])["exitcode"] == 0


def test_running_commands_are_never_forgotten(agent: RawClient) -> None:
    for _ in range(128):
        agent.ask("guest-exec", path="sleep", arg=["10"])
    assert "running already" in agent.refusal("guest-exec", path="true")


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        ({"path": "/no/such/program"}, "No such file"),
        ({"path": "/"}, "Permission denied"),
        ({"path": ""}, "No such file"),
        ({"path": 7}, "path must be a string, not an integer"),
        ({}, "needs the argument path"),
        ({"path": "true", "arg": ["a", 1]}, "strings only"),
        ({"path": "true", "arg": "a"}, "arg must be an array"),
        ({"path": "true", "env": [None]}, "strings only"),
        ({"path": "true", "input-data": "%%%%"}, "not valid base64"),
        ({"path": "true", "input-data": "QQ="}, "not valid base64"),
        ({"path": "true", "input-data": "QR=="}, "not valid base64"),
        ({"path": "true", "surprise": 1}, "has no argument surprise"),
    ],
)
def test_bad_arguments_are_refused(agent: RawClient, arguments: dict[str, Any], problem: str) -> None:
    assert problem in agent.refusal("guest-exec", **arguments)
    assert agent.ask("guest-ping") == {}


def test_files(agent: RawClient, tmp_path: Path) -> None:
    path = str(tmp_path / "file")
    handle = agent.ask("guest-file-open", path=path, mode="w+b")
    data = base64.b64encode(ALL_BYTES).decode()
    assert agent.ask("guest-file-write", handle=handle, buf_b64=data) == {"count": 256, "eof": False}
    assert agent.ask("guest-file-write", handle=handle, buf_b64=data, count=10)["count"] == 10
    assert agent.ask("guest-file-flush", handle=handle) == {}
    assert agent.ask("guest-file-seek", handle=handle, offset=-6, whence="end")["position"] == 260
    rest = agent.ask("guest-file-read", handle=handle)
    assert rest == {"count": 6, "buf-b64": base64.b64encode(ALL_BYTES[4:10]).decode(), "eof": True}
    assert agent.ask("guest-file-seek", handle=handle, offset=0, whence=0)["position"] == 0
    first = agent.ask("guest-file-read", handle=handle, count=3)
    assert first == {"count": 3, "buf-b64": "AAEC", "eof": False}
    assert agent.ask("guest-file-close", handle=handle) == {}
    assert "no open file" in agent.refusal("guest-file-read", handle=handle)
    assert Path(path).read_bytes() == ALL_BYTES + ALL_BYTES[:10]


def test_file_errors(agent: RawClient, tmp_path: Path) -> None:
    existing = tmp_path / "file"
    existing.write_bytes(b"kept")
    assert "No such file" in agent.refusal("guest-file-open", path=str(tmp_path / "none"))
    for mode in ("", "b", "rw", "r++", "rbx+", "wx"):
        assert "no mode" in agent.refusal("guest-file-open", path=str(existing), mode=mode)
    handle = agent.ask("guest-file-open", path=str(existing))
    assert "negative" in agent.refusal("guest-file-read", handle=handle, count=-1)
    assert "Bad file descriptor" in agent.refusal("guest-file-write", handle=handle, buf_b64="QQ==")
    assert "whence" in agent.refusal("guest-file-seek", handle=handle, offset=0, whence=3)
    assert "whence" in agent.refusal("guest-file-seek", handle=handle, offset=0, whence="middle")
    assert agent.ask("guest-file-read", handle=handle, count=2**62)["count"] == 4


def test_open_files_are_limited(agent: RawClient) -> None:
    for _ in range(32):
        agent.ask("guest-file-open", path="/dev/null")
    assert "open already" in agent.refusal("guest-file-open", path="/dev/null")


def test_a_fifo_holds_nobody_up(agent: RawClient, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    assert "No such device" in agent.refusal("guest-file-open", path=str(tmp_path / "fifo"), mode="w")
    handle = agent.ask("guest-file-open", path=str(tmp_path / "fifo"))
    assert agent.ask("guest-file-read", handle=handle)["eof"] is True


def test_shutdown_refuses_an_unknown_mode(agent: RawClient) -> None:
    assert "mode is powerdown" in agent.refusal("guest-shutdown", mode="explode")


def test_longest_request_that_fits(agent: RawClient) -> None:
    data = os.urandom(700000)
    status = run(agent, "cat", input_data=base64.b64encode(data).decode())
    assert base64.b64decode(status["out-data"]) == data


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.text(alphabet=st.characters(exclude_characters="\0", exclude_categories=["Cs"])))
def test_any_text_arrives_as_an_argument(agent: RawClient, text: str) -> None:
    status = run(agent, "printf", "%s", text)
    assert base64.b64decode(status.get("out-data", "")).decode() == text


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    data=st.binary(max_size=100),
    wrong=st.characters(exclude_characters="\0", exclude_categories=["Cs"]),
    at=st.integers(0, 200),
)
def test_base64_is_strict(agent: RawClient, tmp_path: Path, data: bytes, wrong: str, at: int) -> None:
    """What the agent accepts is exactly what encodes to itself, and it means the same to both."""
    encoded = base64.b64encode(data).decode()
    damaged = encoded[:at] + wrong + encoded[at + 1 :]
    try:
        expected = base64.b64decode(damaged, validate=True)
        canonical = base64.b64encode(expected).decode() == damaged
    except ValueError:
        canonical = False
    handle = agent.ask("guest-file-open", path=str(tmp_path / "file"), mode="w")
    if canonical:
        agent.ask("guest-file-write", handle=handle, buf_b64=damaged)
        assert (tmp_path / "file").read_bytes() == expected
    else:
        assert agent.refusal("guest-file-write", handle=handle, buf_b64=damaged) == "buf-b64 is not valid base64"
    agent.ask("guest-file-close", handle=handle)


def test_on_a_terminal_every_byte_is_data(binary: Path) -> None:
    """A serial line in its default mode would echo, translate line ends and act on control characters."""
    with running_agent_on_terminal(binary) as port:
        received = b""
        sent = False
        # Characters that a terminal acts on: interrupt, end of file, erase, suspend, start, stop, quote.
        request = b'\x03\x04\x7f\x1a\x11\x13\x16\xff{"execute": "guest-sync", "arguments": {"id": 9}}\n'
        while not received.endswith(b'{"return": 9}\n'):
            ready, _, _ = select.select([port], [], [], PATIENCE)
            assert ready, received
            received += os.read(port, 65536)
            if received == b"\xff\n" and not sent:
                os.write(port, request)
                sent = True
        assert received == b'\xff\n{"return": 9}\n'
