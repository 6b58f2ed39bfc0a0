"""A command on a terminal, as somebody has it who types."""

from __future__ import annotations

import os
import pty
import select
import subprocess
import threading
import time

from tests.guest.cli.commands import SECONDS


class Terminal:
    """A command on a terminal of its own."""

    def __init__(self, argv: list[str], environment: dict[str, str]) -> None:
        self._master, slave = pty.openpty()
        self._seen = b""
        self._process = subprocess.Popen(
            argv, stdin=slave, stdout=slave, stderr=slave, env=environment, start_new_session=True
        )
        os.close(slave)

    def type(self, keys: bytes) -> None:
        os.write(self._master, keys)

    def expect(self, text: bytes) -> None:
        """Wait until this is shown, after what was expected before."""
        end = time.monotonic() + SECONDS
        while text not in self._seen:
            assert select.select([self._master], [], [], max(0.0, end - time.monotonic()))[0], self._seen
            self._seen += os.read(self._master, 65536)
        self._seen = self._seen.partition(text)[2]

    def wait(self) -> int:
        """The exit status; what is shown until then is thrown away."""
        reader = threading.Thread(target=self._drain, daemon=True)
        reader.start()
        return self._process.wait(SECONDS)

    def _drain(self) -> None:
        try:
            while os.read(self._master, 65536):
                continue
        except OSError:
            return

    def __enter__(self) -> Terminal:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.wait()
        os.close(self._master)
