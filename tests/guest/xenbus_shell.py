"""Scripts in a guest that speak to /dev/xen/xenbus byte by byte, as no library does."""

from __future__ import annotations

from harness.domain.domain import Domain
from harness.store.wire import HEADER, Message, Op, strings

_FUNCTIONS = """
byte() { printf "\\\\$(printf %03o $1)"; }
u32() { byte $(($1 & 255)); byte $((($1 >> 8) & 255)); byte $((($1 >> 16) & 255)); byte $((($1 >> 24) & 255)); }
# say FD TYPE TRANSACTION PAYLOAD: write one request; the payload is a format of printf.
say() {
	printf "$4" >/tmp/payload
	{ u32 $2; u32 7; u32 $3; u32 $(wc -c </tmp/payload); cat /tmp/payload; } >/tmp/message
	cat /tmp/message >&$1
}
# hear FD: read what is there, and print "TYPE PAYLOAD" of its first message, with a bar for each NUL.
hear() {
	dd bs=65536 count=1 <&$1 2>/dev/null >/tmp/answer
	echo "$(od -An -tu4 -N4 /tmp/answer | tr -d ' ') $(tail -c +17 /tmp/answer | tr '\\0' '|')"
}
ask() { say "$@" && hear $1; }
"""


def run(domain: Domain, script: str, *, timeout: float = 60.0) -> list[str]:
    """Run a shell script that may use ``say``, ``hear`` and ``ask``; the lines it prints."""
    return domain.execute(["sh", "-c", _FUNCTIONS + script], timeout=timeout).check().text.splitlines()


def watches(paths: list[str], token: str) -> bytes:
    """One write with a request to watch each of the paths."""
    return b"".join(Message(Op.WATCH, number, 0, strings(path, token)).pack() for number, path in enumerate(paths))


def transactions(count: int) -> bytes:
    """One write with so many requests to start a transaction."""
    return b"".join(Message(Op.TRANSACTION_START, number, 0, b"\0").pack() for number in range(count))


def header(length: int) -> bytes:
    """The header of a read request whose payload has so many bytes."""
    return HEADER.pack(Op.READ, 1, 0, length)
