"""The command line as people and scripts use it, on real domains, in processes of its own."""

from __future__ import annotations

import json
import os
import pty
import secrets
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from harness.host.directories import GUESTS, cache
from tests.leftovers import leftovers

HARNESS = (sys.executable, "-m", "harness.cli.main")
SECONDS = 90.0
Run = Callable[..., "subprocess.CompletedProcess[bytes]"]


@pytest.fixture(scope="module")
def runtime() -> Iterator[Path]:
    """A runtime directory of our own; paths of sockets are short, so pytest's directories will not do."""
    with tempfile.TemporaryDirectory(prefix="harness-") as name:
        yield Path(name)


@pytest.fixture(scope="module")
def environment(runtime: Path) -> dict[str, str]:
    return {**os.environ, "HARNESS_RUNTIME": str(runtime)}


@pytest.fixture
def name() -> str:
    """A domain's name that no other test uses, so that its scratch files are known by it."""
    return f"cli-{secrets.token_hex(4)}"


@pytest.fixture(scope="module")
def harness(environment: dict[str, str]) -> Run:
    """Runs a command to its end."""

    def run(*arguments: str, stdin: bytes = b"") -> subprocess.CompletedProcess[bytes]:
        return subprocess.run(
            [*HARNESS, *arguments], input=stdin, capture_output=True, env=environment, timeout=SECONDS, check=False
        )

    return run


@pytest.fixture(scope="module")
def created(harness: Run, runtime: Path) -> Iterator[str]:
    """The name of a paravirtual domain that ``create`` has left running."""
    name = f"cli-{secrets.token_hex(4)}"
    done = harness("create", str(GUESTS / "pv.yaml"), "--name", name)
    assert done.returncode == 0, done.stderr.decode()
    yield name
    assert harness("destroy", name).returncode == 0
    assert leftovers(runtime) == []


def record(runtime: Path, name: str) -> dict[str, Any] | None:
    """A domain's record as its owner has written it."""
    for file in (runtime / "domains").glob("*/record.json"):
        try:
            fields: dict[str, Any] = json.loads(file.read_text())
        except FileNotFoundError:
            continue
        if fields["name"] == name:
            return fields
    return None


def wait_for(condition: Callable[[], bool], process: subprocess.Popen[bytes]) -> None:
    """Wait until a process in its own good time has come that far."""
    end = time.monotonic() + SECONDS
    while not condition():
        assert process.poll() is None, "it ended too early"
        assert time.monotonic() < end
        time.sleep(0.02)


def scratch(name: str) -> list[Path]:
    return list(cache("scratch").glob(f"{name}-*"))


# -- a domain that runs


def test_list_shows_the_domain(harness: Run, created: str) -> None:
    (fields,) = json.loads(harness("list", "--json").stdout)
    assert (fields["name"], fields["kind"], fields["state"]) == (created, "pv", "running")
    assert fields["domid"] == 1
    assert len(fields["pids"]) == 3
    for pid in fields["pids"]:
        assert Path(f"/proc/{pid}").exists()
    table = harness("list").stdout.decode()
    assert created in table
    assert fields["addresses"][0] in table


def test_devices_come_and_go(harness: Run, created: str, tmp_path: Path) -> None:
    (tmp_path / "data.img").write_bytes(secrets.token_bytes(1 << 16))
    done = harness("block-attach", created, "xvdb", str(tmp_path / "data.img"), "readonly=true")
    assert done.returncode == 0, done.stderr.decode()
    read = harness("exec", created, "--", "cat", "/dev/xvdb").stdout
    assert read == (tmp_path / "data.img").read_bytes()
    heads, first, second = harness("block-list", created).stdout.decode().splitlines()
    assert heads.split()[:5] == ["Vdev", "Name", "BE", "handle", "state"]
    assert first.split()[:5] == ["51712", "xvda", "0", "1", "4"]
    assert second.split()[:5] == ["51728", "xvdb", "0", "1", "4"]
    assert str(tmp_path / "data.img") in second
    assert harness("block-detach", created, "xvdb").returncode == 0

    assert harness("network-attach", created, "mac=00:16:3e:00:99:01").returncode == 0
    rows = harness("network-list", created).stdout.decode().splitlines()[1:]
    assert [row.split()[2] for row in rows][1:] == ["00:16:3e:00:99:01"]
    assert len(json.loads(harness("list", "--json").stdout)[0]["addresses"]) == 2
    assert harness("network-detach", created, "00:16:3e:00:99:01").returncode == 0
    assert len(harness("network-list", created).stdout.decode().splitlines()) == 2


def test_a_disk_in_use_is_the_guests_fault(harness: Run, created: str) -> None:
    assert harness("block-attach", created, "xvdb", "size=1MiB").returncode == 0
    assert harness("exec", created, "--", "sh", "-c", "sleep 600 </dev/xvdb >/dev/null 2>&1 &").returncode == 0
    busy = harness("block-detach", created, "xvdb", "--timeout", "1")
    assert busy.returncode == 4
    assert b"is still using xvdb" in busy.stderr
    assert b"--force" in busy.stderr
    assert harness("block-detach", created, "xvdb", "--force").returncode == 0
    for arguments, words in (
        (["xvdb", "/nowhere.img"], b"No such file"),
        (["xvda", "size=1MiB"], b"has a xvda already"),
        (["xvdb", "size=1MiB", "features.dicsard=false"], b"did you mean 'discard'"),
    ):
        refused = harness("block-attach", created, *arguments)
        assert refused.returncode == 2
        assert words in refused.stderr


def test_a_disk_grows(harness: Run, created: str) -> None:
    assert harness("block-attach", created, "xvdc", "size=1MiB").returncode == 0
    assert harness("block-resize", created, "xvdc", "2MiB").returncode == 0
    assert harness("exec", created, "--", "cat", "/sys/block/xvdc/size").stdout == b"4096\n"
    assert harness("block-resize", created, "xvdc", "1MiB").returncode == 2
    assert harness("block-resize", created, "xvdc", "much").returncode == 2
    assert harness("block-detach", created, "xvdc").returncode == 0


def test_exec_passes_both_streams_and_the_status(harness: Run, created: str) -> None:
    done = harness("exec", created, "--", "sh", "-c", "printf 'a\\0\\377b'; echo oops >&2; exit 7")
    assert (done.stdout, done.stderr, done.returncode) == (b"a\0\xffb", b"oops\n", 7)


def test_exec_passes_standard_input_unless_told_not_to(harness: Run, created: str) -> None:
    data = secrets.token_bytes(100_000)
    assert harness("exec", created, "--", "cat", stdin=data).stdout == data
    assert harness("exec", "-n", created, "--", "cat", stdin=data).stdout == b""


def test_exec_leaves_arguments_alone(harness: Run, created: str) -> None:
    words = ["--json", "--", "a b", "", "'", "$HOME", "-n"]
    done = harness("exec", created, "--", "printf", "<%s>", *words)
    assert done.stdout.decode() == "".join(f"<{word}>" for word in words)


def test_exec_tells_its_own_failures(harness: Run, created: str) -> None:
    assert harness("exec", created).returncode == 2
    missing = harness("exec", created, "--", "no-such-program")
    assert missing.returncode == 4
    assert b"no-such-program" in missing.stderr
    assert harness("exec", created, "--", "sh", "-c", "kill -9 $$").returncode == 128 + 9
    slow = harness("exec", "--timeout", "1", created, "--", "sleep", "600")
    assert slow.returncode == 4
    assert b"did not end within 1 s; it was killed" in slow.stderr
    assert b"Traceback" not in missing.stderr + slow.stderr


def test_a_long_command_holds_up_nobody_and_ends_with_its_asker(
    harness: Run, created: str, environment: dict[str, str]
) -> None:
    # The brackets keep the search from finding itself.
    search = "cat /proc/[0-9]*/cmdline | tr '\\0' ' ' | grep -q 'sleep 43[2]1'"
    searching = ("exec", created, "--", "sh", "-c", search)
    asker = subprocess.Popen(
        [*HARNESS, "exec", created, "--", "sleep", "4321"], stdin=subprocess.DEVNULL, env=environment
    )
    try:
        wait_for(lambda: harness(*searching).returncode == 0, asker)
        asker.send_signal(signal.SIGKILL)
    finally:
        asker.kill()
        asker.wait()
    end = time.monotonic() + 10.0
    while harness(*searching).returncode == 0:
        assert time.monotonic() < end, "the command outlived whoever asked for it"


def test_ssh_runs_commands_through_a_shell(harness: Run, created: str) -> None:
    done = harness("ssh", created, "--", "echo $((6 * 7));", "echo oops >&2;", "exit 5")
    assert (done.stdout, done.stderr, done.returncode) == (b"42\n", b"oops\n", 5)
    data = secrets.token_bytes(1_000_000)
    assert harness("ssh", created, "--", "cat", stdin=data).stdout == data


@pytest.mark.parametrize(("console", "device"), [("serial", "/dev/ttyS0"), ("pv", "/dev/hvc0")])
def test_console_on_a_terminal(console: str, device: str, created: str, environment: dict[str, str]) -> None:
    with Terminal([*HARNESS, "console", "-t", console, created], environment) as terminal:
        terminal.expect(b"Ctrl-] leaves")
        terminal.type(b"\n")
        terminal.expect(b"# ")
        terminal.type(b"tty\n")
        terminal.expect(device.encode())
        terminal.type(b"\x1d")
        assert terminal.wait() == 0


def test_ssh_on_a_terminal(created: str, environment: dict[str, str]) -> None:
    with Terminal([*HARNESS, "ssh", created], environment) as terminal:
        terminal.expect(b"# ")
        terminal.type(b"tty; exit 6\n")
        terminal.expect(b"/dev/pts/0")
        assert terminal.wait() == 6


def test_pause_and_unpause(harness: Run, created: str) -> None:
    assert harness("pause", created).returncode == 0
    assert json.loads(harness("list", "--json").stdout)[0]["state"] == "paused"
    refused = harness("exec", created, "--", "true")
    assert refused.returncode == 2
    assert b"is paused, not running" in refused.stderr
    assert harness("pause", created).returncode == 2
    assert harness("unpause", created).returncode == 0
    assert harness("exec", created, "--", "true").returncode == 0


def test_the_name_is_taken(harness: Run, created: str) -> None:
    done = harness("create", str(GUESTS / "hvm.yaml"), "--name", created)
    assert done.returncode == 2
    assert b"is running already" in done.stderr


def test_the_store(harness: Run, created: str) -> None:
    domid = json.loads(harness("list", "--json").stdout)[0]["domid"]
    base = f"/local/domain/{domid}"
    assert harness("store", "read", f"{base}/name").stdout.decode() == f"{created}\n"
    assert harness("store", "write", f"{base}/data/by/hand", 'say "hi"').returncode == 0
    listing = harness("store", "ls", "-p", f"{base}/data").stdout.decode().splitlines()
    assert listing[0].startswith('by = ""   (')
    assert listing[1].startswith(' hand = "say \\"hi\\""   (')
    assert harness("store", "rm", f"{base}/data/by").returncode == 0
    missing = harness("store", "read", f"{base}/data/by/hand")
    assert missing.returncode == 2
    assert b"ENOENT" in missing.stderr


def test_store_watch_prints_changes(harness: Run, created: str, environment: dict[str, str]) -> None:
    domid = json.loads(harness("list", "--json").stdout)[0]["domid"]
    path = f"/local/domain/{domid}/data"
    watcher = subprocess.Popen([*HARNESS, "store", "watch", "-n", "2", path], stdout=subprocess.PIPE, env=environment)
    assert watcher.stdout is not None
    # The first event only says that the watch is set.
    assert watcher.stdout.readline().decode() == f"{path}\n"
    harness("store", "write", f"{path}/news", "1")
    assert watcher.stdout.readline().decode() == f"{path}/news\n"
    assert watcher.wait(SECONDS) == 0


@pytest.mark.skipif(shutil.which("xenstore-ls") is None, reason="xenstore-utils is not installed")
def test_xens_own_tools_work_with_the_socket(harness: Run, created: str, environment: dict[str, str]) -> None:
    path = harness("store", "socket").stdout.decode().strip()
    done = subprocess.run(
        ["xenstore-ls", "/local/domain"],
        env={**environment, "XENSTORED_PATH": path},
        capture_output=True,
        timeout=SECONDS,
        check=True,
    )
    assert f'name = "{created}"' in done.stdout.decode()


# -- domains that end


def test_save_and_restore(harness: Run, name: str, runtime: Path, tmp_path: Path) -> None:
    """A domain that was not booted either: it began with one that is in the cache."""
    done = harness("create", "--warm", str(GUESTS / "pv.yaml"), "--name", name)
    assert done.returncode == 0, done.stderr.decode()
    assert harness("exec", name, "--", "sh", "-c", "echo word >/tmp/word").returncode == 0
    done = harness("save", name, str(tmp_path / "saved"))
    assert done.returncode == 0, done.stderr.decode()
    assert record(runtime, name) is None
    assert scratch(name) == []

    for _ in range(2):
        done = harness("restore", str(tmp_path / "saved"), "--name", f"{name}-again")
        assert done.returncode == 0, done.stderr.decode()
        assert harness("exec", f"{name}-again", "--", "cat", "/tmp/word").stdout == b"word\n"
        assert harness("destroy", f"{name}-again").returncode == 0
    assert scratch(name) == []

    os.truncate(tmp_path / "saved", 1 << 20)
    done = harness("restore", str(tmp_path / "saved"))
    assert (done.returncode, b"is damaged" in done.stderr) == (2, True), done.stderr.decode()
    done = harness("save", name, str(tmp_path / "saved"))
    assert done.returncode == 2
    assert f"no domain is called {name}".encode() in done.stderr
    assert f"it was saved to {tmp_path / 'saved'}".encode() in done.stderr
    done = harness("create", "--warm", str(GUESTS / "hvm.yaml"), "--name", name)
    assert (done.returncode, b"cannot start warm" in done.stderr) == (2, True), done.stderr.decode()


def test_shutdown_and_what_is_said_of_a_domain_that_has_ended(harness: Run, name: str, runtime: Path) -> None:
    assert harness("create", str(GUESTS / "hvm.yaml"), "--name", name).returncode == 0
    assert harness("shutdown", name).returncode == 0
    after = harness("exec", name, "--", "true")
    assert after.returncode == 2
    assert b"the guest powered itself off" in after.stderr
    assert record(runtime, name) is None
    assert scratch(name) == []


def test_a_domain_that_panics_is_removed_and_its_end_is_told(harness: Run, name: str, runtime: Path) -> None:
    assert harness("create", str(GUESTS / "hvm.yaml"), "--name", name).returncode == 0
    crashed = harness("exec", name, "--", "sh", "-c", "echo c >/proc/sysrq-trigger")
    assert crashed.returncode == 4
    assert b"sysrq" in crashed.stderr
    end = time.monotonic() + SECONDS
    while record(runtime, name) is not None:
        assert time.monotonic() < end
        time.sleep(0.05)
    assert b"panic" in harness("exec", name, "--", "true").stderr.lower()


def test_boot_passes_piped_input_to_the_console(harness: Run, name: str) -> None:
    done = harness("boot", str(GUESTS / "hvm.yaml"), "--name", name, stdin=b"echo $((6 * 7))\npoweroff\n")
    assert done.returncode == 0, done.stderr.decode()
    assert b"42" in done.stdout
    assert b"powered itself off" in done.stderr
    assert scratch(name) == []


def test_boot_ends_with_the_guests_fault(harness: Run, name: str) -> None:
    done = harness(
        "boot", "--pv-console", str(GUESTS / "pv.yaml"), "--name", name, stdin=b"echo c >/proc/sysrq-trigger\n"
    )
    assert done.returncode == 4
    assert b"Kernel panic" in done.stderr or b"panicked" in done.stderr
    assert b"Traceback" not in done.stderr


def test_boot_on_a_terminal(name: str, environment: dict[str, str]) -> None:
    with Terminal([*HARNESS, "boot", str(GUESTS / "pv.yaml"), "--name", name], environment) as terminal:
        terminal.expect(b"Ctrl-] ends it")
        terminal.expect(b"# ")
        terminal.type(b"tty\n")
        terminal.expect(b"/dev/ttyS0")
        terminal.type(b"\x1d")
        assert terminal.wait() == 0
    assert scratch(name) == []


# -- whatever happens, nothing is left


@pytest.fixture
def own_runtime(environment: dict[str, str]) -> Iterator[tuple[Path, dict[str, str]]]:
    with tempfile.TemporaryDirectory(prefix="harness-") as directory:
        yield Path(directory), {**environment, "HARNESS_RUNTIME": directory}


@pytest.mark.parametrize("end", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT], ids=lambda end: end.name)
@pytest.mark.parametrize(
    ("verb", "state"),
    # A domain that runs is create's work done: then a signal to create may come too late to undo it.
    [("boot", "created"), ("boot", "starting"), ("boot", "running"), ("create", "created"), ("create", "starting")],
)
def test_a_signal_leaves_nothing(
    verb: str, state: str, end: signal.Signals, name: str, own_runtime: tuple[Path, dict[str, str]], tmp_path: Path
) -> None:
    """``created``: the record is written, processes are being started; ``starting``: the guest boots."""
    runtime, environment = own_runtime
    with (tmp_path / "output").open("wb") as output:
        process = subprocess.Popen(
            [*HARNESS, verb, str(GUESTS / "pv.yaml"), "--name", name],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            env=environment,
        )
    order = ["created", "starting", "running"]

    def reached() -> bool:
        found = record(runtime, name)
        return found is not None and order.index(found["state"]) >= order.index(state)

    try:
        wait_for(reached, process)
        process.send_signal(end)
        status = process.wait(SECONDS)
    finally:
        process.kill()
        process.wait()
    if verb == "create" and status == 0:
        # It was done before the signal came.
        assert record(runtime, name) is not None
        subprocess.run([*HARNESS, "destroy", name], env=environment, timeout=SECONDS, check=True)
    else:
        assert status == (-end if end == signal.SIGKILL else 130)
    assert leftovers(runtime) == []
    assert scratch(name) == []


@pytest.mark.parametrize("victim", ["supervisor", "qemu"])
def test_a_killed_part_of_a_running_domain_takes_all_with_it(
    victim: str, name: str, own_runtime: tuple[Path, dict[str, str]]
) -> None:
    runtime, environment = own_runtime
    command = [*HARNESS, "create", str(GUESTS / "pv.yaml"), "--name", name]
    subprocess.run(command, env=environment, stdin=subprocess.DEVNULL, timeout=SECONDS, check=True)
    for attach in (["block-attach", name, "xvdb", "size=1MiB"], ["network-attach", name]):
        subprocess.run([*HARNESS, *attach], env=environment, timeout=SECONDS, check=True)
    found = record(runtime, name)
    assert found is not None
    assert list(scratch(name)[0].glob("xvdb.img"))
    os.kill(found["pids"][victim], signal.SIGKILL)
    assert leftovers(runtime) == []
    assert scratch(name) == []


class Terminal:
    """A command on a terminal of its own."""

    def __init__(self, argv: list[str], environment: dict[str, str]) -> None:
        self._master, slave = pty.openpty()
        self._seen = b""
        self._process = subprocess.Popen(
            argv, stdin=slave, stdout=slave, stderr=slave, env=environment, start_new_session=True
        )
        os.close(slave)

    def type(self, keys: bytes) -> None:
        os.write(self._master, keys)

    def expect(self, text: bytes) -> None:
        """Wait until this is shown, after what was expected before."""
        end = time.monotonic() + SECONDS
        while text not in self._seen:
            assert select.select([self._master], [], [], max(0.0, end - time.monotonic()))[0], self._seen
            self._seen += os.read(self._master, 65536)
        self._seen = self._seen.partition(text)[2]

    def wait(self) -> int:
        """The exit status; what is shown until then is thrown away."""
        reader = threading.Thread(target=self._drain, daemon=True)
        reader.start()
        return self._process.wait(SECONDS)

    def _drain(self) -> None:
        try:
            while os.read(self._master, 65536):
                continue
        except OSError:
            return

    def __enter__(self) -> Terminal:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.wait()
        os.close(self._master)
