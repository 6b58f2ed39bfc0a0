"""``python -m harness.store LISTEN_FD NAME``: the store as a shared service."""

from __future__ import annotations

import socket
import sys

from harness.store.server import serve

if __name__ == "__main__":
    serve(socket.socket(fileno=int(sys.argv[1])), sys.argv[2])
