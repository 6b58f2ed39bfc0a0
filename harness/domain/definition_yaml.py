"""YAML in which every value knows its file, its line and its key, so that every complaint can name them.

PyYAML builds the node tree and nothing else. It constructs no value, so an alias costs nothing, a tag calls nothing,
and ``no`` or ``52:54:00:12:34:56`` stay the text that somebody typed.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

import yaml

from harness.host.errors import DefinitionError

DOCUMENT_LIMIT = 64 * 1024
"""Bytes. A definition that somebody wrote is a few hundred."""

SIZE_UNITS = {"": 1, "KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30, "TiB": 1 << 40}

BOOLEANS = {"true": True, "false": False}

_SIZE = re.compile(r"([0-9]{1,18}) ?([A-Za-z]*)", re.ASCII)
_INTEGER = re.compile(r"-?[0-9]{1,18}", re.ASCII)

_TEXT_TAGS = {f"tag:yaml.org,2002:{kind}" for kind in ("str", "int", "float", "bool", "timestamp", "merge", "value")}
"""What PyYAML takes plain text for; all but an explicit null or a tag of somebody's own."""


def _shorten(text: str) -> str:
    return repr(text if len(text) <= 40 else text[:40] + "…")


def _describe(node: yaml.Node) -> str:
    if isinstance(node, yaml.ScalarNode):
        return _shorten(node.value) if node.value else "nothing"
    return "a list" if isinstance(node, yaml.SequenceNode) else "a mapping"


@dataclass(frozen=True)
class Value:
    """A value in a definition file.

    :param key: its dotted path, such as ``disks[0].size``; empty for the document itself.
    """

    file: Path
    key: str
    node: yaml.Node

    def error(self, problem: str, *, expected: str | None = None) -> DefinitionError:
        """An error that points at this value."""
        line = self.node.start_mark.line + 1 if self.node.start_mark else None
        return DefinitionError(self.file, line, self.key or None, problem, expected=expected)

    @property
    def is_mapping(self) -> bool:
        return isinstance(self.node, yaml.MappingNode)

    def mapping(self, allowed: Collection[str]) -> dict[str, Value]:
        """The value as a mapping from some of the allowed keys.

        :raise DefinitionError: it is no mapping, or has an unknown key, or the same key twice.
        """
        if not isinstance(self.node, yaml.MappingNode):
            raise self.error(f"found {_describe(self.node)}", expected="a mapping with keys " + ", ".join(allowed))
        found: dict[str, Value] = {}
        for key_node, value_node in self.node.value:
            name = key_node.value if isinstance(key_node, yaml.ScalarNode) else None
            dotted = f"{self.key}.{name}" if self.key else str(name)
            here = Value(self.file, dotted if name is not None else self.key, key_node)
            if name is None:
                raise here.error(f"found {_describe(key_node)} as a key", expected="one of " + ", ".join(allowed))
            if name not in allowed:
                near = difflib.get_close_matches(name, allowed, n=1)
                asked = f", did you mean {near[0]!r}?" if near else ""
                raise here.error(f"unknown key{asked}", expected="one of " + ", ".join(allowed))
            if name in found:
                raise here.error(f"given twice, first in line {found[name].node.start_mark.line + 1}")
            found[name] = Value(self.file, dotted, value_node)
        return found

    def sequence(self, limit: int) -> list[Value]:
        """The value as a list of at most ``limit`` values."""
        if not isinstance(self.node, yaml.SequenceNode):
            raise self.error(f"found {_describe(self.node)}", expected="a list")
        if len(self.node.value) > limit:
            raise self.error(f"has {len(self.node.value)} entries", expected=f"at most {limit}")
        return [Value(self.file, f"{self.key}[{n}]", node) for n, node in enumerate(self.node.value)]

    def text(self, expected: str = "text") -> str:
        """The value as it was typed, not empty."""
        node = self.node
        if not isinstance(node, yaml.ScalarNode) or not node.value or node.tag not in _TEXT_TAGS:
            raise self.error(f"found {_describe(node)}", expected=expected)
        if "\0" in node.value:
            raise self.error("contains a NUL character", expected=expected)
        return str(node.value)

    def matching(self, pattern: re.Pattern[str], expected: str) -> str:
        """The value as text that matches a pattern as a whole."""
        text = self.text(expected)
        if not pattern.fullmatch(text):
            raise self.error(f"found {_shorten(text)}", expected=expected)
        return text

    def choice(self, options: Collection[str]) -> str:
        """The value as one of a few words."""
        expected = ", ".join(options)
        text = self.text(expected)
        if text not in options:
            near = difflib.get_close_matches(text, options, n=1)
            asked = f", did you mean {near[0]!r}?" if near else ""
            raise self.error(f"found {_shorten(text)}{asked}", expected=f"one of {expected}")
        return text

    def integer(self, low: int, high: int) -> int:
        """The value as a whole number within bounds."""
        expected = f"a whole number from {low} to {high}"
        number = int(self.matching(_INTEGER, expected))
        if not low <= number <= high:
            raise self.error(f"found {number}", expected=expected)
        return number

    def boolean(self) -> bool:
        """The value as ``true`` or ``false``."""
        return BOOLEANS[self.choice(BOOLEANS)]

    def size(self, low: int, high: int, multiple: int) -> int:
        """The value as a number of bytes within bounds, written as ``512MiB``, ``1GiB`` or a plain number of bytes."""
        expected = f"a size such as {format_size(max(low, 256 << 20))}"
        text = self.text(expected)
        size = parse_size(text)
        if size is None:
            raise self.error(f"found {_shorten(text)}", expected=f"{expected} (units: {', '.join(SIZE_UNITS)[2:]})")
        if not low <= size <= high:
            bounds = f"{format_size(low)} to {format_size(high)}"
            raise self.error(f"{text} is {size} bytes", expected=bounds)
        if size % multiple:
            raise self.error(f"{size} bytes is no multiple of {format_size(multiple)}")
        return size


def parse_size(text: str) -> int | None:
    """The number of bytes that ``512MiB``, ``1GiB`` or a plain number says; None for other text."""
    match = _SIZE.fullmatch(text)
    if match is None or match[2] not in SIZE_UNITS:
        return None
    return int(match[1]) * SIZE_UNITS[match[2]]


def format_size(size: int) -> str:
    """A number of bytes in the largest unit that leaves it whole."""
    for unit, factor in reversed(SIZE_UNITS.items()):
        if size and size % factor == 0 and unit:
            return f"{size // factor}{unit}"
    return f"{size} bytes"


def load_document(file: Path) -> Value:
    """Read a definition file.

    :raise DefinitionError: it cannot be read, is too large, or is not one YAML document.
    """
    try:
        with file.open("rb") as stream:
            data = stream.read(DOCUMENT_LIMIT + 1)
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise DefinitionError(file, None, None, f"cannot be read: {reason}") from error
    return parse_document(file, data)


def parse_document(file: Path, data: bytes) -> Value:
    """Make a document of a definition file's bytes.

    :raise DefinitionError: they are too many, or not one YAML document.
    """
    if len(data) > DOCUMENT_LIMIT:
        raise DefinitionError(file, None, None, "is too large", expected=f"at most {format_size(DOCUMENT_LIMIT)}")
    try:
        node = yaml.compose(data, Loader=yaml.SafeLoader)
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else None
        raise DefinitionError(file, line, None, f"is not YAML: {error.problem or error.context}") from error
    except RecursionError as error:
        raise DefinitionError(file, None, None, "is nested too deeply") from error
    except (yaml.YAMLError, ValueError, OverflowError) as error:
        reason = " ".join(str(error).split())
        raise DefinitionError(file, None, None, f"is not YAML: {reason}") from error
    if node is None:
        raise DefinitionError(file, None, None, "is empty", expected="a domain's definition, see guests/hvm.yaml")
    return Value(file, "", node)
