"""The file of a saved domain: written whole or not at all, and refused when it is not what was written."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from harness.backend.net_addresses import Addresses
from harness.backend.network_client import Lease as Address
from harness.bus.features import BlockFeatures, NetFeatures, Notification, Notifications
from harness.domain import saving
from harness.domain.definition import Definition, Disk, Network
from harness.domain.disks import AttachedDisk
from harness.domain.identity import identify
from harness.domain.leases import Lease
from harness.domain.networks import AttachedNetwork
from harness.domain.restoring import Saved
from harness.domain.saved import HEADER, MAGIC, VERSION, Reader, Writer, disks_directory
from harness.host.deadline import Deadline
from harness.host.errors import HostError, UsageError

STATE = b"memory and devices" * 1000
MIB = 1 << 20
VERSIONS = {"image": "minimal 1234", "QEMU": "7.2", "accelerator": "tcg", "link": "2"}


def written(file: Path, description: dict[str, Any]) -> Path:
    with Writer(file) as writer:
        os.write(writer.descriptor, STATE)
        writer.finish(description)
    return file


def test_what_was_written_is_read(tmp_path: Path) -> None:
    file = written(tmp_path / "saved", {"word": "größer"})
    assert [entry.name for entry in tmp_path.iterdir()] == ["saved"]
    assert file.stat().st_mode & 0o777 == 0o600
    with Reader(file) as reader:
        assert reader.description == {"word": "größer"}
        for _ in range(2):
            assert os.read(reader.state(), len(STATE)) == STATE


def test_one_that_is_there_stays_until_the_new_one_is_whole(tmp_path: Path) -> None:
    file = written(tmp_path / "saved", {"number": 1})
    with Writer(file) as writer:
        os.write(writer.descriptor, STATE)
        assert len(list(tmp_path.iterdir())) == 2
    assert [entry.name for entry in tmp_path.iterdir()] == ["saved"]
    with Reader(file) as reader:
        assert reader.description == {"number": 1}
    written(file, {"number": 2})
    with Reader(file) as reader:
        assert reader.description == {"number": 2}


def test_images_that_go_with_a_domain_are_beside_it(tmp_path: Path) -> None:
    image, file = tmp_path / "image", tmp_path / "saved"
    with image.open("wb") as content:
        content.write(b"data")
        content.truncate(64 * MIB)
    with Writer(file) as writer:
        copy = writer.add_disk("xvda.img", image, Deadline(30, "a copy"))
        assert not disks_directory(file).exists()
        writer.finish({})
    assert not copy.exists()
    with Reader(file) as reader:
        found = reader.disk("xvda.img")
    assert found.read_bytes() == image.read_bytes()
    assert found.stat().st_blocks * 512 < MIB
    # One that has no such images takes away those of one before.
    written(file, {})
    assert not disks_directory(file).exists()


def cut(content: bytes) -> bytes:
    return content[:-1]


def cut_within_the_header(content: bytes) -> bytes:
    return content[:40]


def lengthened(content: bytes) -> bytes:
    return content + b"more"


def changed(content: bytes) -> bytes:
    return content[:2000] + bytes([content[2000] ^ 1]) + content[2001:]


def of_another_version(content: bytes) -> bytes:
    fields = list(HEADER.unpack_from(content))
    fields[1] = VERSION + 1
    return HEADER.pack(*fields) + content[HEADER.size :]


def with_huge_lengths(content: bytes) -> bytes:
    _, version, _, _, digest = HEADER.unpack_from(content)
    return HEADER.pack(MAGIC, version, (1 << 64) - 1, (1 << 64) - 1, digest) + content[HEADER.size :]


def with_description(text: bytes) -> Callable[[bytes], bytes]:
    def make(_: bytes) -> bytes:
        digest = hashlib.sha256(STATE + text).digest()
        return HEADER.pack(MAGIC, VERSION, len(STATE), len(text), digest) + STATE + text

    return make


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda _: b"", "is no saved domain"),
        (lambda _: b"kind: pv\n", "is no saved domain"),
        (cut_within_the_header, "ends within its header"),
        (cut, "its header tells of"),
        (lengthened, "its header tells of"),
        (with_huge_lengths, "its header tells of"),
        (changed, "its checksum is wrong"),
        (of_another_version, f"version {VERSION + 1} of the format"),
        (with_description(b"{"), "is no JSON"),
        (with_description(b"\xff"), "is no JSON"),
        (with_description(b"[" * 100000), "is no JSON"),
        (with_description(b"[]"), "is no JSON object"),
    ],
)
def test_damage_is_noticed(tmp_path: Path, change: Callable[[bytes], bytes], reason: str) -> None:
    file = written(tmp_path / "saved", {})
    file.write_bytes(change(file.read_bytes()))
    with pytest.raises(UsageError, match=reason) as error:
        Reader(file)
    assert str(file) in error.value.what
    assert error.value.exit_code == 2


def test_what_is_no_file(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="No such file"):
        Reader(tmp_path / "none")
    with pytest.raises(UsageError, match="Is a directory"):
        Reader(tmp_path)
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(UsageError, match="cannot restore a domain"):
        Reader(tmp_path / "pipe")


# -- what the description says -----------------------------------------------------------------------------------------


@pytest.fixture
def image(tmp_path: Path) -> Path:
    path = tmp_path / "disk.img"
    path.write_bytes(bytes(MIB))
    return path


@pytest.fixture
def definition(image: Path, tmp_path: Path) -> Definition:
    """With everything that can be said about a domain."""
    disks = (
        Disk(
            "xvda",
            "pv",
            image,
            MIB,
            readonly=True,
            cdrom=True,
            sector_size=4096,
            notifications=Notifications(Notification.POLL, Notification.EVENT),
            features=BlockFeatures(flush=False, indirect_segments=3, queues=2),
        ),
    )
    networks = (
        Network(
            "pv",
            "00:16:3e:00:00:07",
            9000,
            Notifications(Notification.EVENT, Notification.EVENT),
            NetFeatures(sg=False, queues=3),
        ),
    )
    return Definition("dom", "pv", "minimal", 128, 2, disks, networks, tmp_path / "saved", 3)


def describe(definition: Definition) -> dict[str, Any]:
    """The description of a domain that has the devices of its definition."""
    images = []
    for disk in definition.disks:
        assert disk.path is not None
        with Lease(disk.path, readonly=disk.readonly) as lease:
            identity = identify(disk.path, lease.size, block_device=False)
        images.append({"target": disk.target, **asdict(identity)})
    cards = [AttachedNetwork(network, Address("10.77.0.9", network.mac or ""), 4) for network in definition.networks]
    return {
        "versions": VERSIONS,
        "domid": 7,
        "definition": saving.document(definition, definition.disks, cards),
        "cards": [{"number": 4, "address": "10.77.0.9"} for _ in cards],
        "links": [],
        "images": images,
    }


def test_a_definition_is_read_as_it_was_written(tmp_path: Path, definition: Definition) -> None:
    with Saved(written(tmp_path / "saved", describe(definition))) as saved:
        assert saved.definition == definition
        assert [(card.number, card.address) for card in saved.cards] == [(4, "10.77.0.9")]
        assert (saved.domid, saved.accelerator) == (7, "tcg")


@pytest.mark.parametrize(
    ("key", "value", "reason"),
    [
        ("definition", {"kind": "pv", "memory": "1MiB"}, "memory: 1MiB"),
        ("definition", [], "definition is missing"),
        ("definition", {"kind": "pv", "name": "\ud800"}, "is not YAML"),
        ("cards", [], "which of its network cards"),
        ("cards", [{"number": -1, "address": "10.77.0.9"}], "-1 is no number"),
        ("cards", [{"number": 0}], "address is missing"),
        ("cards", [7], "cards is no list of objects"),
        ("images", [], "which of its disks"),
        ("versions", {"QEMU": 7}, "versions is no object of strings"),
        ("domid", "7", "domid is missing"),
    ],
)
def test_nonsense_is_refused(tmp_path: Path, definition: Definition, key: str, value: object, reason: str) -> None:
    file = tmp_path / "saved"
    text = json.dumps({**describe(definition), key: value}).encode()
    file.write_bytes(with_description(text)(b""))
    with pytest.raises(UsageError, match=reason) as error:
        Saved(file)
    assert str(file) in error.value.what


def test_other_versions_are_named(tmp_path: Path, definition: Definition) -> None:
    with Saved(written(tmp_path / "saved", describe(definition))) as saved:
        saved.require_versions(VERSIONS)
        with pytest.raises(UsageError, match=r"restored: QEMU was 7\.2 and is 8\.0\n"):
            saved.require_versions({**VERSIONS, "QEMU": "8.0"})
        with pytest.raises(UsageError, match="accelerator was tcg and is kvm; processor was nothing and is fast"):
            saved.require_versions({**VERSIONS, "accelerator": "kvm", "processor": "fast"})


def test_an_image_that_was_written_to_is_refused(tmp_path: Path, definition: Definition, image: Path) -> None:
    with Saved(written(tmp_path / "saved", describe(definition))) as saved, Lease(image, readonly=True) as lease:
        attached = [AttachedDisk(definition.disks[0], lease)]
        saved.require_images(attached)
        os.utime(image, ns=(0, image.stat().st_mtime_ns + 1))
        with pytest.raises(UsageError, match=r"disk\.img of disk xvda has changed since"):
            saved.require_images(attached)


def test_an_address_can_be_asked_for() -> None:
    addresses = Addresses()
    assert addresses.take(None, "10.77.0.9")[0] == "10.77.0.9"
    for address in ("10.77.0.9", "10.77.0.1", "192.0.2.1", "nonsense"):
        with pytest.raises(HostError, match=f"the address {address} is in use by another guest, or is none"):
            addresses.take("00:16:3e:00:00:01", address)
    assert "10.77.0.9" not in {addresses.take(None)[0] for _ in range(100)}
    addresses.give_back("10.77.0.9")
    assert addresses.take(None, "10.77.0.9")[0] == "10.77.0.9"
