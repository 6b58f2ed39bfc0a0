"""``harness block-attach``, ``network-attach`` and the like: devices that come and go while a domain runs."""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable
from pathlib import Path

from harness.bus import inventory
from harness.bus.inventory import Entry
from harness.cli.arguments import Subparsers, add_name, positive
from harness.cli.table import print_table
from harness.domain import records, remote
from harness.domain.definition_yaml import SIZE_UNITS, parse_size
from harness.domain.domain import DETACH_SECONDS
from harness.host.errors import UsageError
from harness.host.progress import say
from harness.store.client import StoreClient

XL_POSITIONS = ("target", "format", "vdev", "access")
XL_KEYS = (*XL_POSITIONS, "devtype", "backend")
"""The keys of xl's disk specification that make sense here. Its target is our image, its vdev our target."""
XL_ACCESS = {"r": "true", "ro": "true", "w": "false", "rw": "false"}


def add_parsers(verbs: Subparsers) -> None:
    verb = verbs.add_parser(
        "block-attach",
        help="plug a disk into a running paravirtual domain",
        usage="harness block-attach NAME TARGET IMAGE [KEY=VALUE ...]\n"
        "       harness block-attach NAME TARGET size=SIZE [KEY=VALUE ...]\n"
        "       harness block-attach NAME XL-DISK-SPECIFICATION",
        epilog="The keys are those of a disk in a definition (guests/README.md), such as readonly=true, "
        "sector-size=4096, features.discard=false, backend=NAME. The last form is xl's: /path/of/image,raw,xvdb,rw",
    )
    add_name(verb)
    verb.add_argument("disk", nargs="+", metavar="TARGET IMAGE [KEY=VALUE ...]", help="such as: xvdb data.img")
    verb.set_defaults(run=_block_attach)

    verb = verbs.add_parser("block-detach", help="unplug a disk")
    add_name(verb)
    verb.add_argument("target", metavar="TARGET", help="the disk, such as xvdb; see: harness block-list")
    _add_detach_options(verb)
    verb.set_defaults(run=_block_detach)

    verb = verbs.add_parser("block-resize", help="let a disk grow while it is in use")
    add_name(verb)
    verb.add_argument("target", metavar="TARGET", help="the disk, such as xvdb")
    verb.add_argument("size", nargs="?", metavar="SIZE", help="such as 2GiB (default: what the image has by now)")
    verb.set_defaults(run=_block_resize)

    verb = verbs.add_parser(
        "network-attach",
        help="plug a network card into a running paravirtual domain",
        epilog="The keys are those of a network in a definition, such as mac=00:16:3e:00:00:01, backend=NAME.",
    )
    add_name(verb)
    verb.add_argument("settings", nargs="*", metavar="KEY=VALUE", help="such as mac=00:16:3e:00:00:01")
    verb.set_defaults(run=_network_attach)

    verb = verbs.add_parser("network-detach", help="unplug a network card")
    add_name(verb)
    verb.add_argument("card", metavar="MAC|NUMBER", help="see: harness network-list")
    _add_detach_options(verb)
    verb.set_defaults(run=_network_detach)

    for kind, what in (("block", "disks"), ("network", "network cards")):
        verb = verbs.add_parser(f"{kind}-list", help=f"show the {what} of paravirtual domains")
        verb.add_argument("names", nargs="+", metavar="NAME", help="names or domids")
        verb.set_defaults(run=_block_list if kind == "block" else _network_list)


def _add_detach_options(verb: argparse.ArgumentParser) -> None:
    verb.add_argument("--force", action="store_true", help="take it away even if the guest is using it")
    verb.add_argument(
        "--timeout",
        type=positive,
        default=int(DETACH_SECONDS),
        metavar="SECONDS",
        help="how long to wait for the guest to let go of it (default: %(default)s)",
    )


def _settings(words: list[str]) -> dict[str, str]:
    """``KEY=VALUE ...`` as a mapping."""
    found: dict[str, str] = {}
    for word in words:
        key, equals, value = word.partition("=")
        if not (key and equals):
            raise UsageError(f"{word!r} is no KEY=VALUE")
        if key in found:
            raise UsageError(f"{key} is given twice")
        found[key] = value
    return found


def _absolute(settings: dict[str, str]) -> dict[str, str]:
    """The owner of the domain has another working directory; a driver domain has its own paths."""
    if "path" in settings and "backend" not in settings:
        settings["path"] = os.fspath(Path(settings["path"]).absolute())
    return settings


def disk_settings(words: list[str]) -> dict[str, str]:
    """What the words of ``block-attach`` after the domain's name say about a disk.

    :raise UsageError: they make no sense.
    """
    first, *rest = words
    if "," in first or "=" in first:
        if rest:
            raise UsageError(f"{rest[0]!r} follows a whole disk specification", hint="harness block-attach --help")
        return _absolute(_xl_settings(first))
    if not rest:
        raise UsageError(f"no image for {first} was given", hint="such as: data.img, or size=1GiB for an empty disk")
    image = {} if "=" in rest[0] else {"path": rest.pop(0)}
    return _absolute({"target": first, **image, **_settings(rest)})


def _xl_settings(text: str) -> dict[str, str]:
    """A disk specification of xl, as far as it makes sense here (xl-disk-configuration(5))."""
    named: dict[str, str] = {}
    positions = list(XL_POSITIONS)
    for word in map(str.strip, text.split(",")):
        key, equals, value = word.partition("=")
        if not equals:
            if word == "cdrom":
                key, value = "devtype", "cdrom"
            elif positions:
                key, value = positions.pop(0), word
            else:
                raise UsageError(f"{word!r} is one word too many in {text!r}")
        if key not in XL_KEYS:
            raise UsageError(f"{key} is no key of a disk specification here", hint=f"known: {', '.join(XL_KEYS)}")
        named[key] = value
    if named.get("format", "") not in ("", "raw"):
        raise UsageError(f"an image of format {named['format']} cannot be used", hint="qemu-img convert -O raw …")
    if named.get("access", "rw") not in XL_ACCESS:
        raise UsageError(f"{named['access']!r} is no access", hint=f"known: {', '.join(XL_ACCESS)}")
    if named.get("devtype", "cdrom") != "cdrom":
        raise UsageError(f"{named['devtype']!r} is no devtype", hint="known: cdrom")
    found = {"target": named.get("vdev", ""), "path": named.get("target", "")}
    if "backend" in named:
        found["backend"] = named["backend"]
    if "devtype" in named:
        found["cdrom"] = "true"
    elif "access" in named:
        found["readonly"] = XL_ACCESS[named["access"]]
    return found


def _block_attach(arguments: argparse.Namespace) -> None:
    settings = disk_settings(arguments.disk)
    domain = remote.find(arguments.name)
    domain.attach_disk(settings)
    say(f"Domain {domain.name} has the disk {settings['target']}.")


def _block_detach(arguments: argparse.Namespace) -> None:
    domain = remote.find(arguments.name)
    domain.detach_disk(arguments.target, force=arguments.force, timeout=arguments.timeout)


def _block_resize(arguments: argparse.Namespace) -> None:
    size = None
    if arguments.size is not None:
        size = parse_size(arguments.size)
        if size is None:
            raise UsageError(f"{arguments.size!r} is no size", hint=f"such as 2GiB; units: {', '.join(SIZE_UNITS)[2:]}")
    domain = remote.find(arguments.name)
    size = domain.resize_disk(arguments.target, size)
    say(f"The disk {arguments.target} of domain {domain.name} has {size} bytes.")


def _network_attach(arguments: argparse.Namespace) -> None:
    settings = _settings(arguments.settings)
    domain = remote.find(arguments.name)
    number, mac, address = domain.attach_network(settings)
    say(f"Domain {domain.name} has card {number}, {mac}, at {address}.")


def _network_detach(arguments: argparse.Namespace) -> None:
    domain = remote.find(arguments.name)
    domain.detach_network(arguments.card, force=arguments.force, timeout=arguments.timeout)


def _show(names: list[str], kind: str, heads: tuple[str, ...], row: Callable[[Entry], tuple[str, ...]]) -> None:
    """Print a line for each device of some domains."""
    domids = [records.find(name).domid for name in names]
    rows: list[tuple[str, ...]] = []
    store = StoreClient.connect_if_running()
    if store is not None:
        with store:
            rows = [row(entry) for domid in domids for entry in inventory.devices(store, kind, domid)]
    print_table(heads, rows)


def _block_list(arguments: argparse.Namespace) -> None:
    def row(one: Entry) -> tuple[str, ...]:
        return (
            str(one.devid),
            one.backend("dev"),
            str(one.backend_domid),
            str(one.domid),
            one.backend("state"),
            one.frontend("event-channel", "queue-0/event-channel"),
            one.frontend("ring-ref", "ring-ref0", "queue-0/ring-ref", "queue-0/ring-ref0"),
            one.backend("params"),
            one.backend_path,
        )

    heads = ("Vdev", "Name", "BE", "handle", "state", "evt-ch", "ring-ref", "Image", "BE-path")
    _show(arguments.names, "vbd", heads, row)


def _network_list(arguments: argparse.Namespace) -> None:
    def row(one: Entry) -> tuple[str, ...]:
        return (
            str(one.devid),
            str(one.backend_domid),
            one.backend("mac"),
            one.backend("handle"),
            one.backend("state"),
            one.frontend("event-channel", "event-channel-tx", "queue-0/event-channel", "queue-0/event-channel-tx"),
            "/".join(one.frontend(f"{way}-ring-ref", f"queue-0/{way}-ring-ref") for way in ("tx", "rx")),
            one.backend_path,
        )

    heads = ("Idx", "BE", "Mac Addr.", "handle", "state", "evt-ch", "tx-/rx-ring-ref", "BE-path")
    _show(arguments.names, "vif", heads, row)
