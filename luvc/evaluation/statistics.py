"""The statistics of a paired comparison: two runs answered the same questions.

Pure functions over plain numbers, no torch. Shares are in 0..1; a difference is first minus second.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np

Interval = tuple[float, float]


@dataclass(frozen=True)
class Pairs:
    """Outcomes of questions answered twice.

    Attributes:
        both, first_only, second_only, neither: questions answered rightly by whom.
    """

    both: int
    first_only: int
    second_only: int
    neither: int

    @staticmethod
    def of(first: Sequence[bool], second: Sequence[bool]) -> Pairs:
        """Count two sequences of outcomes, in the same order of questions."""
        seen = list(zip(first, second, strict=True))
        return Pairs(*(seen.count(kind) for kind in ((True, True), (True, False), (False, True), (False, False))))

    @property
    def total(self) -> int:
        """Number of questions."""
        return self.both + self.first_only + self.second_only + self.neither

    @property
    def shares(self) -> tuple[float, float]:
        """Accuracy of the first and of the second."""
        return (self.both + self.first_only) / self.total, (self.both + self.second_only) / self.total

    @property
    def difference(self) -> float:
        """Accuracy of the first minus that of the second."""
        return (self.first_only - self.second_only) / self.total


def critical_value(level: float) -> float:
    """The normal quantile of a two-sided interval: 0.95 -> 1.96."""
    return NormalDist().inv_cdf(0.5 + level / 2)


def wilson(right: int, total: int, level: float = 0.95) -> Interval:
    """Interval of one share (Wilson, JASA 22:209, 1927); (0, 1) when nothing was asked."""
    if total == 0:
        return 0.0, 1.0
    z2 = critical_value(level) ** 2
    middle = (right + z2 / 2) / (total + z2)
    half = math.sqrt(z2 * (right * (total - right) / total + z2 / 4)) / (total + z2)
    return max(0.0, middle - half), min(1.0, middle + half)


def mcnemar(pairs: Pairs) -> float:
    """Two-sided exact p-value that both are equally often right (McNemar, Psychometrika 12:153, 1947): the
    binomial test on the questions that only one of them answered rightly."""
    fewer, discordant = min(pairs.first_only, pairs.second_only), pairs.first_only + pairs.second_only
    # Integers of any size: no approximation, however many questions.
    tail = ways = 1
    for count in range(fewer):
        ways = ways * (discordant - count) // (count + 1)
        tail += ways
    return min(1.0, 2 * tail / 2**discordant)


def newcombe(pairs: Pairs, level: float = 0.95) -> Interval:
    """Interval of the paired difference: method 10 of Newcombe (Statistics in Medicine 17:2635, 1998).

    Wilson's intervals of both shares, squared and added, with their correlation. Unlike Wald's it has a width
    even where the two runs never differ.
    """
    if pairs.total == 0:
        return -1.0, 1.0
    (share1, share2), difference, total = pairs.shares, pairs.difference, pairs.total
    right1, right2 = pairs.both + pairs.first_only, pairs.both + pairs.second_only
    low1, high1 = wilson(right1, total, level)
    low2, high2 = wilson(right2, total, level)
    spread = right1 * (total - right1) * right2 * (total - right2)
    phi = 0.0
    if spread:
        product = pairs.both * pairs.neither - pairs.first_only * pairs.second_only
        phi = (max(product - total / 2, 0.0) if product > 0 else float(product)) / math.sqrt(spread)

    def reach(inner: float, outer: float) -> float:
        return math.sqrt(max(0.0, inner**2 - 2 * phi * inner * outer + outer**2))

    return difference - reach(share1 - low1, high2 - share2), difference + reach(share2 - low2, high1 - share1)


def clustered(
    differences: Sequence[float],
    clusters: Sequence[Hashable],
    level: float = 0.95,
    draws: int = 4000,
    seed: int = 0,
) -> Interval:
    """Interval of a mean by a bootstrap over clusters (Efron and Tibshirani 1993, percentiles).

    Questions about one clip fail together, so clips are drawn, with all their questions, not questions.

    Args:
        differences: what one run has above the other, question by question.
        clusters: the clip of each.
    """
    by_cluster: dict[Hashable, list[float]] = {}
    for difference, cluster in zip(differences, clusters, strict=True):
        by_cluster.setdefault(cluster, []).append(difference)
    if not by_cluster:
        return -1.0, 1.0
    sums = np.array([sum(values) for values in by_cluster.values()], np.float64)
    counts = np.array([len(values) for values in by_cluster.values()], np.float64)
    return bootstrap(len(sums), lambda weights: (weights @ sums) / (weights @ counts), level, draws, seed)


def bootstrap(
    clusters: int,
    statistic: Callable[[np.ndarray], np.ndarray],
    level: float = 0.95,
    draws: int = 4000,
    seed: int = 0,
) -> Interval:
    """Interval of a statistic by drawing whole clusters, at least one, with replacement (percentiles).

    Args:
        statistic: `[draws, clusters]`, how often each cluster was drawn -> `[draws]`.
    """
    rng = np.random.default_rng(seed)
    weights = rng.multinomial(clusters, np.full(clusters, 1 / clusters), size=draws)
    low, high = np.quantile(statistic(weights), [0.5 - level / 2, 0.5 + level / 2])
    return float(low), float(high)


def wider(one: Interval, other: Interval) -> Interval:
    """The interval that holds both."""
    return min(one[0], other[0]), max(one[1], other[1])


def agreement(first: Sequence[Hashable], second: Sequence[Hashable]) -> float:
    """How much of two token sequences is the same, in order: the F-measure of their longest common
    subsequence (ROUGE-L, Lin 2004); 1 for two empty ones."""
    if not first and not second:
        return 1.0
    row = [0] * (len(second) + 1)
    for one in first:
        before = row[:]
        for index, other in enumerate(second, start=1):
            row[index] = before[index - 1] + 1 if one == other else max(before[index], row[index - 1])
    return 2 * row[-1] / (len(first) + len(second))
