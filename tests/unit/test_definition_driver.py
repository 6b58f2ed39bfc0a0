"""Driver domains in definitions, and the order in which domains start."""

from __future__ import annotations

from pathlib import Path

import pytest

from harness.cli.devices import disk_settings
from harness.domain.definition import Definition, Disk, Network
from harness.domain.definition_file import load
from harness.domain.definition_settings import disk_of, network_of
from harness.domain.ordering import start_order
from harness.host.errors import DefinitionError, UsageError

DRIVER = """
kind: pv
driver-domain: true
on_crash: restart
disks:
  - {target: vda, model: virtio, size: 1MiB}
  - {target: hda, model: ide, size: 1MiB}
  - {target: xvda, model: pv, size: 1MiB}
networks: [{model: virtio}, {model: e1000}, {model: ne2000}, {model: pv}]
"""
SERVED = """
kind: pv
disks:
  - {target: xvda, model: pv, path: /dev/vda, backend: driver}
  - {target: xvdb, model: pv, path: /dev/vda, backend: driver, readonly: true}
  - {target: xvdc, model: pv, size: 1MiB}
networks: [{model: pv, backend: driver}, {model: pv, backend: other}]
"""


def read(directory: Path, text: str) -> Definition:
    file = directory / "guest.yaml"
    file.write_text(text)
    return load(file)


def test_a_driver_domain_has_devices_of_both_kinds(tmp_path: Path) -> None:
    definition = read(tmp_path, DRIVER)
    assert (definition.kind, definition.driver_domain, definition.on_crash) == ("pv", True, "restart")
    assert [disk.model for disk in definition.disks] == ["virtio", "ide", "pv"]
    assert [card.model for card in definition.networks] == ["virtio", "e1000", "ne2000", "pv"]
    assert definition.backends == []


def test_devices_that_driver_domains_serve(tmp_path: Path) -> None:
    definition = read(tmp_path, SERVED)
    assert not definition.driver_domain
    assert definition.on_crash == "destroy"
    assert definition.backends == ["driver", "other"]
    # The path is one in the driver domain, so nobody looks whether it exists here, or is used twice.
    assert definition.disks[0] == Disk("xvda", "pv", Path("/dev/vda"), 0, backend="driver")
    assert definition.disks[2].backend is None
    assert definition.networks == (Network("pv", backend="driver"), Network("pv", backend="other"))


def test_what_is_plugged_in_later_may_have_another_back_end_too() -> None:
    disk = disk_of({"target": "xvdb", "path": "/images/a.img", "backend": "driver", "readonly": "true"})
    assert disk == Disk("xvdb", "pv", Path("/images/a.img"), 0, readonly=True, backend="driver")
    assert network_of({"backend": "driver"}) == Network("pv", backend="driver")


def test_xl_says_it_in_its_own_words() -> None:
    assert disk_settings(["target=/dev/vda,vdev=xvdb,backend=driver"]) == {
        "target": "xvdb",
        "path": "/dev/vda",
        "backend": "driver",
    }
    # A path is looked for there, not from here.
    assert disk_settings(["xvdb", "a.img", "backend=driver"])["path"] == "a.img"


DISK = "kind: pv\ndisks:\n  - {target: xvda, model: pv, %s}\n"
WRONG = [
    ("kind: hvm\ndriver-domain: true\n", "driver-domain", "expected kind: pv"),
    ("kind: pv\ndriver-domain: yes\n", "driver-domain", "one of true, false"),
    ("kind: pv\non_crash: reboot\n", "on_crash", "one of destroy, restart, preserve"),
    ("kind: pv\ndisks: [{target: vda, model: virtio, size: 1MiB}]\n", "disks[0].model", "driver-domain: true"),
    ("kind: pv\nnetworks: [{model: e1000}]\n", "networks[0].model", "driver-domain: true"),
    (DISK % "backend: driver", "disks[0]", "a block device or a file in the driver domain"),
    (DISK % "backend: driver, size: 1MiB", "disks[0].size", "a block device or a file in the driver domain"),
    (DISK % "backend: driver, path: a.img", "disks[0].path", "an absolute path in the driver domain"),
    (DISK % "backend: driver, path: /a/../b", "disks[0].path", "an absolute path in the driver domain"),
    (DISK % "backend: 7, path: /dev/vda", "disks[0].backend", "not only digits"),
    ("kind: pv\nnetworks: [{model: pv, backend: a/b}]\n", "networks[0].backend", "the name of a driver domain"),
    (
        "kind: hvm\ndisks: [{target: vda, model: virtio, path: /dev/vda, backend: driver}]\n",
        "disks[0].backend",
        "model: pv only",
    ),
    ("kind: hvm\nnetworks: [{model: e1000, backend: driver}]\n", "networks[0].backend", "model: pv only"),
]


@pytest.mark.parametrize(("text", "key", "expected"), WRONG)
def test_complaints_name_the_key_and_what_was_expected(tmp_path: Path, text: str, key: str, expected: str) -> None:
    with pytest.raises(DefinitionError) as caught:
        read(tmp_path, text)
    assert caught.value.key == key
    assert expected in str(caught.value)


def domain(name: str, *backends: str, driver: bool = True) -> Definition:
    cards = tuple(Network("pv", backend=backend) for backend in backends)
    return Definition(name, "pv", "minimal", 256, 1, (), cards, Path(f"{name}.yaml"), driver_domain=driver)


def order(*definitions: Definition, running: tuple[str, ...] = ()) -> list[str]:
    return [one.name for one in start_order(definitions, running)]


def test_whoever_serves_comes_first() -> None:
    assert order(domain("a", "b"), domain("b", "c", "d"), domain("c"), domain("d", "c")) == ["c", "d", "b", "a"]


def test_the_order_given_is_kept_where_it_does_not_matter() -> None:
    assert order(domain("b"), domain("a"), domain("c")) == ["b", "a", "c"]


def test_a_back_end_may_run_already() -> None:
    assert order(domain("a", "b", "c"), domain("c"), running=("b",)) == ["c", "a"]


@pytest.mark.parametrize(
    ("definitions", "message"),
    [
        ([domain("a", "a")], "domain a is its own back end"),
        ([domain("a", "c"), domain("b")], "domain a has c as a back end, and no driver domain of that name runs"),
        ([domain("a", "b"), domain("b", driver=False)], "has b as a back end, which is no driver domain"),
        ([domain("a"), domain("a")], "two of the definitions are of a domain called a"),
        ([domain("a", "b"), domain("b", "a")], "a waits for b waits for a"),
        ([domain("a", "b"), domain("b", "c"), domain("c", "a"), domain("d")], "a waits for b waits for c waits for a"),
    ],
)
def test_what_can_never_start_is_refused_with_the_names(definitions: list[Definition], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        start_order(definitions, ())


def test_who_misses_a_back_end_is_told_what_to_type() -> None:
    with pytest.raises(UsageError) as caught:
        start_order([domain("a", "b")], ())
    assert "harness create b.yaml a.yaml" in str(caught.value)
