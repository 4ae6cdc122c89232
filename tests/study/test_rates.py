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


def drawn(rng, episodes: np.ndarray, level: float, of_seed: float, seeds: int = 3) -> SeededCounts:
    """Episodes solved by chance, some easier than others, by models of which some are better than others."""
    odds = level + of_seed * rng.standard_normal((seeds, 1)) + episodes[None, :]
    odds = odds + 0.5 * rng.standard_normal(odds.shape)
    return counts(rng.random(odds.shape) < 1 / (1 + np.exp(-odds)))


def test_a_rate_is_all_hits_over_all_that_was_counted():
    rate = seeded_rate(counts([[1, 0, 2], [0, 3, 0]], of=[[2, 0, 4], [1, 3, 0]]))
    assert (rate.value, rate.n) == (0.6, 10)
    assert rate.low < 0.6 < rate.high


def test_what_never_varies_has_wilsons_interval_of_as_many_trials_as_there_are_episodes():
    rate = seeded_rate(counts(np.zeros((3, 20))))
    assert rate.low == 0
    assert rate.high == pytest.approx(wilson(0, 20).high)
    assert seeded_rate(counts(np.zeros((2, 5)), of=np.zeros((2, 5)))).value is None


def test_of_one_seed_the_interval_is_that_of_its_episodes():
    hits = np.array([[1] * 30 + [0] * 20])
    rate = seeded_rate(counts(hits))
    assert (rate.low, rate.high) == pytest.approx((wilson(30, 50).low, wilson(30, 50).high), abs=0.02)


def test_the_interval_is_wider_where_seeds_differ():
    alike = np.tile([1, 0] * 20, (3, 1))
    unlike = np.stack([np.ones(40), np.zeros(40), np.tile([1, 0], 20)])
    narrow, wide = (seeded_rate(counts(hits)) for hits in (alike, unlike))
    assert narrow.value == wide.value == 0.5
    assert wide.high - wide.low > 1.5 * (narrow.high - narrow.low)


@pytest.mark.parametrize("seeds", [3, 5])
@pytest.mark.parametrize("of_seed", [0.0, 0.5, 0.7])
def test_a_difference_that_is_none_is_claimed_in_about_one_case_of_twenty(seeds, of_seed):
    rng = np.random.default_rng(1)
    claimed, runs = 0, 300
    for _ in range(runs):
        episodes = 1.5 * rng.standard_normal(100)
        a, b = (drawn(rng, episodes, 0.7, of_seed, seeds) for _ in range(2))
        claimed += seeded_difference(a, b).verdict in ("higher", "lower")
    assert claimed / runs <= 0.09


def test_a_clear_difference_is_claimed_from_three_seeds_on():
    rng = np.random.default_rng(2)
    episodes = 0.5 * rng.standard_normal(50)
    strong, weak = (drawn(rng, episodes, level, 0.2) for level in (2.0, -1.0))
    assert seeded_difference(strong, weak).verdict == "higher"
    assert seeded_difference(weak, strong).verdict == "lower"
    two = counts(strong.hits[:2])
    assert seeded_difference(two, weak).verdict == "too few seeds"
    untuned = counts(weak.hits[:1], seeds=NOT_TUNED)
    assert seeded_difference(strong, untuned).verdict == "higher"


@pytest.mark.parametrize(("episodes", "differing"), [(1, 1), (3, 3), (50, 4)])
def test_what_rests_on_few_episodes_is_not_claimed(episodes, differing):
    better = np.zeros((3, episodes))
    better[:, :differing] = 1
    found = seeded_difference(counts(better), counts(np.zeros((3, episodes))))
    assert found.verdict == "too few episodes differ"


def test_recovery_from_errors_in_a_single_episode_is_not_claimed():
    of = np.zeros((3, 40))
    of[:, 0] = 5
    found = seeded_difference(counts(of, of=of), counts(np.zeros((3, 40)), of=of))
    assert (found.rate.value, found.verdict) == (1.0, "too few episodes differ")


def test_only_episodes_that_both_have_played_are_compared():
    a = counts([[1, 1, 0]] * 3, clusters=("x", "y", "z"))
    b = counts([[0, 0, 1]] * 3, clusters=("y", "x", "w"))
    assert seeded_difference(a, b).rate.value == 1.0
    assert seeded_difference(a, counts([[1]] * 3, clusters=("w",))) is None
    same = seeded_difference(a, counts([[0, 1, 1]] * 3, clusters=("z", "y", "x"))).rate
    assert (same.value, same.low, same.high) == (0, 0, 0)
