"""Arguments that several verbs share."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    Subparsers = argparse._SubParsersAction[argparse.ArgumentParser]
else:
    Subparsers = object

ACCELERATORS = ("auto", "kvm", "tcg")


def add_accelerator(verb: argparse.ArgumentParser) -> None:
    """``--accel``: auto takes KVM where a guest really runs in it, and says why if not."""
    verb.add_argument("--accel", choices=ACCELERATORS, default="auto", help="how guests run (default: auto)")


def comma_separated(text: str) -> list[str]:
    """``a,b,c`` as a list of names."""
    return [name for name in text.split(",") if name]


def positive(text: str) -> int:
    """A whole number above 0."""
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{text} is not above 0")
    return value
