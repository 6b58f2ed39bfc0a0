"""Recipes: the ones in the checkout load, and every mistake is told with its line and key."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.host.errors import DefinitionError, UsageError
from harness.image import recipe

VALID = """\
kernel: linux-image-amd64
headers: linux-headers-amd64
packages: [busybox-static, libc6]
programs: [/bin/busybox]
modules: [ext4]
"""


def complaint(tmp_path: Path, text: str) -> DefinitionError:
    file = tmp_path / "broken.yaml"
    file.write_text(text)
    with pytest.raises(DefinitionError) as caught:
        recipe.load(file)
    assert caught.value.exit_code == 2
    assert str(file) in str(caught.value)
    return caught.value


def test_every_recipe_of_the_checkout_is_valid() -> None:
    assert "minimal" in recipe.names()
    for name in recipe.names():
        assert recipe.find(name).name == name


@pytest.mark.parametrize("name", ["maximal", "", "../minimal", "minimal.yaml", "/etc/passwd"])
def test_unknown_recipe_names_the_known_ones(name: str) -> None:
    with pytest.raises(UsageError, match="minimal"):
        recipe.find(name)


def test_optional_list_may_be_missing_or_empty(tmp_path: Path) -> None:
    file = tmp_path / "x.yaml"
    for text in (VALID, VALID + "stub_libraries: []\n"):
        file.write_text(text)
        assert recipe.load(file).stub_libraries == ()


@pytest.mark.parametrize(
    ("text", "line", "key"),
    [
        (VALID + "module: [x]\n", 6, "module"),
        (VALID + "? [a]\n: b\n", 6, None),
        (VALID + "kernel: other\n", 6, "kernel"),
        (VALID.replace("linux-image-amd64", "[a]"), 1, "kernel"),
        (VALID.replace("linux-image-amd64", "Linux"), 1, "kernel"),
        (VALID.replace("[ext4]", "ext4"), 5, "modules"),
        (VALID.replace("[ext4]", "[]"), 5, "modules"),
        (VALID.replace("[ext4]", "\n  - ext4\n  - ../x"), 7, "modules[1]"),
        (VALID.replace("[ext4]", "\n  - ext4\n  - ext4"), 7, "modules[1]"),
        (VALID.replace("/bin/busybox", "bin/busybox"), 4, "programs[0]"),
        (VALID.replace("/bin/busybox", "/../etc/.."), 4, "programs[0]"),
        (VALID.replace("libc6", "libc6=2.36"), 3, "packages[1]"),
        (VALID.replace("libc6", "--option"), 3, "packages[1]"),
        (VALID + "stub_libraries: [librbd.so]\n", 6, "stub_libraries[0]"),
        (VALID.replace("modules: [ext4]\n", ""), 1, "modules"),
        ("- a\n", 1, None),
        ("", 1, None),
        ("kernel: [\n", 2, None),
    ],
)
def test_mistakes_are_told_with_line_and_key(tmp_path: Path, text: str, line: int, key: str | None) -> None:
    error = complaint(tmp_path, text)
    assert (error.line, error.key) == (line, key)


def test_unreadable_file(tmp_path: Path) -> None:
    with pytest.raises(DefinitionError, match="cannot be read"):
        recipe.load(tmp_path / "absent.yaml")


@given(st.binary(max_size=200) | st.text(max_size=200).map(str.encode))
def test_any_bytes_load_or_complain(tmp_path_factory: pytest.TempPathFactory, data: bytes) -> None:
    file = tmp_path_factory.mktemp("recipe") / "any.yaml"
    file.write_bytes(data)
    with pytest.raises(DefinitionError):
        recipe.load(file)
