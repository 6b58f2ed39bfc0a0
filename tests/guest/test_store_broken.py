"""A store that breaks its promises to a guest, or loses it: the guest begins anew, and what it does goes on."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from harness.domain.domain import Domain
from harness.host.deadline import Deadline
from harness.store.client import StoreClient
from harness.store.wire import HEADER, Message, Op, strings
from tests.guest import xenbus_shell
from tests.guest.store_end import ERROR, RSP_PROD, StoreEnd

ANEW = "XenStore is connected anew"


@pytest.fixture(scope="module")
def end(pv: Domain) -> Iterator[StoreEnd]:
    with StoreEnd(pv) as store_end:
        yield store_end


@pytest.fixture
def store() -> Iterator[StoreClient]:
    with StoreClient.connect() as client:
        yield client


def log(domain: Domain) -> str:
    return domain.execute(["dmesg"]).check().text


def wait_for(domain: Domain, text: str, count: int) -> None:
    """Until the guest's kernel has said something so many times."""
    deadline = Deadline(30, f"{text!r} in the log of {domain.name}")
    while log(domain).count(text) < count:
        deadline.check()


def break_index(end: StoreEnd) -> None:
    end.set(RSP_PROD, (end.get(RSP_PROD) + 5000) % (1 << 32))


def break_length(end: StoreEnd) -> None:
    end.send(HEADER.pack(Op.WATCH_EVENT, 0, 0, 4097))


def give_up(end: StoreEnd) -> None:
    end.set(ERROR, 1)


@pytest.mark.parametrize("damage", [break_index, break_length, give_up])
def test_guest_connects_anew(pv: Domain, end: StoreEnd, damage: object) -> None:
    before = log(pv).count(ANEW)
    assert callable(damage)
    damage(end)
    assert pv.execute(["xenstore-read", "name"]).check().text == pv.name
    wait_for(pv, ANEW, before + 1)
    pv.execute(["dd", "if=/dev/xvda", "of=/dev/null", "bs=4096", "count=16", "iflag=direct"]).check()


@pytest.mark.parametrize(
    ("message", "complaint"),
    [
        (Message(Op.READ, 0xDEAD, 0, b"nobody asked"), "that nobody waits for"),
        (Message(Op.WATCH_EVENT, 0, 0, strings("data/x", "ffffffff")), None),
        (Message(Op.WATCH_EVENT, 0, 0, strings("data/x", "no number")), "without a known token"),
        (Message(Op.WATCH_EVENT, 0, 0, b"no end"), "without a known token"),
        (Message(Op.WATCH_EVENT, 0, 0, b""), "without a known token"),
        (Message(0xFFFFFFFF, 0, 0, b""), "that nobody waits for"),
    ],
)
def test_messages_out_of_turn_are_dropped(pv: Domain, end: StoreEnd, message: Message, complaint: str | None) -> None:
    before = log(pv)
    end.send(message.pack())
    assert pv.execute(["xenstore-read", "name"]).check().text == pv.name
    after = log(pv)
    assert after.count(ANEW) == before.count(ANEW)
    if complaint:
        assert after.count(complaint) > before.count(complaint)


def test_watches_and_devices_outlive_a_break(pv: Domain, end: StoreEnd, store: StoreClient) -> None:
    home = f"/local/domain/{pv.domid}"
    before = log(pv).count(ANEW)
    script = f"""
    exec 3<>/dev/xen/xenbus 4<>/dev/xen/xenbus
    set -- $(ask 3 {Op.TRANSACTION_START} 0 '\\0')
    id=${{2%%|}}
    ask 3 {Op.WRITE} $id 'data/half\\0done'
    mkfifo /tmp/broken
    xenstore-watch -n 3 data/across >/tmp/broken &
    exec 5</tmp/broken
    read -r event <&5
    ask 4 {Op.WRITE} 0 'data/begun\\0now'
    until xenstore-exists data/broken; do :; done
    ask 3 {Op.TRANSACTION_END} $id 'T\\0'
    ask 3 {Op.TRANSACTION_END} $id 'T\\0'
    # Registered again, it has fired once more.
    read -r event <&5 && echo "$event"
    read -r event <&5 && echo "$event"
    """
    store.watch(f"{home}/data/begun", "guest")
    deadline = Deadline(30, "the guest's script")
    with ThreadPoolExecutor(1) as pool:
        lines = pool.submit(xenbus_shell.run, pv, script)
        while store.read_event(deadline) and "begun" not in store.directory(f"{home}/data"):
            pass
        give_up(end)
        wait_for(pv, ANEW, before + 1)
        store.write(f"{home}/data/across/below", "1")
        store.write(f"{home}/data/broken", "1")
        assert lines.result() == [
            f"{Op.WRITE} OK|",
            f"{Op.WRITE} OK|",
            f"{Op.ERROR} EAGAIN|",
            f"{Op.ERROR} ENOENT|",
            "data/across",
            "data/across/below",
        ]
    assert "half" not in store.directory(f"{home}/data")


def test_a_driver_hears_of_its_backend_after_a_break(pv: Domain, end: StoreEnd, store: StoreClient) -> None:
    before = log(pv).count(ANEW)
    break_index(end)
    wait_for(pv, ANEW, before + 1)
    backend = f"/local/domain/0/backend/vbd/{pv.domid}/51712"
    sectors = int(store.read(f"{backend}/sectors"))
    smaller = str(sectors // 2)
    store.write(f"{backend}/sectors", smaller)
    store.write(f"{backend}/state", "4")
    deadline = Deadline(30, "the guest's new size of its disk")
    while pv.read_file("/sys/block/xvda/size").decode().strip() != smaller:
        deadline.check()
    store.write(f"{backend}/sectors", str(sectors))
    store.write(f"{backend}/state", "4")
