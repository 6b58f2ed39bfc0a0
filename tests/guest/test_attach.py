"""Disks and network cards that come and go while the guest runs."""

from __future__ import annotations

import hashlib
import os
import signal
import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from harness.bus.xenbus import XenbusState, wait_for_state
from harness.domain.definition_settings import disk_of, network_of
from harness.domain.domain import Domain
from harness.host.deadline import Deadline
from harness.host.errors import GuestError, HostError, UsageError
from harness.pytest_plugin.plugin import AttachDisk, AttachNetwork
from harness.store.client import StoreClient

MIB = 1 << 20
HOLD = "exec 3<$1; until [ -e /tmp/let-go ]; do sleep 0.05; done"
"""Keeps a device open until it is told to let go."""


@pytest.fixture
def image(tmp_path: Path) -> Path:
    path = tmp_path / "data.img"
    path.write_bytes(os.urandom(4 * MIB))
    return path


@pytest.fixture
def held(pv: Domain, attach_disk: AttachDisk) -> Iterator[str]:
    """A disk that a process in the guest has open."""
    device = attach_disk(pv, "xvdb", size="4MiB")
    pv.start_service(["sh", "-c", HOLD, "sh", device])
    pv.execute(["sh", "-c", 'until ls -l /proc/[0-9]*/fd 2>/dev/null | grep -q "$1"; do :; done', "sh", device])
    yield device
    pv.execute(["touch", "/tmp/let-go"])
    # Whoever comes next holds something, too.
    pv.execute(["sh", "-c", "while ps | grep -q '[u]ntil \\['; do sleep 0.05; done; rm /tmp/let-go"], timeout=10)


def nodes(domain: Domain, kind: str) -> list[str]:
    with StoreClient.connect() as store:
        return store.directory(f"/local/domain/0/backend/{kind}/{domain.domid}")


def disks(domain: Domain) -> set[str]:
    return set(domain.execute(["ls", "/sys/block"]).check().text.split())


def cards(domain: Domain) -> set[str]:
    return set(domain.execute(["ls", "/sys/class/net"]).check().text.split()) - {"lo"}


def test_a_disk_comes_and_goes_and_keeps_its_data(pv: Domain, image: Path) -> None:
    content = image.read_bytes()
    for _ in range(2):
        pv.attach_disk(disk_of({"target": "xvdb", "path": str(image)}))
        assert disks(pv) == {"xvda", "xvdb"}
        assert pv.device("xvdb") == "/dev/xvdb"
        read = pv.execute(["sha256sum", "/dev/xvdb"]).check().text
        assert read.split()[0] == hashlib.sha256(content).hexdigest()
        pv.execute(["dd", "if=/dev/xvda", "of=/dev/xvdb", "bs=64k", "count=1", "conv=fsync", "status=none"]).check()
        content = image.read_bytes()
        assert content[: 64 << 10] == bytes(64 << 10)
        pv.detach_disk("xvdb")
        assert disks(pv) == {"xvda"}
        assert nodes(pv, "vbd") == ["51712"]


def test_an_image_is_free_as_soon_as_its_disk_is_detached(pv: Domain, image: Path, attach_disk: AttachDisk) -> None:
    attach_disk(pv, "xvdb", path=str(image))
    with pytest.raises(UsageError, match="in use by another domain, or by another disk of this one"):
        attach_disk(pv, "xvdc", path=str(image))
    pv.detach_disk("xvdb")
    attach_disk(pv, "xvdc", path=str(image))
    assert disks(pv) == {"xvda", "xvdc"}


def test_a_card_comes_and_goes(pv: Domain) -> None:
    for _ in range(2):
        card = pv.attach_network(network_of({"mac": "00:16:3E:00:77:01", "mtu": "1400"}))
        assert card.lease.mac == "00:16:3e:00:77:01"
        assert pv.addresses[1:] == [card.lease.address]
        (name,) = cards(pv) - {"eth0"}
        assert pv.execute(["cat", f"/sys/class/net/{name}/mtu"]).check().text == "1400"
        pv.execute(["ping", "-c", "1", "-W", "5", "-I", card.lease.address, pv.network.host_address]).check()
        with pytest.raises(HostError, match="is in use by another guest"):
            pv.attach_network(network_of({"mac": "00:16:3e:00:77:01"}))
        pv.detach_network("1")
        assert cards(pv) == {"eth0"}
        assert nodes(pv, "vif") == ["0"]


def test_a_card_is_known_by_its_address_and_other_cards_go_on(pv: Domain, attach_network: AttachNetwork) -> None:
    attach_network(pv)
    card = attach_network(pv)
    assert card.number == 2
    pv.detach_network("1")
    pv.execute(["ping", "-c", "1", "-W", "5", "-I", card.lease.address, pv.network.host_address]).check()
    pv.detach_network(card.lease.mac.upper())
    pv.execute(["ping", "-c", "1", "-W", "5", pv.network.host_address]).check()
    with pytest.raises(UsageError, match=r"has no network card 7; it has: 0 \(00:16:3e:"):
        pv.detach_network("7")


def test_a_disk_in_use_is_detached_when_the_guest_lets_go_of_it(pv: Domain, held: str) -> None:
    with pytest.raises(GuestError, match="is still using xvdb") as caught:
        pv.detach_disk("xvdb", timeout=0.5)
    assert caught.value.exit_code == 4
    # Meanwhile it works, and it cannot be attached once more.
    pv.execute(["dd", f"if={held}", "of=/dev/null", "bs=64k", "count=4", "iflag=direct", "status=none"]).check()
    with pytest.raises(UsageError, match="still being detached"):
        pv.attach_disk(disk_of({"target": "xvdb", "size": "1MiB"}))
    scratch = next(one.lease.path for one in pv.parts.disks if one.disk.target == "xvdb")
    pv.execute(["touch", "/tmp/let-go"]).check()
    pv.detach_disk("xvdb")
    assert disks(pv) == {"xvda"}
    assert nodes(pv, "vbd") == ["51712"]
    assert not scratch.exists()


def test_a_disk_in_use_can_be_taken_away(pv: Domain, held: str) -> None:
    pv.detach_disk("xvdb", force=True)
    assert disks(pv) == {"xvda"}
    assert nodes(pv, "vbd") == ["51712"]
    assert pv.execute(["dd", "if=/dev/xvda", "of=/dev/null", "count=1", "iflag=direct", "status=none"]).ok


@pytest.mark.parametrize(
    ("settings", "complaint"),
    [
        ({"target": "xvdb", "path": "/nowhere/x.img"}, "No such file"),
        ({"target": "xvdb", "path": "/proc"}, "neither a file nor a block device"),
        ({"target": "xvda", "size": "1MiB"}, "has a xvda already"),
        ({"target": "hdb", "size": "1MiB"}, "xvda to xvdp"),
        ({"target": "xvdb", "size": "1MiB", "features.dicsard": "false"}, "did you mean 'discard'"),
        ({"target": "xvdb", "size": "4608", "sector-size": "4096"}, "no multiple of 4KiB"),
    ],
)
def test_nothing_is_left_of_a_disk_that_makes_no_sense(pv: Domain, settings: dict[str, str], complaint: str) -> None:
    before = sorted(Path(pv.parts.record.scratch[0]).iterdir())
    with pytest.raises(UsageError, match=complaint):
        pv.attach_disk(disk_of(settings))
    assert sorted(Path(pv.parts.record.scratch[0]).iterdir()) == before
    assert nodes(pv, "vbd") == ["51712"]


def test_what_the_backend_complains_of_is_told(pv: Domain, image: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The image goes between our look at it and the backend's."""
    real = pv.parts.paravirtual
    assert real is not None
    hold = real.backend.hold
    monkeypatch.setattr(real.backend, "hold", lambda lease: (hold(lease), image.rename(image.with_suffix(".gone"))))
    with pytest.raises(HostError, match=r"is clos(ing|ed): 5 cannot open the image .*data\.img.*No such file"):
        pv.attach_disk(disk_of({"target": "xvdb", "path": str(image)}))
    monkeypatch.undo()
    assert nodes(pv, "vbd") == ["51712"]
    image.with_suffix(".gone").rename(image)
    # Nothing of it keeps the image.
    pv.attach_disk(disk_of({"target": "xvdb", "path": str(image)}))
    pv.detach_disk("xvdb")


def test_a_disk_grows_under_a_mounted_file_system(pv: Domain, attach_disk: AttachDisk) -> None:
    device = attach_disk(pv, "xvdb", size="32MiB")
    pv.execute(["sh", "-c", f"mkfs.ext4 -q {device} && mkdir -p /tmp/grow && mount {device} /tmp/grow"]).check()
    write = "head -c 4194304 /dev/urandom >/tmp/grow/data && sha256sum /tmp/grow/data >/tmp/sum"
    pv.execute(["sh", "-c", write]).check()
    assert pv.resize_disk("xvdb", 96 * MIB) == 96 * MIB
    assert pv.execute(["cat", "/sys/block/xvdb/size"]).check().text == str(96 * MIB // 512)
    pv.execute(["dd", "if=/dev/urandom", f"of={device}", "bs=1M", "seek=95", "count=1", "oflag=direct"]).check()
    pv.execute(["sh", "-c", "echo 3 >/proc/sys/vm/drop_caches; sha256sum -c /tmp/sum && umount /tmp/grow"]).check()
    for size, complaint in ((MIB, "cannot shrink"), (96 * MIB + 1, "no multiple")):
        with pytest.raises(UsageError, match=complaint):
            pv.resize_disk("xvdb", size)


def test_nothing_is_left_when_whoever_asked_has_gone(pv: Domain, image: Path) -> None:
    """As when ``harness block-attach`` is killed: the guest, which stands still, has not got the disk yet."""
    ours, theirs = socket.socketpair()
    qemu = pv.parts.qemu.child.pid
    with theirs, ThreadPoolExecutor() as pool:
        os.kill(qemu, signal.SIGSTOP)
        try:
            attached = pool.submit(pv.attach_disk, disk_of({"target": "xvdb", "path": str(image)}), asker=theirs)
            with StoreClient.connect() as store:
                path = f"/local/domain/0/backend/vbd/{pv.domid}/51728"
                wait_for_state(store, path, {XenbusState.INIT_WAIT}, Deadline(30, "the backend's offer"))
            ours.close()
            with pytest.raises(HostError):
                attached.result(30)
            assert nodes(pv, "vbd") == ["51712"]
        finally:
            os.kill(qemu, signal.SIGCONT)
    pv.attach_disk(disk_of({"target": "xvdb", "path": str(image)}))
    assert disks(pv) == {"xvda", "xvdb"}
    pv.detach_disk("xvdb")


def test_an_unmodified_guest_keeps_its_devices(hvm: Domain) -> None:
    with pytest.raises(UsageError, match="there is no hot-plug on an IDE bus"):
        hvm.attach_disk(disk_of({"target": "xvdb", "size": "1MiB"}))
