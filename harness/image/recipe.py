"""Image recipes: ``images/NAME.yaml``, validated."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

import yaml

from harness.host.directories import IMAGES
from harness.host.errors import DefinitionError, UsageError

_NAME = re.compile(r"[a-z0-9][a-z0-9._-]*")
_PACKAGE = re.compile(r"[a-z0-9][a-z0-9+.-]+")
_PROGRAM = re.compile(r"(/[A-Za-z0-9._+-]*[A-Za-z0-9_+-])+")
_LIBRARY = re.compile(r"lib[A-Za-z0-9._+-]+\.so\.[0-9]+")
_MODULE = re.compile(r"[A-Za-z0-9_-]+")

_SHAPES = {
    "kernel": (_PACKAGE, "the name of a Debian package, such as linux-image-amd64"),
    "headers": (_PACKAGE, "the name of a Debian package, such as linux-headers-amd64"),
    "packages": (_PACKAGE, "the name of a Debian package"),
    "programs": (_PROGRAM, "an absolute path in one of the packages"),
    "stub_libraries": (_LIBRARY, "a shared library's soname, such as librbd.so.1"),
    "modules": (_MODULE, "the name of a kernel module"),
}


@dataclass(frozen=True)
class Recipe:
    """What an image is made from; everything is resolved when it is built."""

    name: str
    file: Path
    kernel: str
    headers: str
    packages: tuple[str, ...]
    programs: tuple[str, ...]
    modules: tuple[str, ...]
    stub_libraries: tuple[str, ...] = ()

    @property
    def requested(self) -> tuple[str, ...]:
        """The package names that a resolution answers; another list needs another resolution."""
        return (self.kernel, self.headers, *sorted(self.packages))


def names() -> list[str]:
    """The recipes there are."""
    return sorted(path.stem for path in IMAGES.glob("*.yaml"))


def find(name: str) -> Recipe:
    """Load a recipe by name.

    :raise UsageError: there is none of that name; says which there are.
    :raise DefinitionError: it is not a valid recipe.
    """
    if not _NAME.fullmatch(name) or name not in names():
        raise UsageError(f"there is no image recipe {name!r}", hint=f"recipes in {IMAGES}: {', '.join(names())}")
    return load(IMAGES / f"{name}.yaml")


def load(file: Path) -> Recipe:
    """Read and validate one recipe file.

    :raise DefinitionError: with the line and key at fault and what was expected.
    """
    try:
        document = yaml.compose(file.read_text(), Loader=yaml.SafeLoader)
    except OSError as error:
        raise DefinitionError(file, None, None, f"cannot be read: {error.strerror}") from error
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else None
        raise DefinitionError(file, line, None, f"is not YAML: {error.problem}") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise DefinitionError(file, None, None, f"is not text: {' '.join(str(error).split())}") from error
    if not isinstance(document, yaml.MappingNode):
        raise DefinitionError(file, 1, None, "is no recipe", expected=f"a mapping with the keys {', '.join(_SHAPES)}")
    values: dict[str, str | tuple[str, ...]] = {}
    for key, value in document.value:
        label = key.value if isinstance(key, yaml.ScalarNode) else None
        if label not in _SHAPES:
            raise DefinitionError(file, _line(key), label, "unknown key", expected=f"one of {', '.join(_SHAPES)}")
        if label in values:
            raise DefinitionError(file, _line(key), label, "given twice", expected="each key once")
        values[label] = _value(file, label, value)
    for needed in ("kernel", "headers", "packages", "programs", "modules"):
        if needed not in values:
            raise DefinitionError(file, _line(document), needed, "missing", expected=_SHAPES[needed][1])
    return _recipe(file, values)


def _recipe(file: Path, values: dict[str, str | tuple[str, ...]]) -> Recipe:
    texts = {key: value for key, value in values.items() if isinstance(value, str)}
    lists = {key: value for key, value in values.items() if isinstance(value, tuple)}
    return Recipe(
        name=file.stem,
        file=file,
        kernel=texts["kernel"],
        headers=texts["headers"],
        packages=lists["packages"],
        programs=lists["programs"],
        modules=lists["modules"],
        stub_libraries=lists.get("stub_libraries", ()),
    )


def _line(node: yaml.Node) -> int:
    return int(node.start_mark.line) + 1


def _value(file: Path, key: str, node: yaml.Node) -> str | tuple[str, ...]:
    if key in ("kernel", "headers"):
        return _text(file, key, key, node)
    if not isinstance(node, yaml.SequenceNode) or (not node.value and key != "stub_libraries"):
        raise DefinitionError(file, _line(node), key, "is not a list", expected=f"a list, each item {_SHAPES[key][1]}")
    items = [_text(file, key, f"{key}[{index}]", item) for index, item in enumerate(node.value)]
    for index, item in enumerate(items):
        if item in items[:index]:
            raise DefinitionError(file, _line(node.value[index]), f"{key}[{index}]", f"{item} is listed twice")
    return tuple(items)


def _text(file: Path, key: str, where: str, node: yaml.Node) -> str:
    pattern, expected = _SHAPES[key]
    if not isinstance(node, yaml.ScalarNode) or not pattern.fullmatch(node.value):
        shown = repr(node.value) if isinstance(node, yaml.ScalarNode) else "a nested value"
        raise DefinitionError(file, _line(node), where, f"{shown} is not accepted", expected=expected)
    return str(node.value)
