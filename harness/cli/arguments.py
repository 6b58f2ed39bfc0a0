"""Arguments that several verbs share."""

from __future__ import annotations

import argparse
import difflib
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from harness.domain.definition import Definition
from harness.domain.definition_file import load
from harness.host.directories import GUESTS
from harness.host.errors import UsageError

if TYPE_CHECKING:
    Subparsers = argparse._SubParsersAction[argparse.ArgumentParser]
else:
    Subparsers = object

ACCELERATORS = ("auto", "kvm", "tcg")


def add_accelerator(verb: argparse.ArgumentParser) -> None:
    """``--accel``: auto takes KVM where a guest really runs in it, and says why if not."""
    verb.add_argument("--accel", choices=ACCELERATORS, default="auto", help="how guests run (default: auto)")


def add_name(verb: argparse.ArgumentParser) -> None:
    """The domain that a verb is about."""
    verb.add_argument("name", metavar="NAME", help="a domain's name or domid, see: harness list")


def add_command(verb: argparse.ArgumentParser) -> None:
    """A command for the guest; everything after ``--`` belongs to it."""
    verb.add_argument("command", nargs="*", metavar="COMMAND", help="with its arguments")
    takes_rest(verb, "command")


def takes_rest(verb: argparse.ArgumentParser, name: str) -> None:
    """What follows ``--`` on the command line is added to an argument that is a list; see :func:`parse`."""
    verb.set_defaults(rest=name)


def add_definition(verb: argparse.ArgumentParser) -> None:
    """The file that defines a domain, and the name it gets; see :func:`definition`."""
    verb.add_argument("file", type=Path, metavar="GUEST.yaml", help="a domain's definition, such as guests/pv.yaml")
    verb.add_argument("--name", help="the domain's name (default: as in the definition)")


def add_definitions(verb: argparse.ArgumentParser) -> None:
    """The same for several domains; see :func:`definitions`."""
    verb.add_argument(
        "files", type=Path, nargs="+", metavar="GUEST.yaml", help="domains' definitions, such as guests/pv.yaml"
    )
    verb.add_argument("--name", help="the domain's name, if it is one only (default: as in the definition)")


def definition(arguments: argparse.Namespace) -> Definition:
    """The definition that the arguments ask for.

    :raise UsageError: there is no such file, or it is not valid.
    """
    return _definition(arguments.file, arguments.name)


def definitions(arguments: argparse.Namespace) -> list[Definition]:
    """The definitions that the arguments ask for.

    :raise UsageError: a file is not there or not valid, or several are to have one name.
    """
    if arguments.name is not None and len(arguments.files) > 1:
        raise UsageError("--name is for one definition", hint="give each its name in its own file")
    return [_definition(file, arguments.name) for file in arguments.files]


def _definition(file: Path, name: str | None) -> Definition:
    if not file.exists():
        raise UsageError(f"there is no file {file}", hint=_suggestion(file))
    wanted = load(file)
    return wanted if name is None else wanted.renamed(name)


def _suggestion(file: Path) -> str:
    ready_made = sorted(GUESTS.glob("*.yaml"))
    near = difflib.get_close_matches(file.stem, [path.stem for path in ready_made], n=1)
    if near:
        return f"did you mean {_shown(GUESTS / f'{near[0]}.yaml')}?"
    return f"ready-made definitions: {', '.join(map(_shown, ready_made))}"


def _shown(path: Path) -> str:
    """The path as somebody here would type it."""
    here = Path.cwd()
    return os.fspath(path.relative_to(here) if path.is_relative_to(here) else path)


def parse(parser: argparse.ArgumentParser, argv: Sequence[str]) -> argparse.Namespace:
    """Parse a command line, and leave alone what follows its first ``--``: argparse would drop another one in it."""
    before, after = list(argv), []
    if "--" in before:
        at = before.index("--")
        before, after = before[:at], before[at + 1 :]
    arguments = parser.parse_args(before)
    if after:
        if "rest" not in arguments:
            parser.error(f"harness {arguments.verb} takes nothing after --")
        setattr(arguments, arguments.rest, getattr(arguments, arguments.rest) + after)
    return arguments


def comma_separated(text: str) -> list[str]:
    """``a,b,c`` as a list of names."""
    return [name for name in text.split(",") if name]


def positive(text: str) -> int:
    """A whole number above 0."""
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{text} is not above 0")
    return value
