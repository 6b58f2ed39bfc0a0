"""From samples to medians, intervals and ratios.

Paths are measured in rounds: each round runs every path once, so the samples of one round met the same machine. A ratio
is therefore taken round by round, and what is compared is the set of the rounds' ratios: a drift of the machine
cancels out. Where there are enough boots to say something about boots, each boot counts once, since the rounds of
one boot are not independent of each other.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import stats

BOOTS_ENOUGH = 5
RESAMPLES = 9999
SEED = 1

Boots = Sequence[Sequence[float]]
"""Samples: one list for each boot, in each the rounds in order."""


@dataclass(frozen=True)
class Summary:
    median: float
    low: float
    high: float


@dataclass(frozen=True)
class Ratio:
    """How many times as much of a figure one path has as another.

    :param p: probability of rounds at least this far from 1 if the two paths were the same (sign-flip test); with n
        rounds it cannot be less than 2 / 2**n.
    """

    ratio: float
    low: float
    high: float
    p: float


def _interval(values: NDArray[np.float64], statistic: str) -> tuple[float, float]:
    if len(values) < 2 or np.all(values == values[0]):
        return float(values.min()), float(values.max())
    found = stats.bootstrap(
        (values,),
        np.median if statistic == "median" else np.mean,
        n_resamples=RESAMPLES,
        method="percentile",
        random_state=np.random.default_rng(SEED),
    ).confidence_interval
    return float(found.low), float(found.high)


def summarise(boots: Boots) -> Summary:
    """Median of all samples and its 95 % bootstrap interval."""
    values = np.array([value for rounds in boots for value in rounds], dtype=np.float64)
    low, high = _interval(values, "median")
    return Summary(float(np.median(values)), low, high)


def compare(a: Boots, b: Boots) -> Ratio:
    """The ratio a/b: geometric mean over the rounds, with 95 % interval and p.

    :raise ValueError: the two were not measured in the same rounds, or a sample is not positive.
    """
    per_boot = [[math.log(x / y) for x, y in zip(ra, rb, strict=True)] for ra, rb in zip(a, b, strict=True)]
    if len(per_boot) >= BOOTS_ENOUGH:
        logs = np.array([np.mean(rounds) for rounds in per_boot], dtype=np.float64)
    else:
        logs = np.array([value for rounds in per_boot for value in rounds], dtype=np.float64)
    low, high = _interval(logs, "mean")
    p = 1.0
    if len(logs) > 1:
        test = stats.permutation_test(
            (logs,),
            np.mean,
            permutation_type="samples",
            n_resamples=RESAMPLES,
            random_state=np.random.default_rng(SEED),
        )
        p = float(test.pvalue)
    return Ratio(math.exp(float(logs.mean())), math.exp(low), math.exp(high), p)
