"""Waiting for a guest in the caller's own thread, with calls that block: the domain's failure cuts them short."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from harness.host.errors import HarnessError
from harness.machine import loop
from harness.machine.monitor import Monitor


@contextmanager
def watched(monitor: Monitor, interrupt: Callable[[], object]) -> Iterator[None]:
    """Do something inside that needs the guest, for as long as the guest is all right; not in the loop's own thread.

    :param interrupt: makes what is done inside fail, see :data:`harness.host.interruption.Guard`.
    :raise GuestCrashed, GuestGone, HostError: what the monitor noticed, in place of the error that came of it.
    :raise GuestSilent: in place of a deadline or of a silence that nothing else explains.
    """
    watcher = asyncio.run_coroutine_threadsafe(_interrupt_on_failure(monitor, interrupt), loop.get())
    try:
        yield
    except (HarnessError, OSError, EOFError) as error:
        explanation = loop.run(monitor.explain(error))
        if explanation is None:
            raise
        raise explanation from error
    finally:
        watcher.cancel()


async def _interrupt_on_failure(monitor: Monitor, interrupt: Callable[[], object]) -> None:
    await monitor.wait_failure()
    interrupt()
