"""What is done about a domain's crashes, and when that is given up."""

from __future__ import annotations

import queue
from collections.abc import Iterator

import pytest

from harness.domain import crashes
from harness.domain.crashes import Crashes
from harness.host.errors import GuestCrashed, GuestError, HostError

SECONDS = 20.0


class PlayedDomain:
    """A domain that ends as the test says.

    :ivar ends: what becomes of it next: an error, or words for an end that was wanted.
    :ivar crashed: what was said to be done about a crash.
    :ivar failures: what happens when it is to come up again; None if it does.
    """

    def __init__(self) -> None:
        self.ends: queue.Queue[str | Exception] = queue.Queue()
        self.crashed: queue.Queue[GuestError] = queue.Queue()
        self.failures: list[Exception | None] = []

    def wait_over(self) -> str:
        end = self.ends.get(timeout=SECONDS)
        if isinstance(end, Exception):
            raise end
        return end

    def after_crash(self, error: GuestError) -> None:
        self.crashed.put(error)
        failure = self.failures.pop(0) if self.failures else None
        if failure is not None:
            raise failure


@pytest.fixture
def domain() -> PlayedDomain:
    return PlayedDomain()


@pytest.fixture
def restarting(domain: PlayedDomain) -> Iterator[Crashes]:
    made = Crashes("a", domain.wait_over, domain.after_crash, restart=True)
    yield made
    made.close()


@pytest.fixture
def keeping(domain: PlayedDomain) -> Iterator[Crashes]:
    made = Crashes("a", domain.wait_over, domain.after_crash, restart=False)
    yield made
    made.close()


def test_it_starts_anew_after_each_crash(domain: PlayedDomain, restarting: Crashes) -> None:
    for number in range(3):
        domain.ends.put(GuestCrashed(f"crash {number}"))
        assert domain.crashed.get(timeout=SECONDS).what == f"crash {number}"
        assert not restarting.ended.done()
    domain.ends.put("it was shut down")
    assert restarting.ended.result(SECONDS) == "it was shut down"


def test_it_is_given_up_when_it_crashes_too_often(domain: PlayedDomain, restarting: Crashes) -> None:
    for number in range(crashes.DEATHS + 1):
        domain.ends.put(GuestCrashed(f"crash {number}"))
    with pytest.raises(GuestCrashed, match=f"crash {crashes.DEATHS}"):
        restarting.ended.result(SECONDS)
    assert domain.crashed.qsize() == crashes.DEATHS


def test_a_crash_while_it_comes_up_counts_as_one(domain: PlayedDomain, restarting: Crashes) -> None:
    domain.failures = [GuestCrashed(f"again {number}") for number in range(crashes.DEATHS)]
    domain.ends.put(GuestCrashed("first"))
    with pytest.raises(GuestCrashed, match="again"):
        restarting.ended.result(SECONDS)
    assert domain.crashed.qsize() == crashes.DEATHS


def test_crashes_long_ago_do_not_count(
    domain: PlayedDomain, restarting: Crashes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(crashes, "WITHIN_SECONDS", 0.0)
    for number in range(2 * crashes.DEATHS):
        domain.ends.put(GuestCrashed(f"crash {number}"))
        domain.crashed.get(timeout=SECONDS)
    assert not restarting.ended.done()
    domain.ends.put("over")
    assert restarting.ended.result(SECONDS) == "over"


@pytest.mark.parametrize("when", ["at once", "when it comes up"])
def test_the_hosts_faults_are_none_that_another_start_mends(
    when: str, domain: PlayedDomain, restarting: Crashes
) -> None:
    error = HostError("no memory")
    domain.failures = [error]
    domain.ends.put(error if when == "at once" else GuestCrashed("crash"))
    with pytest.raises(HostError, match="no memory"):
        restarting.ended.result(SECONDS)


def test_what_is_kept_is_kept_until_it_is_given_up(domain: PlayedDomain, keeping: Crashes) -> None:
    domain.ends.put(GuestCrashed("crash"))
    assert domain.crashed.get(timeout=SECONDS).what == "crash"
    assert not keeping.ended.done()
    keeping.give_up()
    with pytest.raises(GuestCrashed, match="crash"):
        keeping.ended.result(SECONDS)


def test_an_end_that_was_wanted_is_no_crash(domain: PlayedDomain, keeping: Crashes) -> None:
    domain.ends.put("it was shut down")
    assert keeping.ended.result(SECONDS) == "it was shut down"
    assert domain.crashed.empty()
