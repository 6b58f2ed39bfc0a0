"""XenStore inside a guest: Xen's own tools on /dev/xen/xenbus, while this end changes things."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from harness.domain.domain import Domain
from harness.host.deadline import Deadline
from harness.store.client import StoreClient
from harness.store.wire import Op
from tests.guest import xenbus_shell

WATCHES = 100
"""Of one file; two files with so many would exceed a domain's quota."""
TRANSACTIONS = 8
"""Likewise."""


@pytest.fixture
def store() -> Iterator[StoreClient]:
    with StoreClient.connect() as client:
        yield client


def home(domain: Domain) -> str:
    return f"/local/domain/{domain.domid}"


def shell(domain: Domain, script: str) -> str:
    return domain.execute(["sh", "-c", script]).check().text


def test_both_ends_see_what_the_other_writes(pv: Domain, store: StoreClient) -> None:
    shell(pv, "xenstore-write data/from-guest 'a value'")
    assert store.read(f"{home(pv)}/data/from-guest") == b"a value"
    store.write(f"{home(pv)}/data/from-host", "another")
    assert shell(pv, "xenstore-read data/from-host data/from-guest") == "another\na value"
    assert shell(pv, "xenstore-list data").split() == sorted(store.directory(f"{home(pv)}/data"))
    shell(pv, "xenstore-exists data/from-guest && xenstore-rm data/from-guest && ! xenstore-exists data/from-guest")
    assert "from-guest" not in store.directory(f"{home(pv)}/data")
    # What the guest lists of itself is what the host has.
    listed = dict(line.split(" = ", 1) for line in shell(pv, f"xenstore-ls -f {home(pv)}").splitlines())
    assert listed[f"{home(pv)}/name"] == f'"{pv.name}"'
    assert listed[f"{home(pv)}/device/vbd/51712/state"] == '"4"'


def test_watches_reach_across(pv: Domain, store: StoreClient) -> None:
    script = """
    mkfifo /tmp/events
    xenstore-watch -n 3 data/watched >/tmp/events &
    exec 3</tmp/events
    read -r event <&3
    xenstore-write data/ready now
    read -r event <&3 && echo "$event"
    read -r event <&3 && echo "$event"
    """
    ready = f"{home(pv)}/data/ready"
    store.watch(ready, "guest")
    deadline = Deadline(30, "the guest's watch")
    with ThreadPoolExecutor(1) as pool:
        events = pool.submit(shell, pv, script)
        while store.read_event(deadline) and "ready" not in store.directory(f"{home(pv)}/data"):
            pass
        store.write(f"{home(pv)}/data/watched/below", "1")
        store.rm(f"{home(pv)}/data/watched")
        assert events.result().split() == ["data/watched/below", "data/watched"]


def test_guest_stays_within_its_rights(pv: Domain, store: StoreClient) -> None:
    store.write("/tool/secret", "mine")
    for command in (
        "xenstore-write /tool/planted 1",
        "xenstore-read /tool/secret",
        "xenstore-rm /tool/secret",
        "xenstore-write /local/domain/0/backend/planted 1",
        "xenstore-chmod /tool/secret b0",
        "xenstore-ls /",
    ):
        assert not pv.execute(command.split()).ok, command
    assert store.read("/tool/secret") == b"mine"
    store.set_perms("/tool/secret", ["n0", f"r{pv.domid}"])
    assert shell(pv, "xenstore-read /tool/secret") == "mine"
    shell(pv, f"xenstore-write data/shared 1 && xenstore-chmod data/shared n{pv.domid} r0")
    assert store.get_perms(f"{home(pv)}/data/shared")[1:] == ["r0"]
    store.rm("/tool/secret")


def test_large_directory_is_read_in_parts(pv: Domain, store: StoreClient) -> None:
    names = [f"a-child-with-a-name-{number:04}" for number in range(3000)]
    for name in names:
        store.write(f"/tool/many/{name}", "")
    store.set_perms("/tool/many", ["n0", f"r{pv.domid}"])
    assert shell(pv, "xenstore-list /tool/many").split() == names
    store.rm("/tool/many")


def test_transactions_belong_to_their_file(pv: Domain, store: StoreClient) -> None:
    lines = xenbus_shell.run(
        pv,
        f"""
        exec 3<>/dev/xen/xenbus 4<>/dev/xen/xenbus
        set -- $(ask 3 {Op.TRANSACTION_START} 0 '\\0')
        id=${{2%%|}}
        ask 3 {Op.WRITE} $id 'data/t\\0value'
        ask 4 {Op.READ} 0 'data/t\\0'
        ask 4 {Op.WRITE} $id 'data/t\\0foreign'
        ask 4 {Op.TRANSACTION_END} $id 'T\\0'
        ask 3 {Op.TRANSACTION_END} $id 'T\\0'
        ask 4 {Op.READ} 0 'data/t\\0'
        ask 3 {Op.TRANSACTION_END} $id 'T\\0'
        ask 3 9999 0 '\\0'
        """,
    )
    error, gone = int(Op.ERROR), f"{Op.ERROR} ENOENT|"
    expected = [f"{Op.WRITE} OK|", gone, gone, gone, f"{Op.TRANSACTION_END} OK|", f"{Op.READ} value", gone]
    assert lines == [*expected, f"{error} ENOSYS|"]


def test_closing_a_file_ends_its_watches_and_transactions(pv: Domain) -> None:
    # Each round is within the domain's quota, but two are not.
    pv.write_file("/tmp/watches", xenbus_shell.watches([f"data/{number}" for number in range(WATCHES)], "token"))
    pv.write_file("/tmp/transactions", xenbus_shell.transactions(TRANSACTIONS))
    lines = xenbus_shell.run(
        pv,
        """
        for round in 1 2 3; do
            exec 3<>/dev/xen/xenbus
            cat /tmp/watches >&3
            dd bs=65536 count=1 <&3 2>/dev/null | tr '\\0' '\\n' | grep -c OK
            exec 3>&- 3<>/dev/xen/xenbus
            cat /tmp/transactions >&3
            dd bs=65536 count=1 <&3 >/tmp/answers 2>/dev/null
            grep -q ENOSPC /tmp/answers || echo begun
            exec 3>&-
        done
        """,
    )
    assert lines == [str(WATCHES), "begun"] * 3


def test_requests_in_pieces_and_too_long_ones(pv: Domain) -> None:
    pv.write_file("/tmp/long", xenbus_shell.header(5000))
    lines = xenbus_shell.run(
        pv,
        f"""
        exec 3<>/dev/xen/xenbus
        say 9 {Op.READ} 0 'name\\0' 9>/dev/null
        for n in $(seq 0 6); do dd bs=3 skip=$n count=1 if=/tmp/message >&3 2>/dev/null; done
        hear 3
        cat /tmp/long >&3 2>/dev/null || echo refused
        ask 3 {Op.READ} 0 'name\\0'
        """,
    )
    name = f"{Op.READ} {pv.name}"
    assert lines == [name, "refused", name]


def test_a_watch_is_known_by_its_path_and_token(pv: Domain) -> None:
    lines = xenbus_shell.run(
        pv,
        f"""
        exec 3<>/dev/xen/xenbus 4<>/dev/xen/xenbus
        say 3 {Op.WATCH} 0 'data/w\\0token\\0'
        hear 3 >/dev/null
        ask 4 {Op.UNWATCH} 0 'data/w\\0token\\0'
        say 3 {Op.WATCH} 0 'data/w\\0token\\0'
        until hear 3 | grep EEXIST; do :; done
        ask 3 {Op.UNWATCH} 0 'data/w\\0token\\0'
        ask 3 {Op.UNWATCH} 0 'data/w\\0token\\0'
        ask 3 {Op.WATCH} 0 'no-token\\0'
        ask 3 {Op.RESET_WATCHES} 0 '\\0'
        """,
    )
    absent = f"{Op.ERROR} ENOENT|"
    assert lines == [
        absent,
        f"{Op.ERROR} EEXIST|",
        f"{Op.UNWATCH} OK|",
        absent,
        f"{Op.ERROR} EINVAL|",
        f"{Op.RESET_WATCHES} OK|",
    ]


def test_a_program_that_does_not_read_loses_only_its_own_connection(pv: Domain, store: StoreClient) -> None:
    script = f"""
    exec 3<>/dev/xen/xenbus 4<>/dev/xen/xenbus
    say 3 {Op.WATCH} 0 'data/flood\\0token\\0'
    ask 4 {Op.WRITE} 0 'data/flooding\\0now'
    until xenstore-exists data/flooded; do :; done
    cat <&3 2>&1 >/dev/null
    ask 3 {Op.READ} 0 'name\\0' 2>/dev/null || echo refused
    ask 4 {Op.READ} 0 'name\\0'
    """
    store.watch(f"{home(pv)}/data/flooding", "guest")
    deadline = Deadline(30, "the guest's watch")
    with ThreadPoolExecutor(1) as pool:
        lines = pool.submit(xenbus_shell.run, pv, script)
        while store.read_event(deadline) and "flooding" not in store.directory(f"{home(pv)}/data"):
            pass
        # 3000 events of more than 200 bytes: more than the kernel keeps for one program.
        for number in range(1500):
            store.write(f"{home(pv)}/data/flood/{number:0200}", "")
            store.rm(f"{home(pv)}/data/flood/{number:0200}")
        store.write(f"{home(pv)}/data/flooded", "")
        written, trouble, *after = lines.result()
    assert written == f"{Op.WRITE} OK|"
    assert "No buffer space" in trouble
    assert after == ["refused", f"{Op.READ} {pv.name}"]
