"""Rates over seeds: intervals that hold what they promise, and verdicts that need three seeds."""

import numpy as np
import pytest

from agentrefine.evaluation.metrics.rates import wilson
from agentrefine.study.rates import NOT_TUNED, SeededCounts, seeded_difference, seeded_rate


def counts(hits, of=None, seeds=None, clusters=None) -> SeededCounts:
    table = np.asarray(hits, float)
    names = clusters or tuple(f"e{i}" for i in range(table.shape[1]))
    denominators = np.ones_like(table) if of is None else np.asarray(of, float)
    return SeededCounts(tuple(range(len(table))) if seeds is None else seeds, names, table, denominators)


def drawn(rng, seeds: int, episodes: int, level: float, of_seed: float, of_episode: float) -> np.ndarray:
    """Episodes that are solved by chance: some seeds and some episodes are better than others."""
    odds = level + of_seed * rng.standard_normal((seeds, 1)) + of_episode * rng.standard_normal((1, episodes))
    return (rng.random((seeds, episodes)) < 1 / (1 + np.exp(-odds))).astype(float)


def test_a_rate_is_all_hits_over_all_that_was_counted():
    rate = seeded_rate(counts([[1, 0, 2], [0, 3, 0]], of=[[2, 0, 4], [1, 3, 0]]))
    assert (rate.value, rate.n) == (0.6, 10)
    assert rate.low < 0.6 < rate.high


def test_what_never_varies_has_wilsons_interval_of_as_many_trials_as_there_are_episodes():
    rate = seeded_rate(counts(np.zeros((3, 20))))
    assert rate.low == 0
    assert rate.high == pytest.approx(wilson(0, 20).high)
    assert seeded_rate(counts(np.zeros((2, 5)), of=np.zeros((2, 5)))).value is None


def test_the_interval_is_wider_where_seeds_differ():
    alike = np.tile([1, 0] * 20, (3, 1))
    unlike = np.stack([np.ones(40), np.zeros(40), np.tile([1, 0], 20)])
    narrow, wide = (seeded_rate(counts(hits)) for hits in (alike, unlike))
    assert narrow.value == wide.value == 0.5
    assert wide.high - wide.low > 1.5 * (narrow.high - narrow.low)


@pytest.mark.parametrize(("seeds", "least"), [(3, 0.85), (5, 0.9)])
def test_the_interval_of_a_difference_holds_the_truth_about_as_often_as_it_says(seeds, least):
    rng = np.random.default_rng(1)
    held, claimed, runs = 0, 0, 150
    for _ in range(runs):
        a, b = (counts(drawn(rng, seeds, 40, 0.0, 0.4, 1.0)) for _ in range(2))
        found = seeded_difference(a, b)
        held += found.rate.low <= 0 <= found.rate.high
        claimed += found.verdict in ("better", "worse")
    assert held / runs >= least
    assert claimed == runs - held


def test_a_clear_difference_is_claimed_from_three_seeds_on():
    rng = np.random.default_rng(2)
    strong, weak = (drawn(rng, 3, 50, level, 0.2, 0.5) for level in (2.0, -1.0))
    assert seeded_difference(counts(strong), counts(weak)).verdict == "better"
    assert seeded_difference(counts(weak), counts(strong)).verdict == "worse"
    two = seeded_difference(counts(strong[:2]), counts(weak[:2]))
    assert (two.verdict, two.rate.n) == ("too few seeds", 2)
    untuned = counts(weak[:1], seeds=NOT_TUNED)
    assert seeded_difference(counts(strong), untuned).verdict == "better"


def test_only_episodes_that_both_have_played_are_compared():
    a = counts([[1, 1, 0]] * 3, clusters=("x", "y", "z"))
    b = counts([[0, 0, 1]] * 3, clusters=("y", "x", "w"))
    assert seeded_difference(a, b).rate.value == 1.0
    assert seeded_difference(a, counts([[1]] * 3, clusters=("w",))) is None
    swapped = counts([[0, 1, 1]] * 3, clusters=("z", "y", "x"))
    assert seeded_difference(a, swapped).rate.model_dump() | {"n": 0} == {"value": 0, "low": 0, "high": 0, "n": 0}
