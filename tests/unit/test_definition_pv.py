"""The keys of split devices in a definition, and the same as settings on a command line."""

from __future__ import annotations

from pathlib import Path

import pytest

from harness.bus.features import ADAPTIVE, ALL_BLOCK, BlockFeatures, NetFeatures, Notification, Notifications
from harness.cli.devices import disk_settings
from harness.domain.definition import Definition, Disk, Network
from harness.domain.definition_file import load
from harness.domain.definition_settings import disk_of, network_of
from harness.host.errors import DefinitionError, UsageError

EVERYTHING = """
kind: pv
consoles: 3
disks:
  - target: xvda
    model: pv
    size: 1MiB
    cdrom: true
    sector-size: 4096
    notification: {frontend: poll}
    features: {flush: false, barrier: false, discard: false, persistent: false,
               indirect-segments: 0, ring-page-order: 0, queues: 1, poll-queues: 0}
networks:
  - model: pv
    mtu: 9000
    notification: event
    features: {sg: false, gso-tcpv4: false, gso-tcpv6: false, csum-offload: false, ipv6-csum-offload: false,
               split-event-channels: false, multicast-control: false, ctrl-ring: false, persistent: false, queues: 2}
"""


def read(directory: Path, text: str) -> Definition:
    file = directory / "guest.yaml"
    file.write_text(text)
    return load(file)


def test_everything_that_can_be_said(tmp_path: Path) -> None:
    definition = read(tmp_path, EVERYTHING)
    assert definition.consoles == 3
    (disk,) = definition.disks
    assert (disk.cdrom, disk.readonly, disk.sector_size) == (True, True, 4096)
    assert disk.notifications == Notifications(frontend=Notification.POLL, backend=Notification.ADAPTIVE)
    assert disk.features == BlockFeatures(False, False, False, False, 0, 0, 1, 0)
    (card,) = definition.networks
    assert card.mtu == 9000
    assert card.notifications == Notifications(Notification.EVENT, Notification.EVENT)
    assert card.features == NetFeatures(False, False, False, False, False, False, False, False, False, 2)


def test_everything_is_on_by_default(tmp_path: Path) -> None:
    definition = read(tmp_path, "kind: pv\ndisks: [{target: xvda, model: pv, size: 1MiB}]\nnetworks: [{model: pv}]\n")
    assert definition.consoles == 1
    assert definition.disks == (Disk("xvda", "pv", None, 1 << 20),)
    assert definition.disks[0].features == ALL_BLOCK
    assert definition.disks[0].notifications == ADAPTIVE
    assert definition.networks == (Network("pv"),)


DISK = "kind: pv\ndisks:\n  - {target: xvda, model: pv, size: 1MiB, %s}\n"
NETWORK = "kind: pv\nnetworks:\n  - {model: pv, %s}\n"
WRONG = [
    ("kind: hvm\nconsoles: 2\n", "consoles", "this key with kind: pv only"),
    ("kind: pv\nconsoles: 5\n", "consoles", "from 1 to 4"),
    ("kind: hvm\ndisks: [{target: vda, model: virtio, size: 1MiB, cdrom: true}]\n", "disks[0].cdrom", "model: pv only"),
    ("kind: hvm\nnetworks: [{model: ne2000, mtu: 9000}]\n", "networks[0].mtu", "model: pv only"),
    (DISK % "sector-size: 1024", "disks[0].sector-size", "one of 512, 4096"),
    (DISK % "cdrom: true, readonly: false", "disks[0].readonly", "a CD-ROM is read-only"),
    (DISK % "notification: pol", "disks[0].notification", "did you mean 'poll'"),
    (DISK % "notification: {front: poll}", "disks[0].notification.front", "did you mean 'frontend'"),
    (DISK % "features: {discard: 0}", "disks[0].features.discard", "one of true, false"),
    (DISK % "features: {indirect: 0}", "disks[0].features.indirect", "did you mean 'indirect-segments'"),
    (DISK % "features: {indirect-segments: 257}", "disks[0].features.indirect-segments", "from 0 to 256"),
    (DISK % "features: {ring-page-order: 5}", "disks[0].features.ring-page-order", "from 0 to 4"),
    (DISK % "features: {queues: 0}", "disks[0].features.queues", "from 1 to 8"),
    (DISK % "features: [discard]", "disks[0].features", "found a list"),
    (NETWORK % "mtu: 67", "networks[0].mtu", "a whole number from 68"),
    (NETWORK % "features: {gso: false}", "networks[0].features.gso", "unknown key"),
]


@pytest.mark.parametrize(("text", "key", "expected"), WRONG)
def test_complaints_name_the_key_and_what_was_expected(tmp_path: Path, text: str, key: str, expected: str) -> None:
    with pytest.raises(DefinitionError) as caught:
        read(tmp_path, text)
    assert caught.value.key == key
    assert expected in str(caught.value)


def test_a_disk_is_a_multiple_of_its_own_sectors(tmp_path: Path) -> None:
    (tmp_path / "odd.img").write_bytes(bytes(4608))
    for storage in ("size: 4608", "path: odd.img"):
        text = f"kind: pv\ndisks:\n  - {{target: xvda, model: pv, sector-size: 4096, {storage}}}\n"
        with pytest.raises(DefinitionError, match="4608"):
            read(tmp_path, text)
        read(tmp_path, text.replace("4096", "512"))


def test_settings_are_the_keys_of_a_definition(tmp_path: Path) -> None:
    settings = {
        "target": "xvda",
        "size": "1MiB",
        "cdrom": "true",
        "sector-size": "4096",
        "notification.frontend": "poll",
        "features.flush": "false",
        "features.indirect-segments": "0",
    }
    disk = disk_of(settings)
    assert (disk.model, disk.cdrom, disk.sector_size) == ("pv", True, 4096)
    assert disk.notifications == Notifications(frontend=Notification.POLL)
    assert disk.features == BlockFeatures(flush=False, indirect_segments=0)
    assert network_of({"mac": "00:16:3E:00:00:01", "features.sg": "false"}) == Network(
        "pv", "00:16:3e:00:00:01", features=NetFeatures(sg=False)
    )


@pytest.mark.parametrize(
    ("settings", "complaint"),
    [
        ({"size": "1MiB"}, "'target' is missing"),
        ({"target": "xvda"}, "neither of 'path' and 'size'"),
        ({"target": "xvda", "size": "1MiB", "featurs.flush": "false"}, "did you mean 'features'"),
        ({"target": "xvda", "size": "1MiB", "features.flush": "no"}, "disk: features.flush: found 'no'"),
        ({"target": "xvda", "size": "1MiB", "notification": "poll", "notification.backend": "event"}, "in part"),
        ({"target": "xvda", "size": "1MiB", "notification.backend": "event", "notification": "poll"}, "in part"),
        ({"target": "xvda", "size": "1MiB", "model": "ide"}, "only pv devices"),
        ({"target": "xvda", "size": ""}, "found nothing"),
    ],
)
def test_settings_that_make_no_sense(settings: dict[str, str], complaint: str) -> None:
    with pytest.raises(UsageError, match=complaint):
        disk_of(settings)


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["xvdb", "/a b.img"], {"target": "xvdb", "path": "/a b.img"}),
        (["xvdb", "/a.img", "readonly=true"], {"target": "xvdb", "path": "/a.img", "readonly": "true"}),
        (["xvdb", "size=1GiB", "features.queues=1"], {"target": "xvdb", "size": "1GiB", "features.queues": "1"}),
        (["xvdb", "path=/a=b.img"], {"target": "xvdb", "path": "/a=b.img"}),
        # As in xl-disk-configuration(5).
        (["/a.img,raw,xvdb,rw"], {"target": "xvdb", "path": "/a.img", "readonly": "false"}),
        (["/a.img,,xvdb"], {"target": "xvdb", "path": "/a.img"}),
        (["format=raw, vdev=xvdb, access=ro, target=/a.img"], {"target": "xvdb", "path": "/a.img", "readonly": "true"}),
        (["/a.iso,raw,xvdb,cdrom"], {"target": "xvdb", "path": "/a.iso", "cdrom": "true"}),
    ],
)
def test_what_is_typed_to_attach_a_disk(words: list[str], expected: dict[str, str]) -> None:
    assert disk_settings(words) == expected


def test_paths_are_those_of_who_types_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert disk_settings(["xvdb", "a.img"])["path"] == f"{tmp_path}/a.img"


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (["xvdb"], "no image for xvdb"),
        (["xvdb", "/a.img", "readonly"], "no KEY=VALUE"),
        (["xvdb", "/a.img", "readonly=true", "readonly=false"], "readonly is given twice"),
        (["/a.img,qcow2,xvdb,rw"], "format qcow2 cannot be used"),
        (["/a.img,raw,xvdb,x"], "'x' is no access"),
        (["/a.img,raw,xvdb,rw,more"], "one word too many"),
        (["/a.img,raw,xvdb,script=block"], "script is no key"),
        (["/a.img,raw,xvdb", "readonly=true"], "follows a whole disk specification"),
    ],
)
def test_what_cannot_be_typed_to_attach_a_disk(words: list[str], complaint: str) -> None:
    with pytest.raises(UsageError, match=complaint):
        disk_settings(words)
