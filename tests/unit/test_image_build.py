"""The cache of images: one build for two callers, no rebuild without a reason, nothing left of a failed one."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from harness.host import directories
from harness.host.errors import HostError, UsageError
from harness.image import build as building
from harness.image import keys, modules, packages, recipe, store
from harness.image.build import BuiltImage, build, list_images, remove
from harness.image.packages import Package

RECIPE = """\
kernel: linux-image-amd64
headers: linux-headers-amd64
packages: [busybox-static]
programs: [/bin/busybox]
modules: [ext4]
"""


class Builder:
    """Stands for apt and the compilers, and counts what it is asked for."""

    def __init__(self) -> None:
        self.resolutions = 0
        self.contents = 0
        self.seconds = 0.0
        self.error: HostError | None = None
        self.version = "1"

    def resolve(self, *_: object) -> dict[str, packages.Group]:
        self.resolutions += 1
        package = Package("linux-image", f"linux-image_{self.version}_amd64.deb", 1, self.version * 64)
        return {"kernel": (package,), "headers": (package,), "programs": (package,)}

    def provide(self, groups: packages.Resolution) -> dict[str, Path]:
        for name, group in groups.items():
            packages.tree(name, group).mkdir(exist_ok=True)
        return {name: packages.tree(name, group) for name, group in groups.items()}

    def fill(self, *_: object, guests: Path, scratch: Path, result: Path) -> str:
        self.contents += 1
        (scratch / "object").touch()
        time.sleep(self.seconds)
        if self.error:
            raise self.error
        (result / building.KERNEL).write_bytes((guests / "agent/agent.c").read_bytes())
        (result / building.INITRAMFS).touch()
        return "6.1.0-test"


@pytest.fixture
def sources(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A checkout of one recipe and one source file."""
    checkout = tmp_path / "checkout"
    for directory in ("images", "guests/agent", "guests/drivers", "guests/init"):
        (checkout / directory).mkdir(parents=True)
    (checkout / "images/minimal.yaml").write_text(RECIPE)
    (checkout / "guests/agent/agent.c").write_text("one")
    monkeypatch.setenv("HARNESS_CACHE", str(tmp_path / "cache"))
    for module in (directories, building, store):
        monkeypatch.setattr(module, "GUESTS", checkout / "guests")
    monkeypatch.setattr(recipe, "IMAGES", checkout / "images")
    return checkout


@pytest.fixture
def builder(sources: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Builder]:
    fake = Builder()
    monkeypatch.setattr(packages, "resolve", fake.resolve)
    monkeypatch.setattr(packages, "provide", fake.provide)
    monkeypatch.setattr(building, "_contents", fake.fill)
    yield fake
    assert not list(store.home("minimal").glob(f"{store.PARTIAL}*"))


def test_the_second_call_builds_and_resolves_nothing(builder: Builder) -> None:
    first = build("minimal")
    assert build("minimal") == first
    assert (builder.contents, builder.resolutions) == (1, 1)
    assert first.kernel.read_text() == "one"
    assert first.kernel_version == "6.1.0-test"
    assert first.ssh_host_key == keys.ensure(first.ssh_client_key.parent).host_public()


def test_two_at_once_are_one_build(builder: Builder) -> None:
    builder.seconds = 0.2
    images: list[BuiltImage] = []
    threads = [threading.Thread(target=lambda: images.append(build("minimal"))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert builder.contents == 1
    assert len(images) == 4
    assert len(set(images)) == 1


def test_a_changed_source_makes_another_image_from_the_same_packages(builder: Builder, sources: Path) -> None:
    first = build("minimal")
    (sources / "guests/agent/agent.c").write_text("two")
    second = build("minimal")
    assert second.digest != first.digest
    assert second.kernel.read_text() == "two"
    assert first.kernel.read_text() == "one"
    assert second.ssh_client_key == first.ssh_client_key
    assert builder.resolutions == 1


@pytest.mark.parametrize("change", ["mode", "rename"])
def test_modes_and_names_count(builder: Builder, sources: Path, change: str) -> None:
    script = sources / "guests/init/init"
    script.write_text("#!/bin/sh\n")
    first = build("minimal")
    if change == "mode":
        script.chmod(0o755)
    else:
        script.rename(script.with_name("other"))
    assert build("minimal").digest != first.digest


@pytest.mark.parametrize("name", ["agent/agent.o", "drivers/x.mod.c", "drivers/x.ko", "init/README.md", "pv.yaml"])
def test_files_that_no_image_is_made_from_do_not_count(builder: Builder, sources: Path, name: str) -> None:
    first = build("minimal")
    (sources / "guests" / name).write_text("anything")
    assert build("minimal") == first


def test_a_source_changed_during_the_build_is_built_next_time(
    builder: Builder, sources: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = builder.fill

    def fill(*arguments: object, guests: Path, scratch: Path, result: Path) -> str:
        (sources / "guests/agent/agent.c").write_text("two")
        return real(*arguments, guests=guests, scratch=scratch, result=result)

    monkeypatch.setattr(building, "_contents", fill)
    assert build("minimal").kernel.read_text() == "one"
    assert build("minimal").kernel.read_text() == "two"


def test_another_list_of_packages_is_resolved_anew(builder: Builder, sources: Path) -> None:
    build("minimal")
    (sources / "images/minimal.yaml").write_text(RECIPE.replace("busybox-static", "busybox-static, fio"))
    build("minimal")
    assert builder.resolutions == 2


def test_update_resolves_and_builds_only_what_is_new(builder: Builder) -> None:
    first = build("minimal")
    assert build("minimal", update=True) == first
    assert (builder.contents, builder.resolutions) == (1, 2)
    builder.version = "2"
    assert build("minimal").digest == first.digest
    assert build("minimal", update=True).digest != first.digest


def test_packages_that_vanished_from_the_archive_are_resolved_anew(
    builder: Builder, sources: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    build("minimal")
    builder.version = "2"
    real = builder.provide

    def provide(groups: packages.Resolution) -> dict[str, Path]:
        if groups["kernel"][0].version == "1":
            raise HostError("not found in the archive")
        return real(groups)

    monkeypatch.setattr(packages, "provide", provide)
    (sources / "guests/agent/agent.c").write_text("two")
    assert build("minimal").kernel.read_text() == "two"
    assert builder.resolutions == 2


def test_a_failed_build_leaves_nothing_and_the_next_one_works(builder: Builder) -> None:
    builder.error = HostError("does not compile")
    with pytest.raises(HostError, match="does not compile"):
        build("minimal")
    assert list_images() == []
    builder.error = None
    assert build("minimal").kernel.exists()


def test_what_a_killed_build_left_is_removed(builder: Builder) -> None:
    stale = store.home("minimal") / f"{store.PARTIAL}killed"
    stale.mkdir()
    build("minimal")
    assert not stale.exists()


def test_a_damaged_memory_of_packages_is_made_anew(builder: Builder) -> None:
    first = build("minimal")
    (store.home("minimal") / "packages.json").write_text('{"requested": []')
    assert build("minimal") == first
    assert builder.resolutions == 2


def test_only_the_latest_builds_are_kept(builder: Builder, sources: Path) -> None:
    digests = []
    for number in range(store.KEPT_BUILDS + 2):
        (sources / "guests/agent/agent.c").write_text(str(number))
        image = build("minimal")
        digests.append(image.digest)
        os.utime(image.kernel.parent / store.MANIFEST, (number, number))
    infos = list_images()
    assert [info.digest for info in infos] == digests[: -store.KEPT_BUILDS - 1 : -1]
    assert [info.current for info in infos] == [True] + [False] * (store.KEPT_BUILDS - 1)
    assert all(info.size > 0 and info.age < 60 for info in infos)


def test_remove(builder: Builder) -> None:
    image = build("minimal")
    assert [info.digest for info in remove("minimal")] == [image.digest]
    assert list_images() == []
    assert list(directories.cache("packages").iterdir()) == []
    for name in ("minimal", "..", ""):
        with pytest.raises(UsageError, match="has been built"):
            remove(name)


def test_a_missing_tool_is_named_with_the_remedy(builder: Builder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(building, "TOOLS", ("sh", "no-such-compiler"))
    with pytest.raises(HostError, match=r"no-such-compiler[^\n]*\nrun ci/setup"):
        build("minimal")


def test_a_full_disk_is_this_machines_fault(builder: Builder, monkeypatch: pytest.MonkeyPatch) -> None:
    def fill(*_: object, **__: object) -> str:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(building, "_contents", fill)
    with pytest.raises(HostError, match="No space left"):
        build("minimal")


def test_unknown_module_is_named(tmp_path: Path) -> None:
    root = tmp_path / "lib/modules/6.1"
    (root / "kernel").mkdir(parents=True)
    (root / "modules.builtin").write_text("kernel/drivers/tty/hvc/hvc_xen.ko\n")
    assert modules.stock(tmp_path, ["hvc-xen"]) == []
    with pytest.raises(HostError, match="no module nonsense"):
        modules.stock(tmp_path, ["hvc_xen", "nonsense"])
