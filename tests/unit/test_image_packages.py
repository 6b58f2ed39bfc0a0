"""What apt prints, and trees of unpacked packages."""

from __future__ import annotations

from pathlib import Path

import pytest

from harness.host.errors import HostError
from harness.image import packages
from harness.image.packages import Package

URIS = """\
'http://deb.example/pool/f/fio_3.33-3_amd64.deb' fio_3.33-3_amd64.deb 537684 SHA256:{a}
W: something that apt remarks
'http://deb.example/pool/b/busybox.deb' busybox-static_1%3a1.35.0-4+deb12u1_amd64.deb 928188 SHA256:{b}
'http://deb.example/pool/x/old.deb' old_1_amd64.deb 5 MD5Sum:00
""".format(a="a" * 64, b="b" * 64)

DEPENDS = """\
linux-image-amd64
  Depends: linux-image-6.1.0-56-amd64
linux-image-6.1.0-56-amd64
  Depends: kmod
 |Depends: linux-initramfs-tool
  Depends: <linux-image-virtual>
kmod
<linux-image-virtual>
linux-image-6.1.0-56-amd64
"""


def test_addresses_are_read() -> None:
    assert packages.parse_uris(URIS) == [
        Package("fio", "fio_3.33-3_amd64.deb", 537684, "a" * 64),
        Package("busybox-static", "busybox-static_1%3a1.35.0-4+deb12u1_amd64.deb", 928188, "b" * 64),
    ]
    assert [package.version for package in packages.parse_uris(URIS)] == ["3.33-3", "1:1.35.0-4+deb12u1"]


def test_family_is_read() -> None:
    assert packages.parse_depends(DEPENDS, "linux-image-") == ["linux-image-6.1.0-56-amd64", "linux-image-amd64"]


def test_a_groups_name_depends_on_contents_only() -> None:
    one, other, newer = (Package(name, f"{name}_1_amd64.deb", 1, name * 64) for name in "abc")
    assert packages.group_digest([one, other]) == packages.group_digest([other, one])
    assert packages.group_digest([one, other]) != packages.group_digest([one, newer])


@pytest.fixture
def group(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Package, ...]:
    monkeypatch.setenv("HARNESS_CACHE", str(tmp_path / "cache"))
    return (Package("p", "p_1_amd64.deb", 4, "0" * 64),)


def test_a_file_that_is_not_what_was_resolved_is_refused(
    group: tuple[Package, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    def download(what: str, program: str, arguments: list[str], seconds: float, *, cwd: Path) -> str:
        assert arguments[-1] == "p=1"
        (cwd / "p_1_amd64.deb").write_bytes(b"evil")
        return ""

    monkeypatch.setattr(packages, "_apt", download)
    with pytest.raises(HostError, match=r"p_1_amd64\.deb is not the file"):
        packages.provide({"programs": group})
    assert not packages.unpacked({"programs": group})
    assert list((packages.tree("programs", group)).parent.iterdir()) == []


def test_prune_keeps_what_is_used(group: tuple[Package, ...]) -> None:
    used, unused = packages.tree("programs", group), packages.tree("kernel", group)
    partial = used.parent / ".partial-x"
    for directory in (used, unused, partial):
        directory.mkdir()
    packages.prune([{"programs": group}])
    assert list(used.parent.iterdir()) == [used]
