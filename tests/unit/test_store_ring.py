"""The ring page: bytes through wrap-around, a page full of nonsense, reconnecting; then domains on real links."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.hypervisor.events import fence
from harness.hypervisor.layout import FRAME_SIZE, GUEST_STORE_PORT, STORE_PORTS, STORE_VECTOR
from harness.hypervisor.link import LinkEnd
from harness.store.carriers import RingCarrier
from harness.store.ring import FEATURES, RING_SIZE, RingError, RingFault, RingPage, orphan
from harness.store.wire import HEADER, Message, Op
from tests.unit.linkends import DOMID, Ends, duplicated, ends_of_a_link
from tests.unit.store_guest import (
    CONNECTION,
    ERROR,
    MODULUS,
    PORT,
    REQ_CONS,
    REQ_PROD,
    RSP_CONS,
    RSP_PROD,
    SERVER_FEATURES,
    Guest,
    Rig,
    request,
    rig_for,
)
from tests.unit.store_peers import Peer


def a_page(start: int = 0) -> tuple[RingPage, Guest, list[None]]:
    """A page whose indices start anywhere, its two halves, and a list that grows with each event."""
    memory, events = memoryview(bytearray(FRAME_SIZE)), list[None]()
    guest = Guest(memory)
    for index in (REQ_CONS, REQ_PROD, RSP_CONS, RSP_PROD):
        guest.set(index, start)
    return RingPage(memory, FEATURES, fence=fence, notify=lambda: events.append(None)), guest, events


starts = st.one_of(st.integers(0, MODULUS - 1), st.integers(MODULUS - 3000, MODULUS - 1))
chunks = st.lists(st.binary(min_size=1, max_size=1500), max_size=12)


@given(starts, chunks)
def test_requests_arrive_whole_wherever_the_indices_are(start: int, sent: list[bytes]) -> None:
    page, guest, _ = a_page(start)
    received = b""
    for chunk in sent:
        left = chunk
        while left:
            left = left[guest.send(left) :]
            received += page.receive()
    assert received == b"".join(sent)
    assert page.receive() == b""


@given(starts, chunks)
def test_answers_arrive_whole_wherever_the_indices_are(start: int, sent: list[bytes]) -> None:
    page, guest, _ = a_page(start)
    received = b""
    for chunk in sent:
        left = memoryview(chunk)
        while left:
            left = left[page.send(left) :]
            received += guest.receive()
    assert received == b"".join(sent)


def test_a_full_ring_takes_nothing_more_and_loses_nothing() -> None:
    page, guest, _ = a_page(MODULUS - 100)
    assert page.send(memoryview(bytes(range(256)) * 5)) == RING_SIZE
    assert page.send(memoryview(b"more")) == 0
    assert guest.receive() == bytes(range(256)) * 4
    assert page.send(memoryview(b"more")) == 4


def test_one_event_for_each_round_in_which_something_happened() -> None:
    page, guest, events = a_page()
    page.signal()
    assert not events
    guest.send(b"abc")
    page.receive()
    page.send(memoryview(b"def"))
    page.signal()
    page.signal()
    page.receive()
    page.signal()
    assert len(events) == 1


@given(st.binary(min_size=2080, max_size=2080))
def test_a_page_of_nonsense_gives_at_most_a_ring_full_or_is_refused(nonsense: bytes) -> None:
    page, guest, _ = a_page()
    guest.page[: len(nonsense)] = nonsense
    requests = (guest.get(REQ_PROD) - guest.get(REQ_CONS)) % MODULUS
    answers = (guest.get(RSP_PROD) - guest.get(RSP_CONS)) % MODULUS
    if requests > RING_SIZE:
        with pytest.raises(RingError) as refused:
            page.receive()
        assert refused.value.fault == RingFault.RING_INDEX
    else:
        assert len(page.receive()) == requests
    if answers > RING_SIZE:
        with pytest.raises(RingError):
            page.send(memoryview(b"x"))
    else:
        assert page.send(memoryview(b"x" * 2000)) == RING_SIZE - answers


# ---- domains on links ----


@pytest.fixture
def ends() -> Iterator[Ends]:
    with ends_of_a_link() as it:
        yield it


@pytest.fixture
def rig(ends: Ends) -> Iterator[Rig]:
    with rig_for(ends) as it:
        yield it


@pytest.fixture
def tool(rig: Rig) -> Peer:
    return Peer.tool(rig.store)


@pytest.fixture
def guest(ends: Ends, rig: Rig) -> Guest:
    return Guest(ends.guest.frame(ends.guest.layout.store_frame))


def test_a_domain_is_told_what_the_server_can_do_and_heard(ends: Ends, rig: Rig, guest: Guest) -> None:
    assert (guest.get(SERVER_FEATURES), guest.get(CONNECTION), guest.get(PORT)) == (FEATURES, 0, GUEST_STORE_PORT)
    guest.send(request(Op.GET_DOMAIN_PATH, str(DOMID)))
    ends.guest.events.acknowledge()
    rig.settle()
    assert ends.guest.events.pending() == [GUEST_STORE_PORT]
    assert [message.payload for message in guest.messages()] == [b"/local/domain/7\0"]


def test_an_answer_longer_than_the_ring_comes_as_the_domain_takes_it(rig: Rig, guest: Guest, tool: Peer) -> None:
    tool.write("/big", "x" * 4000)
    tool.set_perms("/big", "r0")
    guest.send(request(Op.READ, "/big"))
    pieces = 0
    messages: list[Message] = []
    while not messages:
        rig.settle()
        messages = guest.messages()
        pieces += 1
    assert messages[0].payload == b"x" * 4000
    assert pieces == 4


def test_a_domain_that_takes_no_answers_is_not_listened_to_and_harms_nobody(rig: Rig, guest: Guest, tool: Peer) -> None:
    tool.write("/big", "x" * 4000)
    tool.set_perms("/big", "r0")
    sent = 0
    while True:
        taken = guest.send(request(Op.READ, "/big"))
        sent += taken
        rig.settle()
        if not taken:
            break
    connection = rig.store.domains[DOMID].connection
    assert len(connection.output) == rig.store.accounts.default.outstanding
    tool.write("/still", "works")
    assert tool.read("/still") == b"works"
    answers = 0
    for _ in range(1000):
        answers += len(guest.messages())
        rig.settle()
    assert answers == sent // len(request(Op.READ, "/big"))


def test_watch_events_reach_the_domain_when_others_write(rig: Rig, guest: Guest, tool: Peer) -> None:
    tool.write(f"/local/domain/{DOMID}/x")
    tool.set_perms(f"/local/domain/{DOMID}/x", "n0", f"r{DOMID}")
    guest.send(request(Op.WATCH, "x", "t"))
    rig.settle()
    assert [message.type for message in guest.messages()] == [Op.WATCH, Op.WATCH_EVENT]
    tool.write(f"/local/domain/{DOMID}/x", "new")
    rig.settle()
    assert [message.payload for message in guest.messages()] == [b"x\0t\0"]


@pytest.mark.parametrize(
    ("offset", "value", "fault"),
    [(REQ_PROD, RING_SIZE + 1, 2), (REQ_PROD, MODULUS - 1, 2), (REQ_CONS, 1, 2), (RSP_CONS, 1, 2)],
)
def test_impossible_indices_end_the_connection_and_not_the_domain(
    rig: Rig, guest: Guest, tool: Peer, offset: int, value: int, fault: int, capsys: pytest.CaptureFixture[str]
) -> None:
    tool.watch("@releaseDomain", "gone")
    if offset == RSP_CONS:
        guest.send(request(Op.READ, "/"))
    guest.set(offset, guest.get(offset) + value)
    rig.settle()
    assert guest.get(ERROR) == fault
    assert f"domain {DOMID}" in capsys.readouterr().err
    assert tool.heard() == []
    assert tool.ask(Op.IS_DOMAIN_INTRODUCED, str(DOMID)) == b"T\0"


def test_a_payload_that_is_too_long_ends_the_connection_until_it_is_begun_anew(
    ends: Ends, rig: Rig, guest: Guest, tool: Peer
) -> None:
    guest.send(request(Op.WATCH, "x", "t") + HEADER.pack(Op.WRITE, 2, 0, 4097) + b"x" * 100)
    rig.settle()
    assert guest.get(ERROR) == RingFault.PROTOCOL
    guest.receive()
    guest.send(request(Op.READ, "/tool"))
    rig.settle()
    assert guest.receive() == b""
    guest.set(CONNECTION, 1)
    rig.settle()
    assert (guest.get(CONNECTION), guest.get(ERROR)) == (0, 0)
    guest.send(request(Op.GET_DOMAIN_PATH, "1"))
    rig.settle()
    assert [message.type for message in guest.messages()] == [Op.GET_DOMAIN_PATH]


def test_reconnecting_drops_halves_of_messages_watches_and_transactions(rig: Rig, guest: Guest, tool: Peer) -> None:
    guest.send(request(Op.WATCH, "x", "t") + request(Op.TRANSACTION_START, "") + request(Op.READ, "/")[:9])
    rig.settle()
    guest.send(request(Op.READ, "/"))
    guest.set(CONNECTION, 1)
    rig.settle()
    assert guest.get(CONNECTION) == 0
    assert guest.get(REQ_CONS) == guest.get(REQ_PROD)
    assert guest.get(RSP_CONS) == guest.get(RSP_PROD)
    connection = rig.store.domains[DOMID].connection
    assert (rig.store.watches.count(connection), connection.transactions) == (0, {})
    guest.send(request(Op.UNWATCH, "x", "t"))
    rig.settle()
    assert [message.payload for message in guest.messages()] == [b"ENOENT\0"]


def test_what_another_server_has_left_is_not_read_until_the_domain_begins_anew(
    ends: Ends, rig: Rig, guest: Guest, tool: Peer
) -> None:
    """As for a domain that was saved in the middle of a request, and has been restored."""
    tool.ask(Op.RELEASE, str(DOMID))
    guest.set(REQ_PROD, 500)
    guest.set(REQ_CONS, 480)
    guest.set(RSP_PROD, 2000)
    guest.set(RSP_CONS, 1900)
    orphan(guest.page)
    rig.introduce(ends, DOMID)
    guest.send(request(Op.READ, "/"))
    rig.settle()
    assert (guest.get(ERROR), guest.get(REQ_CONS), guest.get(RSP_PROD)) == (RingFault.COMMUNICATION, 480, 2000)
    guest.set(CONNECTION, 1)
    rig.settle()
    assert (guest.get(CONNECTION), guest.get(ERROR)) == (0, 0)
    guest.send(request(Op.GET_DOMAIN_PATH, "1"))
    rig.settle()
    assert [message.type for message in guest.messages()] == [Op.GET_DOMAIN_PATH]


def test_a_domain_that_overwrites_its_event_channel_tables_misses_its_own_events_only(
    ends: Ends, rig: Rig, guest: Guest, tool: Peer
) -> None:
    table = ends.guest.frame(ends.guest.layout.ports_frame[1])
    table[8:16] = b"\xff" * 8
    guest.send(request(Op.READ, "/"))
    rig.settle()
    assert guest.get(ERROR) == RingFault.COMMUNICATION
    assert tool.ask(Op.IS_DOMAIN_INTRODUCED, str(DOMID)) == b"T\0"


def test_a_released_domain_is_no_longer_heard(rig: Rig, guest: Guest, tool: Peer) -> None:
    tool.ask(Op.RELEASE, str(DOMID))
    guest.send(request(Op.READ, "/"))
    rig.settle()
    assert guest.receive() == b""


def test_the_link_of_another_domain_is_refused(ends: Ends, rig: Rig) -> None:
    with ends_of_a_link(DOMID + 1) as others:
        fds = duplicated(others.link.store_fds())
        connection = rig.store.domains[DOMID].connection
        with pytest.raises(Exception, match=f"the link of domain {DOMID + 1}"):
            RingCarrier.open(rig.store, connection, 1, GUEST_STORE_PORT, fds)
        for descriptor in fds:
            os.close(descriptor)


def test_the_ports_used_here_are_those_of_the_link(ends: Ends) -> None:
    fds = duplicated(ends.link.store_fds())
    with LinkEnd.from_fds(fds, vector=STORE_VECTOR, ports=STORE_PORTS) as end:
        assert end.events.status(STORE_PORTS[0])[1] == GUEST_STORE_PORT
