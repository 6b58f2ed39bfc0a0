"""Whether a virtual processor can do a disk's I/O itself.

QEMU hands a request of virtio-blk to its main thread, that to a worker, the worker's answer to the main thread again,
and from there an interrupt wakes the processor. Without the device's ioeventfd, and with io_uring, the processor that
rings the doorbell submits, and what the host's page cache has is done when it goes on: no thread is woken. Where
requests are passed on, as in a driver domain, that is worth more than what the processor could do meanwhile, if
processors are emulated: under KVM it is the other way round.
"""

from __future__ import annotations

import json
from typing import Any

from harness.machine.probe import Verdict, remembered, run_probe

IMAGE: dict[str, Any] = {
    "driver": "raw",
    "node-name": "probe",
    "read-only": True,
    "file": {"driver": "file", "filename": "/proc/self/exe", "aio": "io_uring", "locking": "off"},
}
"""A file there is everywhere."""


def inline_verdict() -> Verdict:
    """Whether QEMU has io_uring, and this host lets it; see :func:`harness.machine.probe.remembered`."""
    arguments = ("-blockdev", json.dumps(IMAGE))
    return remembered("io_uring", lambda: run_probe("tcg", arguments), arguments)
