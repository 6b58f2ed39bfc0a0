"""The command line as far as it goes without a domain: parsing, errors, exit codes."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from harness.cli import main as command_line
from harness.cli.arguments import parse
from harness.cli.main import main, parser
from harness.cli.store import printable
from harness.domain import records
from harness.host.directories import GUESTS
from harness.host.errors import CheckFailed, GuestError, HarnessError, HostError, UsageError


@pytest.fixture(autouse=True)
def directories(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("HARNESS_RUNTIME", str(tmp_path / "run"))
    monkeypatch.setenv("HARNESS_CACHE", str(tmp_path / "cache"))
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGHUP)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@contextmanager
def failing(monkeypatch: pytest.MonkeyPatch, error: BaseException) -> Iterator[None]:
    """Every ``harness list`` ends with this error."""

    def fail() -> None:
        raise error

    with monkeypatch.context() as patch:
        patch.setattr(records, "records", fail)
        yield


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (CheckFailed("too slow"), 1),
        (UsageError("nonsense", hint="do this"), 2),
        (HostError("no room"), 3),
        (GuestError("panic", console=["last line"]), 4),
        (OSError(28, "No space left on device"), 3),
        (KeyboardInterrupt(), 130),
    ],
)
def test_errors_become_one_paragraph_and_an_exit_code(
    error: BaseException, code: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with failing(monkeypatch, error):
        assert main(["list"]) == code
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("harness: ")
    assert str(error) in err
    assert "Traceback" not in err
    assert "\n\n" not in err


def test_debug_shows_where_an_error_comes_from(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with failing(monkeypatch, HostError("no room")):
        assert main(["--debug", "list"]) == 3
    assert "Traceback" in capsys.readouterr().err


@pytest.mark.parametrize(
    "argv",
    [
        [],
        ["no-such-verb"],
        ["boot"],
        ["boot", "x.yaml", "--accel", "xen"],
        ["exec"],
        ["shutdown", "--timeout", "0", "x"],
        ["list", "--", "x"],
        ["images"],
        ["store", "watch"],
        ["store", "watch", "-n", "many", "/"],
        ["exec", "x", "uname", "-a"],
    ],
)
def test_bad_usage_is_2(argv: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(argv)
    assert caught.value.code == 2
    assert "usage:" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("argv", "command"),
    [
        (["exec", "x"], []),
        (["exec", "x", "ls"], ["ls"]),
        (["exec", "x", "--", "ls", "-l"], ["ls", "-l"]),
        (["exec", "-n", "x", "--", "sh", "-c", "a", "--", "-n"], ["sh", "-c", "a", "--", "-n"]),
        (["exec", "x", "-n", "--", "--", "x"], ["--", "x"]),
        (["ssh", "x", "--", "--help"], ["--help"]),
    ],
)
def test_the_command_is_what_follows_the_dashes(argv: list[str], command: list[str]) -> None:
    arguments = parse(parser(), argv)
    assert arguments.name == "x"
    assert arguments.command == command


@pytest.mark.parametrize("argv", [["-k", "ring", "-x"], ["--help"], ["tests/unit", "--", "-x"], []])
def test_arguments_of_pytest_are_left_alone(argv: list[str]) -> None:
    assert parse(parser(), ["test", *argv]).pytest == [word for word in argv if word != "--"]


@pytest.mark.parametrize("verb", ["boot", "create"])
@pytest.mark.parametrize(
    ("typed", "meant"),
    [("pv", "pv"), ("hvm.yml", "hvm"), ("guests/virtoi.yaml", "virtio"), ("/nowhere/pv.yaml", "pv")],
)
def test_an_unknown_file_is_answered_with_a_suggestion(
    verb: str,
    typed: str,
    meant: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main([verb, typed]) == 2
    assert f"there is no file {typed}\ndid you mean {GUESTS}/{meant}.yaml?" in capsys.readouterr().err
    monkeypatch.chdir(GUESTS.parent)
    assert main([verb, typed]) == 2
    assert f"did you mean guests/{meant}.yaml?" in capsys.readouterr().err


def test_ready_made_definitions_are_listed_when_none_is_near(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["boot", "something-else.yaml"]) == 2
    err = capsys.readouterr().err
    for name in ("hvm", "pv", "virtio"):
        assert f"guests/{name}.yaml" in err


def test_a_bad_definition_and_a_bad_name(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "guest.yaml"
    file.write_text("kind: hvm\nmemroy: 1GiB\n")
    assert main(["create", str(file)]) == 2
    assert f"{file}:2: memroy: unknown key, did you mean 'memory'?" in capsys.readouterr().err
    assert main(["create", str(GUESTS / "pv.yaml"), "--name", "../x"]) == 2
    assert "no domain can be called '../x'" in capsys.readouterr().err


def test_list(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["list", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == []
    claim = records.claim("one", "pv", tmp_path)
    claim.record.pids = {"qemu": 4711, "backend": 4712}
    claim.record.addresses = ["10.77.0.2"]
    claim.record.started -= 3725
    claim.record.write()
    assert main(["list", "--json"]) == 0
    (fields,) = json.loads(capsys.readouterr().out)
    assert fields["name"] == "one"
    assert (fields["domid"], fields["state"], fields["kind"]) == (1, "created", "pv")
    assert fields["pids"] == [4711, 4712]
    assert fields["processes"] == {"qemu": 4711, "backend": 4712}
    assert main(["list"]) == 0
    head, line = capsys.readouterr().out.splitlines()
    assert head.split() == ["NAME", "ID", "KIND", "STATE", "ADDRESS", "UPTIME", "RESTARTS", "OWNER"]
    assert line.split() == ["one", "1", "pv", "created", "10.77.0.2", "1:02:05", "0", str(os.getpid())]
    claim.release()


@pytest.mark.parametrize("verb", [["exec", "ghost", "--", "ls"], ["ssh", "ghost"], ["console", "ghost"],
                                  ["pause", "ghost"], ["destroy", "ghost"], ["shutdown", "ghost"]])  # fmt: skip
def test_a_domain_that_does_not_exist(verb: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(verb) == 2
    assert "no domain is called ghost; running: none" in capsys.readouterr().err


@pytest.mark.parametrize(
    "action", [["ls"], ["read", "/"], ["write", "/a", "b"], ["rm", "/a"], ["watch", "/"], ["socket"]]
)
def test_without_a_store(action: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["store", *action]) == 2
    assert "no XenStore is running" in capsys.readouterr().err
    assert not (tmp_path / "run" / "store.sock").exists()


def test_values_of_the_store_are_harmless_to_a_terminal() -> None:
    assert printable(b'plain "quoted" \x1b[2J\0\xff\\\n') == 'plain \\"quoted\\" \\x1b[2J\\x00\\xff\\\\\\n'


def test_gc_and_images_of_an_empty_machine(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["gc"]) == 0
    assert capsys.readouterr().out == "nothing to collect\n"
    assert main(["images", "list"]) == 0
    assert capsys.readouterr().out.split() == ["NAME", "DIGEST", "KERNEL", "SIZE", "AGE", "CURRENT"]
    assert main(["images", "rm", "minimal"]) == 2
    assert main(["images", "build", "no-such-recipe"]) == 2
    assert "there is no image recipe 'no-such-recipe'" in capsys.readouterr().err


def test_output_that_nobody_reads_is_no_error() -> None:
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run(
        [sys.executable, "-m", "harness.cli.main", "list"], stdout=writer, stderr=subprocess.PIPE, check=False
    )
    os.close(writer)
    assert (done.returncode, done.stderr) == (0, b"")


@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"])
def test_streams_may_be_closed(closed: str) -> None:
    done = subprocess.run(
        ["sh", "-c", f'"$@" {closed}', "sh", sys.executable, "-m", "harness.cli.main", "list"],
        capture_output=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, b"")


def test_a_signal_that_is_ignored_stays_ignored(monkeypatch: pytest.MonkeyPatch) -> None:
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    assert main(["list"]) == 0
    assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
    assert signal.getsignal(signal.SIGTERM) == signal.default_int_handler


def test_every_verb_explains_itself(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--help"])
    overview = capsys.readouterr().out
    for verb in ("doctor", "images", "boot", "create", "list", "console", "ssh", "exec", "pause", "unpause", "save",
                 "restore", "shutdown", "destroy", "store", "compare", "test", "gc"):  # fmt: skip
        assert f"\n    {verb} " in overview


def test_errors_have_the_exit_codes_of_the_contract() -> None:
    assert command_line.INTERRUPTED == 128 + signal.SIGINT
    assert {kind.exit_code for kind in (HarnessError, HostError, CheckFailed, UsageError, GuestError)} == {1, 2, 3, 4}


def test_terminal_attach_survives_a_stream_that_ends(tmp_path: Path) -> None:
    """Input from /dev/null ends at once; what comes later is still shown."""
    program = """
import socket, sys, threading
from harness.cli.terminal import attach
ours, theirs = socket.socketpair()
threading.Timer(0.2, lambda: (theirs.sendall(b"late"), theirs.close())).start()
sys.exit(3 if attach(ours) else 0)
"""
    done = subprocess.run(
        [sys.executable, "-c", program], stdin=subprocess.DEVNULL, capture_output=True, check=False, timeout=30
    )
    assert (done.returncode, done.stdout) == (0, b"late")


def test_terminal_attach_passes_piped_input_up_to_the_escape() -> None:
    ours, theirs = socket.socketpair()
    program = f"""
import socket, sys
from harness.cli.terminal import attach
sys.exit(3 if attach(socket.socket(fileno={theirs.fileno()})) else 0)
"""
    done = subprocess.run(
        [sys.executable, "-c", program],
        input=b"typed\x1dlost",
        pass_fds=[theirs.fileno()],
        capture_output=True,
        check=False,
        timeout=30,
    )
    theirs.close()
    assert done.returncode == 3
    assert ours.recv(100) == b"typed"
    assert ours.recv(100) == b""
    ours.close()
