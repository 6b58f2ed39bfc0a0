"""Domains on links to a store that runs as a process."""

from __future__ import annotations

import select
from pathlib import Path

import pytest

from harness.hypervisor.layout import GUEST_STORE_PORT
from harness.store.client import StoreClient
from harness.store.errors import StoreError
from harness.store.wire import Message, Op
from tests.unit.linkends import DOMID, ends_of_a_link
from tests.unit.live_store import event, store_pid
from tests.unit.store_guest import Guest, request

SECONDS = 20.0


def introduce(client: StoreClient, fds: list[int], frame: int) -> None:
    client.introduce(DOMID, frame, GUEST_STORE_PORT, fds)


def test_a_domain_on_a_link_is_served_until_its_owner_goes(client: StoreClient) -> None:
    with ends_of_a_link() as ends, StoreClient.connect() as owner:
        frame = ends.guest.layout.store_frame
        guest = Guest(ends.guest.frame(frame))
        client.watch("@releaseDomain", "gone", depth=1)
        event(client)
        introduce(owner, ends.link.store_fds(), frame)
        owner.write(f"/local/domain/{DOMID}/name", "guest")
        owner.set_perms(f"/local/domain/{DOMID}/name", ["n0", f"r{DOMID}"])
        assert client.is_introduced(DOMID)
        guest.send(request(Op.READ, "name"))
        ends.guest.events.send(GUEST_STORE_PORT)
        answers: list[Message] = []
        while not answers:
            assert select.select([ends.guest.wait_fd], [], [], SECONDS)[0], "no event from the store"
            ends.guest.events.acknowledge()
            ends.guest.events.pending()
            answers = guest.messages()
        assert answers[0].payload == b"guest"
        owner.close()
        assert event(client) == (f"@releaseDomain/{DOMID}", "gone")
        assert not client.exists(f"/local/domain/{DOMID}")


def test_a_request_is_found_even_if_its_event_was_lost(client: StoreClient) -> None:
    with ends_of_a_link() as ends:
        frame = ends.guest.layout.store_frame
        guest = Guest(ends.guest.frame(frame))
        introduce(client, ends.link.store_fds(), frame)
        ends.guest.events.acknowledge()
        guest.send(request(Op.GET_DOMAIN_PATH, "1"))
        answers: list[Message] = []
        while not answers:
            assert select.select([ends.guest.wait_fd], [], [], SECONDS)[0], "the store overlooks the request"
            ends.guest.events.acknowledge()
            answers = guest.messages()
        assert answers[0].payload == b"/local/domain/1\0"


@pytest.mark.parametrize("spoil", ["nothing", "frame", "port", "kind", "few"])
def test_an_introduction_without_a_good_link_is_refused_and_leaks_nothing(
    store_runtime: Path, client: StoreClient, spoil: str
) -> None:
    assert client.exists("/tool")
    descriptors = Path(f"/proc/{store_pid(store_runtime)}/fd")
    open_before = len(list(descriptors.iterdir()))
    with ends_of_a_link() as ends:
        fds, frame, port = ends.link.store_fds(), ends.guest.layout.store_frame, GUEST_STORE_PORT
        if spoil == "nothing":
            fds = []
        elif spoil == "frame":
            frame = 1 << 20
        elif spoil == "port":
            port = 77
        elif spoil == "kind":
            fds = fds[1:]
        else:
            fds = fds[:3]
        for _ in range(3):
            with pytest.raises(StoreError, match=f"INTRODUCE domain {DOMID}: EINVAL"):
                client.introduce(DOMID, frame, port, fds)
        assert len(list(descriptors.iterdir())) == open_before
        client.introduce(DOMID, ends.guest.layout.store_frame, GUEST_STORE_PORT, ends.link.store_fds())
        client.release(DOMID)
        client.introduce(DOMID, ends.guest.layout.store_frame, GUEST_STORE_PORT, ends.link.store_fds())
        assert client.is_introduced(DOMID)
