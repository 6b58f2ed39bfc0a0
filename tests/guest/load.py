"""What keeps a guest's devices busy while something happens to their backends, and finds what that has cost."""

from __future__ import annotations

import random
import re
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial

import pytest

from harness.domain.domain import Domain
from harness.guest.completed import Completed
from harness.host.deadline import Deadline

SECONDS = 120.0
"""For anything, on a machine that has other things to do."""
ALARMING = re.compile(r"error|timed? ?out|BUG|WARNING|Call Trace|failed|I/O", re.IGNORECASE)
DATA = 4 << 20
"""Bytes of each piece of data that goes over the network."""

FILES = """
set -e
mkfs.ext4 -q "$1"
mkdir -p /tmp/mnt
mount "$1" /tmp/mnt
cd /tmp/mnt
round=0
while [ ! -e /tmp/enough ] || [ $round = 0 ]; do
    round=$((round + 1))
    mkdir "d$round"
    for size in 1 13 64 300; do
        head -c "${size}k" /dev/urandom >"d$round/f$size"
    done
    sha256sum "d$round"/* >>sums.new
    mv "d$round/f64" "d$round/moved"
    mv "d$round/moved" "d$round/f64"
    sync
    mv sums.new sums
    cp sums sums.new
    echo 3 >/proc/sys/vm/drop_caches
    sha256sum -c sums >/dev/null
    [ $round -lt 6 ] || { rm -r "d$((round - 5))"; sed -i "/ d$((round - 5))\\\\//d" sums.new; cp sums.new sums; }
done
cd /
umount /tmp/mnt
e2fsck -f -n "$1" >&2
rm /tmp/enough
echo $round
"""
"""A file system that lives: files come, are renamed and go, and are held against their checksums past the cache."""


def verifying(device: str, seconds: float) -> list[str]:
    """A fio job that writes at random, sixteen requests at a time, and reads everything back."""
    return [
        *("fio", "--name=load", f"--filename={device}", "--rw=randwrite", "--bsrange=4k-256k", "--size=192m"),
        *("--direct=1", "--ioengine=libaio", "--iodepth=16", "--verify=crc32c", "--verify_fatal=1"),
        # Reads come in between: each 512 writes are read back before there are more.
        *("--verify_backlog=512", "--randrepeat=0", "--loops=1000", "--time_based", f"--runtime={seconds:.0f}"),
    ]


def wait_for(what: str, condition: Callable[[], bool]) -> None:
    """Wait for something that another process does in its own good time."""
    deadline, pause = Deadline(SECONDS, what), threading.Event()
    while not condition():
        pause.wait(min(0.01, deadline.check()))


@contextmanager
def quiet_kernel(domain: Domain) -> Iterator[None]:
    """Nothing that the guest's kernel says meanwhile is alarming."""
    domain.execute(["dmesg", "-c"]).check()
    yield
    said = domain.execute(["dmesg"]).check().text
    assert not ALARMING.search(said), said


@contextmanager
def transferring(domain: Domain) -> Iterator[Callable[[], int]]:
    """Data goes over one TCP connection all the time, checked by SSH, whose checksums end it for a single bit.

    Gives what tells how many pieces have come.
    """
    done = threading.Event()
    arrived = 0

    def transfer() -> None:
        nonlocal arrived
        with domain.ssh() as client:
            while not done.is_set():
                answer = client.run(f"head -c {DATA} /dev/zero", Deadline(SECONDS, "a piece of data"))
                assert answer.check().stdout == bytes(DATA)
                arrived += 1

    with ThreadPoolExecutor() as pool:
        transfers = pool.submit(transfer)
        try:
            yield lambda: arrived
        finally:
            done.set()
        transfers.result(SECONDS)


@contextmanager
def living(domain: Domain, device: str, seconds: float = SECONDS) -> Iterator[None]:
    """A file system lives on a disk, see :data:`FILES`; in the end it is whole.

    :param seconds: it may take so long, all in all.
    """
    with ThreadPoolExecutor() as pool:
        files = pool.submit(partial(domain.execute, ["sh", "-c", FILES, "sh", device], timeout=seconds))
        try:
            yield
        finally:
            domain.write_file("/tmp/enough", b"")
        assert int(files.result(seconds).check().text) > 0


def wait_under_load(load: Future[Completed], seconds: tuple[float, float]) -> None:
    """Let a load go on for a random while; it must still be there then."""
    with pytest.raises(TimeoutError):
        load.result(random.uniform(*seconds))
