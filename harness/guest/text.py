"""Text from a guest, made harmless: it may hold whatever a terminal obeys."""

from __future__ import annotations

import re

_ESCAPE_SEQUENCE = re.compile(
    r"\x1b\[[0-?]*[ -/]*[@-~]"  # CSI: colours, cursor movement
    r"|\x1b[\]P^_X][^\x07\x1b]*(?:\x07|\x1b\\)"  # OSC, DCS and the like, up to BEL or ST
    r"|\x1b[ -/]*[0-~]"  # two- and three-character escapes
)
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")


def without_escapes(text: str) -> str:
    """The text without ANSI escape sequences."""
    return _ESCAPE_SEQUENCE.sub("", text)


def printable(text: str) -> str:
    """The text with every control character but tab and newline replaced by U+FFFD, escape sequences removed."""
    return _CONTROL.sub("\N{REPLACEMENT CHARACTER}", without_escapes(text).replace("\r\n", "\n"))
