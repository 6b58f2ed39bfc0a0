"""Typing at the shells that listen on a guest's consoles."""

from __future__ import annotations

import re

from harness.guest.console import ConsoleLog
from harness.host.deadline import Deadline
from harness.machine import loop

SECONDS = 60.0
PROMPT = r"root@guest:\S*# "

QUESTION, ANSWER = "echo sum $((6 * 7)), terminal $(tty).", r"sum (\d+), terminal (\S+)\."
"""The answer is computed by the guest: the echo of what is typed does not contain it."""


def type_command(console: ConsoleLog, command: str, answer: str) -> re.Match[str]:
    """Type a line at a console's shell; wait for a line that matches, and for the shell to be ready again."""

    async def talk() -> re.Match[str]:
        deadline = Deadline(SECONDS, f"the answer to {command}")
        # Before there is a shell, getty throws away what was typed.
        await console.wait_for(PROMPT, deadline)
        start = console.position
        await console.write(command.encode() + b"\n")
        match = await console.wait_for(f"^{answer}$", deadline, after=start)
        await console.wait_for(PROMPT, deadline, after=console.position)
        return match

    return loop.run(talk())
