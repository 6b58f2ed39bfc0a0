"""Parses the command line, runs the verb, and turns errors into one paragraph and an exit code.

Exit codes: 0 done, 1 a test or a stated threshold failed, 2 bad usage or definition, 3 this machine's fault, 4 the
guest's fault, 130 interrupted.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path

from harness import __version__
from harness.cli import access, boot, compare, devices, doctor, domains, gc, images, seeing, store, suite
from harness.cli.arguments import parse
from harness.host.errors import HarnessError, HostError

VERBS = (doctor, images, boot, domains, devices, access, store, seeing, compare, suite, gc)
INTERRUPTED = 130


def parser() -> argparse.ArgumentParser:
    """The whole command line."""
    top = argparse.ArgumentParser(
        prog="harness",
        description="Runs QEMU guests as domains, through emulated devices or through Xen's split drivers.",
    )
    top.add_argument("--version", action="version", version=f"harness {__version__}")
    top.add_argument("--debug", action="store_true", help="show the Python traceback of an error")
    verbs = top.add_subparsers(dest="verb", metavar="VERB", required=True)
    for module in VERBS:
        module.add_parsers(verbs)
    return top


def _have_streams() -> None:
    """Put /dev/null in the place of each standard stream that the caller has closed: Python has nothing there."""
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, Path(os.devnull).open(mode))  # noqa: SIM115 - for as long as we live


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    _have_streams()
    # A terminal that is closed and a CI job that is cancelled end a command as Ctrl-C does: by unwinding.
    for number in (signal.SIGTERM, signal.SIGHUP):
        # nohup asks to go on.
        if signal.getsignal(number) != signal.SIG_IGN:
            signal.signal(number, signal.default_int_handler)
    arguments = parse(parser(), sys.argv[1:] if argv is None else argv)
    try:
        code = arguments.run(arguments)
        sys.stdout.flush()
    except HarnessError as error:
        if arguments.debug:
            traceback.print_exc()
        print(f"harness: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print("harness: interrupted", file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:
        # Whoever read our output has enough; keep the interpreter from failing on the same pipe at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except OSError as error:
        if arguments.debug:
            traceback.print_exc()
        print(f"harness: {error}\nThis machine's fault, it seems; where it was met: harness --debug …", file=sys.stderr)
        return HostError.exit_code
    return int(code or 0)


if __name__ == "__main__":
    sys.exit(main())
