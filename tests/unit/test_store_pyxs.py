"""pyxs, an independent client, on a store that runs as a process."""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterator
from pathlib import Path
from threading import Thread

import pytest
import pyxs  # type: ignore[import-untyped]

from harness.hypervisor.layout import GUEST_STORE_PORT
from harness.store.client import StoreClient
from tests.unit.linkends import DOMID, ends_of_a_link

# What happens in a thread of pyxs when its connection is closed is its own business.
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")


@pytest.fixture
def xs(client: StoreClient, store_runtime: Path) -> Iterator[pyxs.Client]:
    with pyxs.Client(unix_socket_path=str(store_runtime / "store.sock")) as it:
        yield it


def refused(act: Callable[[], object]) -> str:
    """The name of the error."""
    with pytest.raises(pyxs.PyXSError) as error:
        act()
    return errno.errorcode[error.value.args[0]]


def test_nodes(xs: pyxs.Client, client: StoreClient) -> None:
    xs.write(b"/a/b/c", b"1")
    xs.mkdir(b"/a/d")
    xs.write(b"rel", b"mine")
    assert (xs.read(b"/a/b/c"), client.read("/a/b/c"), client.read("/local/domain/0/rel")) == (b"1", b"1", b"mine")
    assert (xs.list(b"/a"), xs.list(b"/a/d"), xs.exists(b"/a/d"), xs.exists(b"/a/e")) == ([b"b", b"d"], [], True, False)
    assert xs.read(b"/no/such", b"a default") == b"a default"
    assert [top for top, _, _ in xs.walk(b"/a")] == [b"/a", b"/a/b", b"/a/b/c", b"/a/d"]
    xs.delete(b"/a")
    assert not client.exists("/a")


def test_permissions(xs: pyxs.Client, client: StoreClient) -> None:
    xs.write(b"/a", b"1")
    xs.set_perms(b"/a", [b"b0", b"r5", b"w6"])
    assert xs.get_perms(b"/a") == [b"b0", b"r5", b"w6"]
    assert client.get_perms("/a") == ["b0", "r5", "w6"]


def test_errors_are_known_by_their_names(xs: pyxs.Client) -> None:
    assert refused(lambda: xs.read(b"/no/such")) == "ENOENT"
    assert refused(lambda: xs.list(b"/no/such")) == "ENOENT"
    assert refused(lambda: xs.delete(b"/")) == "EINVAL"
    monitor = xs.monitor()
    monitor.watch(b"/w", b"token")
    assert refused(lambda: monitor.watch(b"/w", b"token")) == "EEXIST"


def test_transactions_that_conflict_and_that_do_not(xs: pyxs.Client, client: StoreClient) -> None:
    xs.write(b"/counter", b"1")
    xs.transaction()
    xs.write(b"/counter", xs.read(b"/counter") + b"0")
    assert client.read("/counter") == b"1"
    xs.commit()
    assert client.read("/counter") == b"10"
    xs.transaction()
    xs.read(b"/counter")
    client.write("/counter", "11")
    xs.write(b"/other", b"x")
    assert xs.commit() is False
    assert not client.exists("/other")
    xs.transaction()
    xs.write(b"/other", b"x")
    xs.rollback()
    assert not client.exists("/other")


def test_watches(xs: pyxs.Client, client: StoreClient) -> None:
    with xs.monitor() as monitor:
        monitor.watch(b"/w", b"token")
        events = monitor.wait()
        assert tuple(next(events)) == (b"/w", b"token")
        client.write("/w/below", "1")
        assert tuple(next(events)) == (b"/w/below", b"token")
        monitor.unwatch(b"/w", b"token")
        client.write("/w/below", "2")
        monitor.watch(b"/v", b"token")
        assert tuple(next(events)) == (b"/v", b"token")


def test_domains(xs: pyxs.Client, client: StoreClient) -> None:
    assert xs.get_domain_path(5) == b"/local/domain/5"
    assert (xs.is_domain_introduced(0), xs.is_domain_introduced(DOMID)) == (True, False)
    with ends_of_a_link() as ends, xs.monitor() as monitor:
        monitor.watch(b"@introduceDomain", b"in")
        monitor.watch(b"@releaseDomain", b"out")
        events = monitor.wait()
        assert {tuple(next(events)) for _ in range(2)} == {(b"@introduceDomain", b"in"), (b"@releaseDomain", b"out")}
        client.introduce(DOMID, ends.guest.layout.store_frame, GUEST_STORE_PORT, ends.link.store_fds())
        assert tuple(next(events)) == (b"@introduceDomain", b"in")
        assert xs.is_domain_introduced(DOMID)
        client.release(DOMID)
        assert tuple(next(events)) == (b"@releaseDomain", b"out")


def test_several_of_its_threads_at_once(store_runtime: Path, client: StoreClient) -> None:
    def count(number: int) -> None:
        with pyxs.Client(unix_socket_path=str(store_runtime / "store.sock")) as xs:
            for value in range(50):
                xs.write(f"/threads/{number}".encode(), str(value).encode())

    threads = [Thread(target=count, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert {client.read(f"/threads/{number}") for number in range(4)} == {b"49"}
