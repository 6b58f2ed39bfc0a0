"""A domain in a file, and what has to be as it was for it to go on: see :mod:`harness.domain.saving`."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from harness.domain.definition_file import define
from harness.domain.definition_yaml import parse_document
from harness.domain.disks import AttachedDisk
from harness.domain.identity import Identity, identify
from harness.domain.messages import Message
from harness.domain.networks import Card
from harness.domain.saved import Reader, copy_image
from harness.host.deadline import Deadline
from harness.host.errors import UsageError
from harness.hypervisor.layout import FIRST_LINK_SLOT

COPY_SECONDS = 600.0


@dataclass(frozen=True)
class SavedLink:
    """A link that a saved domain has with a driver domain.

    :param backend: the driver domain's name.
    :param slot: where on the PCI bus the domain has it.
    """

    backend: str
    slot: int


class Saved:
    """A domain in a file, to be restored.

    :raise UsageError: the file does not exist, is none, is damaged, or the domain cannot be defined here.

    :ivar definition: of the domain, with the devices that it had.
    :ivar domid: under which it was booted.
    :ivar cards: what its network cards were.
    :ivar links: those with driver domains.
    """

    def __init__(self, file: Path) -> None:
        self.file = file
        self._reader = Reader(file)
        try:
            description = Message(self._reader.description)
            text = description.encoded("definition")
            self.definition = define(parse_document(file, text))
            self.domid = description.get("domid", int)
            self._versions = description.texts("versions")
            self.cards = [_card(one) for one in description.messages("cards")]
            self.links = [_link(one) for one in description.messages("links")]
            images = description.messages("images")
            self._images = {one.get("target", str): Identity.read(one) for one in images}
            self._check()
        except UsageError as error:
            self.close()
            raise UsageError(f"{file} cannot be restored: {error.what}") from error
        except BaseException:
            self.close()
            raise

    def _check(self) -> None:
        if len(self.cards) != len(self.definition.networks):
            raise UsageError("it does not tell which of its network cards is which")
        if self._images.keys() != {disk.target for disk in self.definition.disks}:
            raise UsageError("it does not tell which of its disks is which")
        if sorted(link.backend for link in self.links) != sorted(self.definition.backends):
            raise UsageError("it does not tell which of its links leads to which driver domain")
        if len({link.slot for link in self.links}) != len(self.links):
            raise UsageError("two of its links are in one place")

    @property
    def accelerator(self) -> str:
        """The one under which it has run."""
        return self._versions.get("accelerator", "auto")

    def state(self) -> int:
        """The descriptor to read the machine's state from."""
        return self._reader.state()

    def require_versions(self, present: Mapping[str, str]) -> None:
        """Check that everything is what the domain was saved with.

        :raise UsageError: names what is not.
        """
        names = sorted(self._versions.keys() | present.keys())
        pairs = [(name, self._versions.get(name, "nothing"), present.get(name, "nothing")) for name in names]
        different = [f"{name} was {then} and is {now}" for name, then, now in pairs if then != now]
        if different:
            raise UsageError(
                f"{self.file} cannot be restored: {'; '.join(different)}",
                hint="a saved domain goes on only with what it was saved with",
            )

    def make_scratch(self, directory: Path) -> None:
        """Put copies of the images that went with the domain into a directory, for it to begin with.

        :raise UsageError: one of them is not as it was saved.
        :raise HostError: there is no room for them.
        """
        for disk in self.definition.disks:
            if disk.path is None:
                name = f"{disk.target}.img"
                source = self._reader.disk(name)
                self._require_unchanged(disk.target, source, block_device=False)
                copy_image(source, directory / name, Deadline(COPY_SECONDS, f"copying {source}"))

    def require_images(self, attached: Sequence[AttachedDisk]) -> None:
        """Check that nobody has written to the images of a domain since it was saved; they are leased by now.

        :raise UsageError: somebody has, which the guest would not know.
        """
        for one in attached:
            if one.disk.path is not None:
                self._require_unchanged(one.disk.target, one.lease.path, block_device=one.lease.block_device)

    def _require_unchanged(self, target: str, path: Path, *, block_device: bool) -> None:
        try:
            with path.open("rb") as image:
                size = image.seek(0, os.SEEK_END)
            now = identify(path, size, block_device=block_device)
        except OSError as error:
            raise UsageError(f"the image {path} of disk {target} cannot be read: {error.strerror}") from error
        self._compare(target, str(path), now)

    def require_served(self, target: str, path: Path, backend: str, now: Identity) -> None:
        """Check that nobody has written to a disk of a driver domain since the domain was saved.

        :param path: in the driver domain.
        :param now: what the disk is known by there now.
        :raise UsageError: somebody has, which the guest would not know.
        """
        self._compare(target, f"{path} of driver domain {backend}", now)

    def _compare(self, target: str, name: str, now: Identity) -> None:
        then = self._images[target]
        sizes = "" if now.size == then.size else f" from {then.size} to {now.size} bytes"
        if now != then:
            raise UsageError(
                f"the image {name} of disk {target} has changed{sizes} since the domain was saved: "
                "what the guest has in its memory of it is no longer true, and would destroy it",
                hint="begin with the disk as it is now: harness create",
            )

    def close(self) -> None:
        self._reader.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _link(one: Message) -> SavedLink:
    slot = one.get("slot", int)
    # The first is the host bridge's.
    if not 0 < slot < FIRST_LINK_SLOT:
        raise UsageError(f"{slot} is no place for a link to a driver domain")
    return SavedLink(one.get("backend", str), slot)


def _card(one: Message) -> Card:
    number = one.get("number", int)
    if number < 0:
        raise UsageError(f"{number} is no number of a network card")
    return Card(number, one.get("address", str))
