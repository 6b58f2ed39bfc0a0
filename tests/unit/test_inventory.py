"""What block-list and network-list show, from a real store."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from harness.bus import toolstack
from harness.bus.inventory import UNKNOWN, devices
from harness.cli.main import main
from harness.domain import records
from harness.store.client import StoreClient
from tests.unit.live_store import live_store


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[StoreClient]:
    with live_store(tmp_path_factory.mktemp("runtime")) as client:
        yield client


def test_devices_are_listed_by_number(store: StoreClient) -> None:
    for target in ("xvdb", "xvdq", "xvda"):
        toolstack.add_vbd(store, 5, target, Path(f"/{target}.img"))
    found = devices(store, "vbd", 5)
    assert [one.devid for one in found] == [51712, 51728, (1 << 28) + (16 << 8)]
    assert [one.backend("dev") for one in found] == ["xvda", "xvdb", "xvdq"]
    assert [one.backend("params") for one in found] == ["/xvda.img", "/xvdb.img", "/xvdq.img"]
    assert devices(store, "vif", 5) == []


def test_what_a_guest_writes_is_harmless_to_a_terminal(store: StoreClient) -> None:
    disk = toolstack.add_vbd(store, 6, "xvda", Path("/a.img"))
    (found,) = devices(store, "vbd", 6)
    assert found.frontend("ring-ref", "queue-0/ring-ref") == UNKNOWN
    store.write(f"{disk.frontend}/queue-0/ring-ref", b"\x1b[2J" + b"9" * 1000)
    shown = found.frontend("ring-ref", "queue-0/ring-ref")
    assert shown.startswith("?[2J999")
    assert len(shown) == 256


def test_the_lists_of_a_domain(
    store: StoreClient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    claim = records.claim("shown", "pv", tmp_path)
    try:
        domid = claim.record.domid
        toolstack.add_vbd(store, domid, "xvda", Path("/a b.img"))
        toolstack.add_vif(store, domid, 0, "00:16:3e:00:00:01", "xenbr0")
        assert main(["block-list", "shown"]) == 0
        heads, line = capsys.readouterr().out.splitlines()
        assert heads.split()[:5] == ["Vdev", "Name", "BE", "handle", "state"]
        assert line.split()[:7] == ["51712", "xvda", "0", str(domid), "1", "-1", "-1"]
        assert "/a b.img" in line
        assert main(["network-list", str(domid)]) == 0
        heads, line = capsys.readouterr().out.splitlines()
        assert line.split()[:7] == ["0", "0", "00:16:3e:00:00:01", "0", "1", "-1", "-1/-1"]
        assert main(["block-list", "nobody"]) == 2
    finally:
        claim.release()
