"""``harness images``: what guests boot from."""

from __future__ import annotations

import argparse

from harness.cli.arguments import Subparsers
from harness.cli.table import print_table
from harness.host.progress import say
from harness.image import build as images

MIB = 1 << 20
DAY, HOUR, MINUTE = 86400, 3600, 60


def add_parsers(verbs: Subparsers) -> None:
    verb = verbs.add_parser("images", help="list, build or remove what guests boot from")
    actions = verb.add_subparsers(dest="action", metavar="ACTION", required=True)

    action = actions.add_parser("list", help="show the images in the cache")
    action.set_defaults(run=_list)

    action = actions.add_parser("build", help="build an image unless it is there and up to date")
    action.add_argument("name", nargs="?", default="minimal", metavar="NAME", help="a recipe (default: %(default)s)")
    action.add_argument("--update", action="store_true", help="take newer packages if there are any")
    action.set_defaults(run=_build)

    action = actions.add_parser("rm", help="remove all builds of an image")
    action.add_argument("name", metavar="NAME")
    action.set_defaults(run=_rm)


def _list(_: argparse.Namespace) -> None:
    print_table(
        ("NAME", "DIGEST", "KERNEL", "SIZE", "AGE", "CURRENT"),
        [
            (
                info.name,
                info.digest,
                info.kernel_version,
                f"{info.size // MIB} MiB",
                _age(info.age),
                "yes" if info.current else "",
            )
            for info in images.list_images()
        ],
    )


def _build(arguments: argparse.Namespace) -> None:
    image = images.build(arguments.name, update=arguments.update)
    say(f"Image {image.name} {image.digest} is ready: Linux {image.kernel_version}, {image.kernel.parent}")


def _rm(arguments: argparse.Namespace) -> None:
    for info in images.remove(arguments.name):
        print(f"removed {info.name} {info.digest}")


def _age(seconds: float) -> str:
    for unit, name in ((DAY, "day"), (HOUR, "hour"), (MINUTE, "minute")):
        count = int(seconds // unit)
        if count:
            return f"{count} {name}{'s' if count > 1 else ''}"
    return f"{int(seconds)} s"
