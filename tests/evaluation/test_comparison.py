"""Two models on the same episodes: what may be called better, and what it rests on."""

import pytest
from scipy import stats

from agentrefine.evaluation.metrics import compare
from agentrefine.evaluation.metrics.comparison import MIN_DIFFERING, mcnemar_exact
from agentrefine.evaluation.metrics.rates import mean
from tests.helpers.errors import refused
from tests.helpers.hand_made_episodes import episode, step


@pytest.mark.parametrize(("only_a", "only_b"), [(0, 0), (1, 0), (5, 0), (6, 0), (12, 3), (3, 12), (40, 40)])
def test_mcnemars_test_is_the_exact_binomial_test(only_a, only_b):
    expected = stats.binomtest(only_a, only_a + only_b).pvalue if only_a + only_b else 1.0
    assert mcnemar_exact(only_a, only_b) == pytest.approx(expected)


def test_fewer_differing_episodes_than_needed_cannot_come_to_five_percent():
    assert mcnemar_exact(MIN_DIFFERING, 0) < 0.05 < mcnemar_exact(MIN_DIFFERING - 1, 0)


def paired(a_wins, b_wins, both, neither):
    outcomes = [(1, 0)] * a_wins + [(0, 1)] * b_wins + [(1, 1)] * both + [(0, 0)] * neither
    a = [episode(i, step(), success=bool(first), model="a") for i, (first, _) in enumerate(outcomes)]
    b = [episode(i, step(), success=bool(second), model="b") for i, (_, second) in enumerate(outcomes)]
    return a, b[::-1]


@pytest.mark.parametrize(
    ("counts", "verdict", "reason"),
    [
        ((20, 3, 10, 17), "better", "the interval excludes 0 and the exact test's p is 0.00049"),
        ((3, 20, 10, 17), "worse", "the interval excludes 0 and the exact test's p is 0.00049"),
        ((6, 5, 20, 19), "no difference shown", "the exact test's p is 1, and the interval includes 0"),
        # The bootstrap alone is too sure here.
        ((7, 1, 20, 22), "no difference shown", "the exact test's p is 0.07, although the interval excludes 0"),
        ((3, 0, 20, 27), "too few episodes differ", "3 of 50; the exact test needs 6"),
        ((0, 0, 25, 25), "too few episodes differ", "0 of 50; the exact test needs 6"),
    ],
)
def test_two_models_are_compared_on_the_same_episodes(counts, verdict, reason):
    comparison = compare(*paired(*counts))
    assert (comparison.verdict, comparison.reason) == (verdict, reason)
    assert (comparison.a, comparison.b, comparison.benchmark) == ("a", "b", "push")
    assert (comparison.only_a, comparison.only_b, comparison.pairs) == (*counts[:2], sum(counts))
    assert comparison.played_once
    assert comparison.success_difference.value == pytest.approx((counts[0] - counts[1]) / sum(counts))
    assert comparison.progress_difference == comparison.success_difference
    assert comparison.p_value == mcnemar_exact(*counts[:2])


def test_episodes_without_evidence_with_either_model_are_left_out():
    a, b = paired(8, 0, 4, 8)
    b = sorted(b, key=lambda played: int(played.id[1:]))
    a[0], b[1], b[19] = (episode(number, model=model, failed=True) for number, model in ((0, "a"), (1, "b"), (19, "b")))
    comparison = compare(a, b)
    assert (comparison.only_a, comparison.only_b, comparison.pairs, comparison.left_out) == (6, 0, 17, 3)
    assert comparison.success_difference.value == pytest.approx(6 / 17)
    nothing = compare([episode(1, failed=True)], [episode(1, success=True)])
    assert (nothing.verdict, nothing.pairs, nothing.success_difference.value) == ("too few episodes differ", 0, None)


def test_attempts_at_an_episode_are_one_pair():
    # Of three attempts at each of seven episodes a solves two, b one; both solve one of three of an eighth.
    def played(model, solved):
        return [
            episode(number, step(), success=attempt < (solved if number < 7 else 1), model=model, attempt=attempt)
            for number in range(8)
            for attempt in range(3)
        ]

    comparison = compare(played("a", 2), played("b", 1))
    assert (comparison.only_a, comparison.only_b, comparison.pairs, comparison.played_once) == (7, 0, 8, False)
    assert comparison.success_difference.value == pytest.approx(7 / 24)
    assert comparison.success_difference.n == 8
    assert comparison.p_value == mcnemar_exact(7, 0)
    assert comparison.verdict == "better"


def test_a_world_in_all_its_perturbations_is_one_pair():
    # Ten episodes differ, but in two worlds only: no verdict.
    def played(model, solved):
        return [
            episode(world, step(), success=world in solved, model=model, perturbation=perturbation)
            for world in range(10)
            for perturbation in "abcde"
        ]

    comparison = compare(played("a", {0, 1}), played("b", set()))
    assert (comparison.only_a, comparison.pairs, comparison.success_difference.n) == (2, 10, 50)
    assert comparison.verdict == "too few episodes differ"
    worlds = [f"e{world}" for world in range(10)]
    assert comparison.success_difference.low == mean([1.0, 1.0] + [0.0] * 8, worlds).low


def test_models_that_played_other_episodes_are_not_compared():
    with refused("not_paired", only_first=1, only_second=0, both=1):
        compare([episode(1), episode(2)], [episode(1)])
    with refused("not_paired", only_first=0, only_second=0, both=0):
        compare([], [])


def test_progress_has_a_verdict_of_its_own():
    # Nobody solves anything; a is half way where b is nowhere.
    a = [episode(n, step(), progress=0.5 if n < 7 else 0.0, model="a") for n in range(10)]
    b = [episode(n, step(), progress=0.25 if n == 9 else 0.0, model="b") for n in range(10)]
    ahead, behind = compare(a, b), compare(b, a)
    assert (ahead.verdict, ahead.progress_verdict) == ("too few episodes differ", "no difference shown")
    assert ahead.progress_p_value == mcnemar_exact(7, 1) == behind.progress_p_value
    clear = compare(a, [*b[:9], a[9].model_copy(update={"model": "b"})])
    assert (clear.progress_verdict, clear.is_ahead) == ("better", True)
    assert not compare(b, a).is_ahead
