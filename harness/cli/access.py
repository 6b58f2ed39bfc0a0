"""``harness exec``, ``ssh``, ``console``: into a guest that runs."""

from __future__ import annotations

import argparse
import os
import select
import shlex
import shutil
import sys

import paramiko

from harness.cli import terminal
from harness.cli.arguments import Subparsers, add_command, add_name, positive
from harness.domain import remote
from harness.guest.agent import MAX_STDIN
from harness.guest.ssh import TerminalSize
from harness.host.errors import GuestError, GuestGone, UsageError
from harness.host.progress import say

STDIN_PATIENCE = 2.0
"""Seconds without any input after which somebody may wonder what is being waited for."""
SIGNAL_BASE = 128
"""The exit status of a command that a signal has killed is this plus the signal's number, as in shells."""


def add_parsers(verbs: Subparsers) -> None:
    verb = verbs.add_parser(
        "exec",
        help="run a command in a guest; gives back its output and exit status",
        usage="harness exec [-n] [--timeout SECONDS] NAME -- COMMAND [ARGUMENT ...]",
        epilog="The command is run by the guest's agent, without a shell and without a network; for megabytes of "
        "output, ssh is faster. Unless standard input is a terminal, the command gets what it holds, to its end. When "
        "the harness itself fails, it says so on standard error, and the exit code is 2, 3 or 4.",
    )
    add_name(verb)
    add_command(verb)
    verb.add_argument("-n", "--no-stdin", action="store_true", help="give the command no input")
    verb.add_argument("--timeout", type=positive, metavar="SECONDS", help="kill the command after so long")
    verb.set_defaults(run=_exec)

    verb = verbs.add_parser(
        "ssh",
        help="a shell in a guest, or a command, over its network card",
        usage="harness ssh NAME [-- COMMAND [ARGUMENT ...]]",
        epilog="As with ssh, command and arguments are joined with spaces and given to a shell in the guest.",
    )
    add_name(verb)
    add_command(verb)
    verb.set_defaults(run=_ssh)

    verb = verbs.add_parser("console", help="a guest's console; Ctrl-] leaves")
    add_name(verb)
    verb.add_argument("-t", "--type", choices=("serial", "pv"), help="default: serial")
    verb.add_argument(
        "-n", "--console", type=int, metavar="N", help="which of the paravirtual consoles; the first one is 0"
    )
    verb.set_defaults(run=_console)


def _exec(arguments: argparse.Namespace) -> int:
    if not arguments.command:
        raise UsageError("no command was given", hint=f"such as: harness exec {arguments.name} -- uname -a")
    domain = remote.find(arguments.name)
    stdin = b"" if arguments.no_stdin or sys.stdin.isatty() else _standard_input()
    done = domain.execute(arguments.command, stdin=stdin, timeout=arguments.timeout or remote.NO_LIMIT)
    terminal.write_all(sys.stdout.fileno(), done.stdout)
    terminal.write_all(sys.stderr.fileno(), done.stderr)
    if done.truncated:
        raise GuestError(
            f"the command printed more than the guest's agent keeps; it {done.outcome}",
            hint=f"over SSH there is no limit: harness ssh {domain.name} -- {shlex.join(arguments.command)}",
        )
    if done.status is not None:
        return done.status
    return SIGNAL_BASE + (done.signal or 0)


def _standard_input() -> bytes:
    data = bytearray()
    descriptor = sys.stdin.fileno()
    if not select.select([descriptor], [], [], STDIN_PATIENCE)[0]:
        say("harness: waiting for the end of standard input; to give none: harness exec -n, or </dev/null")
    while piece := os.read(descriptor, MAX_STDIN):
        data += piece
        if len(data) > MAX_STDIN:
            raise UsageError(
                f"standard input is longer than the {MAX_STDIN >> 10} KiB that the guest's agent takes",
                hint="over SSH there is no limit: harness ssh NAME -- COMMAND",
            )
    return bytes(data)


def _ssh(arguments: argparse.Namespace) -> int:
    domain = remote.find(arguments.name)
    interactive = sys.stdin.isatty() and not arguments.command
    with domain.ssh() as client:
        if interactive:
            channel = client.session(None, _terminal_size())
            if terminal.attach(channel, on_resize=lambda: _resize(channel)):
                return 0
        else:
            channel = client.session(" ".join(arguments.command) or None, None)
            terminal.pass_through(channel)
        status = channel.recv_exit_status()
    if status < 0:
        raise GuestGone(f"the SSH connection to domain {domain.name} was lost, or the command was killed by a signal")
    return status


def _terminal_size() -> TerminalSize:
    width, height = shutil.get_terminal_size()
    return TerminalSize(os.environ.get("TERM", "vt100"), width, height)


def _resize(channel: paramiko.Channel) -> None:
    size = _terminal_size()
    channel.resize_pty(size.width, size.height)


def _console(arguments: argparse.Namespace) -> None:
    kind = arguments.type or ("serial" if arguments.console is None else "pv")
    if kind == "serial" and arguments.console is not None:
        raise UsageError("-n chooses among the paravirtual consoles", hint="leave -n out, or say -t pv")
    domain = remote.find(arguments.name)
    with domain.open_console(kind, arguments.console or 0) as stream:
        say(f"The console of domain {domain.name}. Ctrl-] leaves; Enter brings a prompt.")
        if not terminal.attach(stream):
            say(f"\nThe console of domain {domain.name} has ended.")
