"""A point in time that is passed down, so that nested waits share one budget."""

from __future__ import annotations

import time

from harness.host.errors import DeadlineExpired


class Deadline:
    """A budget of seconds that started when this was made.

    :param seconds: the budget.
    :param waiting_for: what the caller waits for; it becomes the error's text.
    """

    def __init__(self, seconds: float, waiting_for: str) -> None:
        self.seconds = seconds
        self.waiting_for = waiting_for
        self._end = time.monotonic() + seconds

    @property
    def expired(self) -> bool:
        return self.left == 0.0

    @property
    def left(self) -> float:
        """Seconds left, never negative."""
        return max(0.0, self._end - time.monotonic())

    def check(self) -> float:
        """Return the seconds left.

        :raise DeadlineExpired: when nothing is left.
        """
        left = self.left
        if left == 0.0:
            raise self.error()
        return left

    def error(self) -> DeadlineExpired:
        """The error that says this deadline has passed."""
        return DeadlineExpired(self.waiting_for, self.seconds)
