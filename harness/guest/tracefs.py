"""Traces the paravirtual drivers of a guest: its kernel's tracefs, read through the agent.

The events are those of ``guests/drivers/*/trace.h``. They go into a trace instance of our own, so that nobody else's
tracing is disturbed; it goes away with the last reader. When the agent is slower than the events come, the oldest of
them are lost, and the kernel says so in between (``CPU:0 [LOST 12 EVENTS]``).
"""

from __future__ import annotations

import asyncio
import re
import socket
from collections.abc import Callable, Mapping
from contextlib import aclosing, suppress
from typing import NamedTuple

from harness.guest.agent import AgentClient
from harness.host.deadline import Deadline
from harness.host.errors import AgentError, HarnessError

INSTANCE = "/sys/kernel/tracing/instances/harness"
START = f"""
set -e
[ -d {INSTANCE}/events ] || mount -t tracefs tracefs /sys/kernel/tracing 2>/dev/null || [ -e /sys/kernel/tracing/trace ]
mkdir -p {INSTANCE}
cd {INSTANCE}
echo 0 > options/context-info
echo 4096 > buffer_size_kb
for system in pvbus pvblk pvnet; do [ ! -e events/$system/enable ] || echo 1 > events/$system/enable; done
"""
STOP = f"[ ! -d {INSTANCE} ] || {{ echo 0 > {INSTANCE}/events/enable; rmdir {INSTANCE}; }}"
STOP_SECONDS = 10.0
FOREVER = 365 * 86400.0
SECONDS = 30.0
"""That the start may take."""
FULL = 4096
"""Bytes at once after which there are probably more."""
PAUSES = (0.005, 0.1)
"""Seconds between two looks at a trace in which there was nothing: a guest agent cannot wait."""

_LINE = re.compile(r"(\w+): ((?:\w+=\S* ?)+)")
_LOST = re.compile(r"CPU:\d+ \[LOST (\d{1,12}) EVENTS\]")


class TraceLine(NamedTuple):
    """One event; what its fields mean is up to whoever knows the event."""

    event: str
    fields: Mapping[str, str]


async def follow(agent: AgentClient, connection: socket.socket, started: Callable[[], None]) -> None:
    """Send the lines of a trace to a non-blocking connection, until cancelled. Nothing is left in the guest then.

    :param started: called when events are being traced.
    :raise AgentError: the guest's kernel cannot be traced.
    """
    try:
        done = await agent.exec(["sh", "-c", START], Deadline(SECONDS, "the start of a trace in the guest"))
        if done.status != 0:
            raise AgentError(f"the guest's kernel cannot be traced: {done.stderr.decode(errors='replace').strip()}")
        started()
        await _copy(agent, connection)
    finally:
        # The agent closes the trace first: an instance that is open cannot be removed.
        with suppress(HarnessError):
            await agent.exec(["sh", "-c", STOP], Deadline(STOP_SECONDS, "the end of a trace in the guest"))


async def _copy(agent: AgentClient, connection: socket.socket) -> None:
    running, pause = asyncio.get_running_loop(), PAUSES[0]
    deadline = Deadline(FOREVER, "the trace of the guest")
    async with aclosing(agent.follow_file(f"{INSTANCE}/trace_pipe", deadline)) as pieces:
        async for piece in pieces:
            await running.sock_sendall(connection, piece)
            if len(piece) < FULL:
                pause = PAUSES[0] if piece else min(pause * 2, PAUSES[1])
                await asyncio.sleep(pause)


def parse_line(line: str) -> TraceLine | int:
    """An event, or the number of events that have been lost.

    :raise ValueError: it is neither.
    """
    line = line.strip()
    lost = _LOST.fullmatch(line)
    if lost:
        return int(lost[1])
    found = _LINE.fullmatch(line)
    if not found:
        raise ValueError(f"this is no line of a trace: {line[:80]!r}")
    return TraceLine(found[1], dict(word.split("=", 1) for word in found[2].split()))
