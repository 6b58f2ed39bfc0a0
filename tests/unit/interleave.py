"""Runs pieces of code that share memory in every order that a sequentially consistent machine could."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence


class Interleaver:
    """Runs bodies in threads, one at a time, and changes over only where one of them calls ``fence``.

    :param choose: given n, says which of n bodies that could go on does so: ``0 <= choose(n) < n``.
    """

    def __init__(self, choose: Callable[[int], int]) -> None:
        self._choose = choose
        self._current = threading.local()
        self._back = threading.Semaphore(0)

    def fence(self) -> None:
        """The point at which another body may go on; does nothing outside ``run``."""
        turn = getattr(self._current, "turn", None)
        if turn is not None:
            self._back.release()
            turn.acquire()

    def run(self, bodies: Sequence[Callable[[], None]]) -> None:
        """Run the bodies to their ends; the first failure of one of them is raised here."""
        failures: list[BaseException] = []
        turns = [threading.Semaphore(0) for _ in bodies]
        done = [False for _ in bodies]

        def work(index: int) -> None:
            turns[index].acquire()
            self._current.turn = turns[index]
            try:
                bodies[index]()
            except BaseException as error:
                failures.append(error)
            done[index] = True
            self._back.release()

        threads = [threading.Thread(target=work, args=(index,), daemon=True) for index in range(len(bodies))]
        for thread in threads:
            thread.start()
        while alive := [index for index in range(len(bodies)) if not done[index]]:
            turns[alive[self._choose(len(alive))]].release()
            self._back.acquire()
        for thread in threads:
            thread.join()
        if failures:
            raise failures[0]
