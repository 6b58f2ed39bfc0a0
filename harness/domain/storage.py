"""What a driver domain gives out as disks, and who uses what lies under, in or on the same bytes.

A block device or file is called by its number, by which it is the same under any path. Partitions lie on their disk,
logical volumes on theirs, and a loop device is the file behind it. Two overlap when one of them lies on the other; two
partitions of one disk do not.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass, field

from harness.host.errors import GuestError, UsageError

SHOWN = 80
"""Characters of nonsense."""

# Prints what is at a path, and everything that the domain has of block devices and does with them, one fact a line. A
# logical volume is there when somebody has wanted it since the domain has started.
SURVEY = """
number() {
	if [ -b "$1" ]; then
		stat -L -c 'device %t:%T' "$1"
	else
		[ -f "$1" ] && stat -L -c 'file %d:%i' "$1"
	fi
}
case "$1" in
/dev/*/*) [ -e "$1" ] || lvchange --activate y "$1" >/dev/null 2>&1 ;;
esac
wanted=$(number "$1") || { echo "there is no block device or file $1" >&2; exit 1; }
echo "wanted $wanted"
for block in /sys/class/block/*; do
	read -r own <"$block/dev"
	name=${block##*/}
	if [ -e "$block/partition" ]; then
		read -r whole <"$block/../dev"
		echo "part $own $whole"
	fi
	for slave in "$block"/slaves/*; do
		[ -e "$slave/dev" ] || continue
		read -r whole <"$slave/dev"
		echo "part $own $whole"
		[ ! -e "$block/dm/name" ] || read -r name <"$block/dm/name"
		echo "volume $own /dev/mapper/$name"
	done
	if [ -e "$block/loop/backing_file" ]; then
		read -r file <"$block/loop/backing_file"
		! file=$(number "$file") || echo "loop $own /dev/$name $file"
	fi
done
while read -r _ _ own _ point options _; do
	echo "mount $own $point ${options%%,*}"
done </proc/self/mountinfo
while read -r file _; do
	! own=$(number "$file") || echo "swap $file $own"
done </proc/swaps
"""


def _number(kind: str, value: str) -> str:
    """What ``number`` of the script has printed; devices as in sysfs, in decimal."""
    if kind == "file":
        return f"file {value}"
    return ":".join(str(int(part, 16)) for part in value.split(":"))


@dataclass(frozen=True)
class Use:
    """Somebody uses something.

    :param what: number of the device or file.
    :param text: who does, and how.
    :param hint: what ends it.
    """

    what: str
    writes: bool
    text: str
    hint: str


@dataclass
class Survey:
    """What the script has found.

    :param domain: the driver domain.
    :param path: what is wanted.

    :ivar number: of that.
    :ivar device: its major and minor number; None if it is a file.
    """

    domain: str
    path: str
    number: str = ""
    device: tuple[int, int] | None = None
    _parts: dict[str, list[str]] = field(default_factory=dict)
    _behind: dict[str, str] = field(default_factory=dict)
    _mounts: list[tuple[str, str, bool]] = field(default_factory=list)
    _swaps: list[tuple[str, str]] = field(default_factory=list)
    _users: list[tuple[str, str]] = field(default_factory=list)

    @classmethod
    def parse(cls, domain: str, path: str, text: str) -> Survey:
        """Read what the script has printed.

        :raise GuestError: it makes no sense.
        """
        survey = cls(domain, path)
        for line in text.splitlines():
            word, *rest = line.split(" ")
            try:
                survey._take(word, rest)
            except (ValueError, IndexError, TypeError) as error:
                raise GuestError(f"driver domain {domain} says nonsense about {path}: {line[:SHOWN]!r}") from error
        if not survey.number:
            raise GuestError(f"driver domain {domain} does not say what {path} is")
        return survey

    def _take(self, word: str, rest: list[str]) -> None:
        if word == "wanted":
            self.number = _number(*rest)
            if rest[0] == "device":
                major, minor = self.number.split(":")
                self.device = (int(major), int(minor))
        elif word == "part":
            self._parts.setdefault(rest[0], []).append(rest[1])
        elif word == "loop":
            self._behind[rest[0]] = _number(*rest[2:])
            self._users.append((rest[0], rest[1]))
        elif word == "volume":
            self._users.append((rest[0], rest[1]))
        elif word == "mount":
            point = re.sub(r"\\([0-7]{3})", lambda octal: chr(int(octal[1], 8)), rest[1])
            self._mounts.append((rest[0], point, rest[2] == "rw"))
        elif word == "swap":
            self._swaps.append((_number(*rest[1:]), rest[0]))

    @property
    def identity(self) -> str:
        """What is the same for all that have the same bytes."""
        return self._bytes(self.number)

    def _bytes(self, number: str) -> str:
        return self._behind.get(number, number)

    def _below(self, number: str) -> set[str]:
        """What something lies on, itself included."""
        seen: set[str] = set()
        left = [number]
        while left:
            one = left.pop()
            if one not in seen:
                seen.add(one)
                left += [*self._parts.get(one, ()), self._bytes(one)]
        # A loop device is nothing but what is behind it.
        return {self._bytes(one) for one in seen}

    def overlaps(self, other: str) -> bool:
        """Whether the bytes of something else are among those that are wanted, or the other way round."""
        return self._bytes(other) in self._below(self.number) or self.identity in self._below(other)

    def _lies_on(self, number: str) -> bool:
        """Whether something else, which is none of its partitions, is made of what is wanted."""
        return number != self.number and self.identity in self._below(number)

    def _uses(self, ours: set[str]) -> Iterator[Use]:
        """What the driver domain itself does with its devices.

        :param ours: loop devices that are there for those that it serves.
        """
        execute = f"harness exec {self.domain} --"
        for number, point, writes in self._mounts:
            hint = f"unmount it: {execute} umount {shlex.quote(point)}"
            yield Use(number, writes, f"is mounted there on {point}", hint)
        for number, file in self._swaps:
            yield Use(number, True, "is swapped to there", f"let it be: {execute} swapoff {shlex.quote(file)}")
        for number, user in self._users:
            if user in ours or not self._lies_on(number):
                continue
            end = "losetup -d" if number in self._behind else "lvchange --activate n"
            yield Use(number, False, f"is in use there by {user}", f"end that: {execute} {end} {user}; or use {user}")

    def require_unused(self, ours: set[str], *, readonly: bool) -> None:
        """Check that the driver domain itself does not write to what is wanted, nor use what shall be written to.

        :param ours: loop devices that are there for those that it serves.
        :raise UsageError: it does; says how, and what ends it.
        """
        for use in self._uses(ours):
            if self.overlaps(use.what) and (use.writes or not readonly):
                raise UsageError(f"{self.path} of driver domain {self.domain} {use.text}", hint=use.hint)
