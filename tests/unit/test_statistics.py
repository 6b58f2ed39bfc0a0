"""Statistics of a comparison, held against cases whose answer is known."""

from __future__ import annotations

import random

import pytest

from harness.compare.statistics import compare, summarise


def test_the_median_lies_in_its_interval() -> None:
    summary = summarise([[10.0, 12.0, 11.0], [9.0, 30.0]])
    assert summary.median == 11.0
    assert 9.0 <= summary.low <= 11.0 <= summary.high <= 30.0


def test_a_drift_of_the_machine_cancels_out() -> None:
    """The machine becomes ten times slower during the run; b is always half of a."""
    drift = [1000.0, 700.0, 400.0, 200.0, 100.0, 90.0]
    ratio = compare([drift], [[value / 2 for value in drift]])
    assert ratio.ratio == pytest.approx(2.0)
    assert ratio.low == pytest.approx(2.0)
    assert ratio.high == pytest.approx(2.0)
    assert ratio.p == pytest.approx(2 / 2**6)


def test_the_same_path_twice_is_not_significant() -> None:
    noise = random.Random(7)
    a, b = ([noise.lognormvariate(0, 0.2) for _ in range(12)] for _ in range(2))
    ratio = compare([a], [b])
    assert ratio.p > 0.05
    assert ratio.low < 1.0 < ratio.high


def test_many_boots_count_once_each() -> None:
    """Six boots of many equal rounds: the evidence is six observations, however many rounds there are."""
    boots = [[2.0] * 50 for _ in range(6)]
    assert compare(boots, [[1.0] * 50 for _ in range(6)]).p == pytest.approx(2 / 2**6)


def test_one_round_proves_nothing() -> None:
    ratio = compare([[3.0]], [[1.0]])
    assert ratio.ratio == pytest.approx(3.0)
    assert ratio.p == 1.0


@pytest.mark.parametrize(("a", "b"), [([[1.0, 2.0]], [[1.0]]), ([[1.0]], [[1.0], [1.0]]), ([[0.0]], [[1.0]])])
def test_what_cannot_be_compared_is_refused(a: list[list[float]], b: list[list[float]]) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 - from zip and log, whose texts are Python's
        compare(a, b)
