"""Definitions: what is accepted, and that each complaint names file, line, key and what was expected."""

from __future__ import annotations

import os
import stat
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.domain.definition import Disk, Network
from harness.domain.definition_file import KEYS, define, load
from harness.domain.definition_yaml import DOCUMENT_LIMIT, SIZE_UNITS, format_size, parse_document
from harness.host.directories import GUESTS
from harness.host.errors import DefinitionError
from tests.loop_devices import attach


def write(directory: Path, text: str | bytes) -> Path:
    file = directory / "guest.yaml"
    file.write_bytes(text.encode() if isinstance(text, str) else text)
    return file


def refused(directory: Path, text: str | bytes) -> DefinitionError:
    file = write(directory, text)
    with pytest.raises(DefinitionError) as caught:
        load(file)
    assert caught.value.file == file
    assert caught.value.exit_code == 2
    assert str(file) in str(caught.value)
    return caught.value


@pytest.mark.parametrize(
    ("name", "kind", "target", "model"),
    [("hvm", "hvm", "hda", "ne2000"), ("pv", "pv", "xvda", "pv"), ("virtio", "hvm", "vda", "virtio")],
)
def test_ready_made_definitions(name: str, kind: str, target: str, model: str) -> None:
    definition = load(GUESTS / f"{name}.yaml")
    assert (definition.name, definition.kind, definition.memory, definition.vcpus) == (name, kind, 256, 1)
    assert [(disk.target, disk.size, disk.path) for disk in definition.disks] == [(target, 512 << 20, None)]
    assert [network.model for network in definition.networks] == [model]


def test_everything_said_is_kept(tmp_path: Path) -> None:
    (tmp_path / "disk.img").write_bytes(bytes(1024))
    definition = load(
        write(
            tmp_path,
            """
name: box-1
kind: hvm
image: other
memory: 1GiB
vcpus: 2
disks:
  - {target: hdb, model: ide, path: disk.img}
  - {target: vda, model: virtio, size: 1048576, readonly: true}
networks:
  - {model: e1000, mac: 52:54:00:AB:CD:EF}
  - {model: ne2000}
""",
        )
    )
    assert (definition.name, definition.image, definition.memory, definition.vcpus) == ("box-1", "other", 1024, 2)
    assert definition.disks == (
        Disk("hdb", "ide", (tmp_path / "disk.img").resolve(), 1024),
        Disk("vda", "virtio", None, 1 << 20, readonly=True),
    )
    assert definition.networks == (Network("e1000", "52:54:00:ab:cd:ef"), Network("ne2000", None))


def test_defaults(tmp_path: Path) -> None:
    definition = load(write(tmp_path, "kind: pv\n"))
    assert definition.name == "guest"
    assert (definition.image, definition.memory, definition.vcpus) == ("minimal", 256, 1)
    assert definition.disks == ()
    assert definition.networks == ()


def test_disks_in_memory_have_room_at_addresses_of_their_own(tmp_path: Path) -> None:
    text = "kind: pv\ndriver-domain: true\nmemory: 1GiB\ndisks:\n"
    text += "  - {target: pmem1, model: virtio-pmem, size: 1GiB}\n  - {target: pmem0, model: virtio-pmem, size: 2MiB}\n"
    definition = load(write(tmp_path, text))
    assert [disk.target for disk in definition.disks] == ["pmem1", "pmem0"]
    assert definition.room >= 1026
    # A guest to start from, which has none itself, keeps as much room.
    assert replace(definition, disks=(), spare=definition.room).room == definition.room
    assert load(write(tmp_path, "kind: pv\n")).room == 0


# Each: the text, the line at fault, the key at fault, words that must be in the message.
HVM = "kind: hvm\n"
DISK = "kind: hvm\ndisks:\n  - {target: hda, model: ide, %s}\n"
VIRTIO = "kind: hvm\ndisks:\n  - {target: vda, model: virtio, size: 1MiB, %s}\n"
PMEM = "kind: hvm\ndisks:\n  - {target: pmem0, model: virtio-pmem, %s}\n"
WRONG = [
    pytest.param("", None, None, "empty", id="empty"),
    pytest.param("name: x\n", 1, None, "'kind' is missing", id="no kind"),
    pytest.param("kind: hvn\n", 1, "kind", "did you mean 'hvm'", id="mistyped kind"),
    pytest.param("- kind\n", 1, None, "found a list", id="document is a list"),
    pytest.param(HVM + "memmory: 1GiB\n", 2, "memmory", "did you mean 'memory'", id="mistyped key"),
    pytest.param(HVM + "kind: pv\n", 2, "kind", "given twice, first in line 1", id="key twice"),
    pytest.param(HVM + "? [a]\n: b\n", 2, None, "found a list as a key", id="list as key"),
    pytest.param(HVM + "<<: {vcpus: 2}\n", 2, "<<", "unknown key", id="merge key"),
    pytest.param(HVM + "memory: 256\n", 2, "memory", "256 is 256 bytes; expected 128MiB to 1TiB", id="no unit"),
    pytest.param(HVM + "memory: 256MB\n", 2, "memory", "units: KiB, MiB, GiB, TiB", id="wrong unit"),
    pytest.param(HVM + "memory: 100.5MiB\n", 2, "memory", "found '100.5MiB'", id="fraction"),
    pytest.param(HVM + "memory: 524289KiB\n", 2, "memory", "no multiple of 1MiB", id="odd memory"),
    pytest.param(HVM + "memory:\n", 2, "memory", "found nothing", id="no value"),
    pytest.param(HVM + "memory: [1]\n", 2, "memory", "found a list", id="list for a size"),
    pytest.param(HVM + "vcpus: 0\n", 2, "vcpus", "a whole number from 1 to", id="no cpu"),
    pytest.param(HVM + "vcpus: two\n", 2, "vcpus", "a whole number", id="no number"),
    pytest.param(HVM + "vcpus: " + "9" * 5000, 2, "vcpus", "a whole number", id="huge number"),
    pytest.param(HVM + "name: 17\n", 2, "name", "not only digits", id="name like a domid"),
    pytest.param(HVM + "name: a/b\n", 2, "name", "letters, digits", id="slash in name"),
    pytest.param(HVM + "name: !!python/object:os.system x\n", 2, "name", "found 'x'", id="tag"),
    pytest.param(HVM + "image: ../x\n", 2, "image", "image recipe", id="image outside"),
    pytest.param(HVM + "disks: hda\n", 2, "disks", "found 'hda'; expected a list", id="disks no list"),
    pytest.param(HVM + "disks: [hda]\n", 2, "disks[0]", "expected a mapping", id="disk no mapping"),
    pytest.param(HVM + "disks:\n  - model: ide\n", 3, "disks[0]", "'target' is missing", id="no target"),
    pytest.param(DISK % "sise: 1GiB", 3, "disks[0].sise", "did you mean 'size'", id="key in disk"),
    pytest.param(DISK % "readonly: false", 3, "disks[0]", "neither of", id="no size no path"),
    pytest.param(DISK % "size: 1GiB, path: x", 3, "disks[0]", "both of", id="size and path"),
    pytest.param(DISK % "size: 1000", 3, "disks[0].size", "no multiple of 512", id="half a sector"),
    pytest.param(DISK % "size: 0", 3, "disks[0].size", "512 bytes to 16TiB", id="empty disk"),
    pytest.param(DISK % "size: 1GiB, readonly: yes", 3, "disks[0].readonly", "one of true, false", id="yes"),
    pytest.param(DISK % "size: 1GiB, readonly: true", 3, "disks[0].readonly", "cannot be read-only", id="ide ro"),
    pytest.param(DISK % "size: 1GiB, io: inline", 3, "disks[0].io", "disks of model virtio", id="inline ide"),
    pytest.param(VIRTIO % "io: inlin", 3, "disks[0].io", "did you mean 'inline'", id="mistyped io"),
    pytest.param(PMEM % "size: 4MiB, readonly: true", 3, "disks[0].readonly", "cannot be read-only", id="pmem ro"),
    pytest.param(PMEM % "size: 3MiB", 3, "disks[0].size", "no multiple of 2MiB", id="odd pmem"),
    pytest.param(PMEM % "path: good.img", 3, "disks[0].path", "truncate -s %2097152 FILE", id="short pmem"),
    pytest.param(PMEM % "size: 4MiB, io: inline", 3, "disks[0].io", "disks of model virtio", id="inline pmem"),
    pytest.param(
        (PMEM % "size: 4MiB").replace("pmem0", "pmem1"), 3, "disks", "there is no pmem0", id="pmem without the first"
    ),
    pytest.param(PMEM % "size: 4098MiB", 1, None, "256MiB of memory, and disks", id="pmem too large"),
    pytest.param(
        PMEM % "size: 64GiB" + "memory: 1GiB\n", 4, "memory", "expected 1216MiB at least", id="pmem much too large"
    ),
    pytest.param(DISK % "path: nowhere.img", 3, "disks[0].path", "No such file", id="missing image"),
    pytest.param(DISK % 'path: "a\\0b"', 3, "disks[0].path", "NUL", id="nul in path"),
    pytest.param(DISK % "path: .", 3, "disks[0].path", "neither a file nor a block device", id="directory"),
    pytest.param(DISK % "path: odd.img", 3, "disks[0].path", "1000 bytes", id="odd image"),
    pytest.param(DISK % "path: empty.img", 3, "disks[0].path", "0 bytes", id="empty image"),
    pytest.param(DISK % "path: circle", 3, "disks[0].path", "cannot be opened", id="circle of links"),
    pytest.param(
        HVM + "disks:\n  - {target: hde, model: ide, size: 1GiB}\n",
        *(3, "disks[0].target", "room for four"),
        id="a fifth ide disk",
    ),
    pytest.param(
        HVM + "disks:\n  - {target: xvda, model: ide, size: 1GiB}\n",
        *(3, "disks[0].target", "for model ide: hda to hdd"),
        id="target of another model",
    ),
    pytest.param(
        HVM + "disks:\n  - {target: xvda, model: pv, size: 1GiB}\n",
        *(3, "disks[0].model", "no pv devices in a domain of kind hvm"),
        id="pv disk in hvm",
    ),
    pytest.param(
        "kind: pv\nnetworks:\n  - model: virtio\n",
        *(3, "networks[0].model", "only pv devices in a domain of kind pv"),
        id="virtio card in pv",
    ),
    pytest.param(
        HVM + "disks:\n  - {target: vda, model: virtio, size: 1GiB}\n  - {target: vda, model: virtio, size: 1MiB}\n",
        *(4, "disks[1].target", "two disks are called vda"),
        id="target twice",
    ),
    pytest.param(
        HVM + "disks:\n  - {target: vda, model: virtio, path: good.img}\n"
        "  - {target: vdb, model: virtio, path: link.img}\n",
        *(4, "disks[1].path", "good.img; expected each image once"),
        id="image twice",
    ),
    pytest.param(
        HVM + "disks:\n  - {target: vda, model: virtio, path: good.img}\n"
        "  - {target: vdb, model: virtio, size: 512}\n"
        "  - {target: vdc, model: virtio, path: hard.img}\n",
        *(5, "disks[2].path", "good.img, also called"),
        id="image twice by hard link",
    ),
    pytest.param(HVM + "networks:\n  - {}\n", 3, "networks[0]", "'model' is missing", id="card without model"),
    pytest.param(HVM + "networks: [" + "{model: e1000}, " * 9 + "]\n", 2, "networks", "at most 8", id="too many cards"),
    pytest.param(
        HVM + "networks:\n  - {model: e1000, mac: 01:00:00:00:00:01}\n",
        *(3, "networks[0].mac", "multicast"),
        id="multicast address",
    ),
    pytest.param(
        HVM + "networks:\n  - {model: e1000, mac: 0:16:3e:0:0:1}\n",
        *(3, "networks[0].mac", "six pairs"),
        id="short address",
    ),
    pytest.param(
        HVM + "networks:\n  - {model: e1000, mac: 00:16:3E:00:00:01}\n  - {model: e1000, mac: 00:16:3e:00:00:01}\n",
        *(4, "networks[1].mac", "two networks"),
        id="address twice",
    ),
    pytest.param(HVM + "disks: [", 2, None, "is not YAML", id="unclosed"),
    pytest.param(HVM + "---\nkind: pv\n", 2, None, "is not YAML", id="two documents"),
    pytest.param(b"\xff\xfe\xfa", None, None, "is not YAML", id="no unicode"),
    pytest.param(HVM + "name: " + "[" * 20000, None, None, "nested too deeply", id="deep nesting"),
    pytest.param(HVM + "#" * DOCUMENT_LIMIT, None, None, "too large", id="too large"),
]


@pytest.mark.parametrize(("text", "line", "key", "words"), WRONG)
def test_complaint(tmp_path: Path, text: str | bytes, line: int | None, key: str | None, words: str) -> None:
    (tmp_path / "good.img").write_bytes(bytes(512))
    (tmp_path / "odd.img").write_bytes(bytes(1000))
    (tmp_path / "empty.img").touch()
    (tmp_path / "link.img").symlink_to("good.img")
    (tmp_path / "hard.img").hardlink_to(tmp_path / "good.img")
    (tmp_path / "circle").symlink_to("circle")
    error = refused(tmp_path, text)
    assert words in str(error)
    assert (error.line, error.key) == (line, key)


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(DefinitionError, match="No such file"):
        load(tmp_path / "nowhere.yaml")


def test_directory_is_no_definition(tmp_path: Path) -> None:
    with pytest.raises(DefinitionError, match="directory"):
        load(tmp_path)


def test_pipe_is_no_disk(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    error = refused(tmp_path, DISK % "path: pipe")
    assert "neither a file nor a block device" in str(error)


def test_a_device_is_one_image_under_all_its_nodes(tmp_path: Path) -> None:
    (tmp_path / "good.img").write_bytes(bytes(1024))
    disk = "  - {target: hd%s, model: ide, path: %s}\n"
    with attach(tmp_path / "good.img") as device:
        os.mknod(tmp_path / "node", 0o600 | stat.S_IFBLK, device.stat().st_rdev)
        (found,) = load(write(tmp_path, "kind: hvm\ndisks:\n" + disk % ("a", device))).disks
        assert found == Disk("hda", "ide", device, 1024)
        error = refused(tmp_path, "kind: hvm\ndisks:\n" + disk % ("a", device) + disk % ("b", "node"))
    assert (error.line, error.key) == (4, "disks[1].path")
    assert f"two disks are on {device}, also called {tmp_path / 'node'}" in error.problem


def test_file_name_that_is_no_name(tmp_path: Path) -> None:
    file = tmp_path / "my guest.yaml"
    file.write_text("kind: pv\n")
    with pytest.raises(DefinitionError, match="'name' is missing, and the file's name will not do"):
        load(file)


def test_alias_bomb_costs_nothing(tmp_path: Path) -> None:
    levels = [f"l{n}: &l{n} [" + ", ".join([f"*l{n - 1}"] * 9) + "]" for n in range(1, 60)]
    error = refused(tmp_path, "kind: hvm\nl0: &l0 [x]\n" + "\n".join(levels))
    assert error.key == "l0"
    assert "unknown key" in error.problem


def test_list_that_contains_itself(tmp_path: Path) -> None:
    error = refused(tmp_path, "kind: hvm\ndisks: &a [*a]\n")
    assert error.key == "disks[0]"


def test_alias_of_a_disk_is_the_disk_again(tmp_path: Path) -> None:
    error = refused(tmp_path, "kind: hvm\ndisks: [&d {target: hda, model: ide, size: 1GiB}, *d]\n")
    assert "two disks are called hda" in error.problem


@given(st.integers(1, 1 << 20), st.sampled_from(sorted(SIZE_UNITS)))
def test_size_reads_back_what_it_prints(count: int, unit: str) -> None:
    size = count * SIZE_UNITS[unit]
    text = format_size(size).removesuffix(" bytes")
    assert parse_document(Path("f"), text.encode()).size(0, 1 << 62, 1) == size


def loads_or_complains(data: bytes) -> None:
    """Any exception but DefinitionError fails the test that calls this."""
    file = Path("/nonexistent/fuzz.yaml")
    complaint: DefinitionError | None = None
    try:
        define(parse_document(file, data))
    except DefinitionError as error:
        complaint = error
    if complaint is not None:
        assert str(complaint).startswith(str(file))
        assert complaint.line is None or 1 <= complaint.line <= len(data) + 1


@given(st.binary(max_size=300))
def test_any_bytes_load_or_complain(data: bytes) -> None:
    loads_or_complains(data)


@given(st.text(max_size=300))
def test_any_text_loads_or_complains(text: str) -> None:
    loads_or_complains(text.encode(errors="surrogatepass"))


FRAGMENTS = st.sampled_from(
    [
        *(f"{key}: " for key in (*KEYS, "target", "model", "path", "size", "readonly", "mac")),
        *("hvm", "pv", "ide", "hda", "xvda", "1GiB", "512", "true", "~", "0x10", "-1", "1e9", "52:54:00:00:00:01"),
        *(
            "\n",
            "\n  - ",
            "\n    ",
            "[",
            "]",
            "{",
            "}",
            ", ",
            "&a ",
            "*a",
            "<<: ",
            "!!int ",
            "!x ",
            "? ",
            "|\n",
            "'",
            '"',
        ),
        *('"\\UFFFFFFFF"', '"\\0"', "%YAML 9.9\n---\n", "---\n", "...\n", "\t", "\x85", "#"),
    ]
)


@given(st.lists(FRAGMENTS, max_size=30))
def test_anything_like_a_definition_loads_or_complains(fragments: list[str]) -> None:
    loads_or_complains("".join(fragments).encode())


@given(st.lists(FRAGMENTS, max_size=10))
def test_garbage_after_a_good_start_loads_or_complains(fragments: list[str]) -> None:
    loads_or_complains(("kind: hvm\n" + "".join(fragments)).encode())
