"""The file of a saved domain: written whole or not at all, and refused when it is not what was written."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest

from harness.backend.net_addresses import Addresses
from harness.backend.network_client import Lease as Address
from harness.bus.features import BlockFeatures, NetFeatures, Notification, Notifications
from harness.domain import saving
from harness.domain.definition import Definition, Disk, Network
from harness.domain.disks import AttachedDisk
from harness.domain.identity import Identity, identify, parse_identity
from harness.domain.leases import Lease
from harness.domain.networks import AttachedNetwork
from harness.domain.restoring import Saved, SavedLink
from harness.domain.saved import HEADER, MAGIC, VERSION, Reader, Writer, disks_directory
from harness.host.deadline import Deadline
from harness.host.errors import GuestError, HostError, UsageError

STATE = b"memory and devices" * 1000
MIB = 1 << 20
SERVED = Identity(MIB, 0, "12" * 32)
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
        Disk("xvdb", "pv", Path("/dev/vda"), 0, backend="driver"),
    )
    networks = (
        Network(
            "pv",
            "00:16:3e:00:00:07",
            9000,
            Notifications(Notification.EVENT, Notification.EVENT),
            NetFeatures(sg=False, queues=3),
        ),
        Network("pv", "00:16:3e:00:00:08", backend="driver"),
    )
    return Definition("dom", "pv", "minimal", 128, 2, disks, networks, tmp_path / "saved", 3)


def describe(definition: Definition) -> dict[str, Any]:
    """The description of a domain that has the devices of its definition."""
    images = []
    for disk in definition.disks:
        assert disk.path is not None
        identity = SERVED
        if disk.backend is None:
            with Lease(disk.path, readonly=disk.readonly) as lease:
                identity = identify(disk.path, lease.size, block_device=False)
        images.append({"target": disk.target, **asdict(identity)})
    cards = [AttachedNetwork(network, Address("10.77.0.9", network.mac or ""), 4) for network in definition.networks]
    return {
        "versions": VERSIONS,
        "domid": 7,
        "definition": saving.document(definition, definition.disks, cards),
        "cards": [{"number": 4, "address": "10.77.0.9"} for _ in cards],
        "links": [{"backend": "driver", "slot": 4}],
        "images": images,
    }


def test_a_definition_is_read_as_it_was_written(tmp_path: Path, definition: Definition) -> None:
    with Saved(written(tmp_path / "saved", describe(definition))) as saved:
        assert saved.definition == definition
        assert [(card.number, card.address) for card in saved.cards] == [(4, "10.77.0.9")] * 2
        assert saved.links == [SavedLink("driver", 4)]
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
        ("images", [{"target": "xvda", "size": 1, "mtime": 0}], "beginning is missing"),
        ("links", None, "links is missing"),
        ("links", [], "which of its links leads to which driver domain"),
        ("links", [{"backend": "other", "slot": 4}], "which of its links leads to which driver domain"),
        ("links", [{"backend": "driver", "slot": 4}, {"backend": "driver", "slot": 5}], "which of its links"),
        ("links", [{"backend": "driver"}], "slot is missing"),
        ("links", [{"backend": 7, "slot": 4}], "backend is missing"),
        ("links", [{"backend": "driver", "slot": 0}], "0 is no place for a link"),
        ("links", [{"backend": "driver", "slot": 31}], "31 is no place for a link"),
        ("links", ["driver"], "links is no list of objects"),
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


def test_two_links_in_one_place_are_refused(tmp_path: Path, definition: Definition) -> None:
    twice = replace(definition, networks=(*definition.networks, Network("pv", "00:16:3e:00:00:09", backend="other")))
    description = describe(twice)
    description["links"].append({"backend": "other", "slot": 4})
    with pytest.raises(UsageError, match="two of its links are in one place"):
        Saved(written(tmp_path / "saved", description))


@pytest.mark.parametrize(
    ("now", "reason"),
    [
        (replace(SERVED, size=512), f"xvdb has changed from {MIB} to 512 bytes since"),
        (replace(SERVED, beginning="34" * 32), "xvdb has changed since"),
        (replace(SERVED, mtime=1), "xvdb has changed since"),
    ],
)
def test_a_disk_of_a_driver_domain_that_was_written_to_is_refused(
    tmp_path: Path, definition: Definition, now: Identity, reason: str
) -> None:
    with Saved(written(tmp_path / "saved", describe(definition))) as saved:
        saved.require_served("xvdb", Path("/dev/vda"), "driver", SERVED)
        with pytest.raises(UsageError, match=rf"/dev/vda of driver domain driver of disk {reason}"):
            saved.require_served("xvdb", Path("/dev/vda"), "driver", now)


def test_a_block_device_is_known_by_its_beginning(tmp_path: Path) -> None:
    image = tmp_path / "device"
    image.write_bytes(b"a" * MIB + b"tail")
    known = identify(image, MIB + 4, block_device=True)
    assert known == Identity(MIB + 4, 0, hashlib.sha256(b"a" * MIB).hexdigest())


def test_what_a_driver_domain_says_of_a_disk() -> None:
    digest = "0a" * 32
    assert parse_identity(f"512 {digest}\n") == Identity(512, 0, digest)
    assert parse_identity("7 1795740346 2026-11-27 00:45:46.479525402 +0000\n") == Identity(7, 1795740346_479525402, "")
    assert parse_identity("7 1795740346 2026-11-27 00:45:46.5 +0000") == Identity(7, 1795740346_500000000, "")
    assert parse_identity("7 -1 1969-12-31 23:59:59 +0000") == Identity(7, -1_000000000, "")
    for text in ("", "7", "512 ", f"-1 {digest}", f"512 {digest}0", "7 x 2026-11-27 00:45:46 +0000", f"{digest} 512"):
        with pytest.raises(GuestError, match="what nobody understands"):
            parse_identity(text)


def test_an_address_can_be_asked_for() -> None:
    addresses = Addresses()
    assert addresses.take(None, "10.77.0.9")[0] == "10.77.0.9"
    for address in ("10.77.0.9", "10.77.0.1", "192.0.2.1", "nonsense"):
        with pytest.raises(HostError, match=f"the address {address} is in use by another guest, or is none"):
            addresses.take("00:16:3e:00:00:01", address)
    assert "10.77.0.9" not in {addresses.take(None)[0] for _ in range(100)}
    addresses.give_back("10.77.0.9")
    assert addresses.take(None, "10.77.0.9")[0] == "10.77.0.9"
