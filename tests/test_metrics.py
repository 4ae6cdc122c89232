"""Rates and intervals, checked against hand-made numbers and other implementations."""

import json

import numpy as np
import pytest
from scipy import stats

from agentrefine.agent.episode import Episode, EpisodeStep
from agentrefine.errors import UserError
from agentrefine.metrics import compare, mcnemar_exact, mean, progress_by_step, ratio, share, summarise


def step(action="push", *, valid=True, format_error=False, progress=0.0, cut=0):
    return EpisodeStep(
        thought="" if format_error else "t",
        action="" if format_error else action,
        reply=action,
        observation="o",
        valid=valid,
        format_error=format_error,
        progress=progress,
        prompt_tokens=10,
        completion_tokens=3,
        turns_cut=cut,
    )


def episode(number, *steps, success=False, model="m", task="t", benchmark="push", variant=""):
    return Episode(
        id=f"e{number}",
        benchmark=benchmark,
        task=task,
        seed=number,
        variant=variant,
        difficulty="",
        model=model,
        model_digest="",
        goal="g",
        first_observation="f",
        steps=list(steps),
        success=success,
        progress=1.0 if success else max((s.progress for s in steps), default=0.0),
        stop="solved" if success else "step limit",
    )


@pytest.mark.parametrize(("successes", "n"), [(0, 50), (1, 50), (28, 50), (50, 50), (1, 1), (7, 112)])
def test_shares_have_wilsons_interval(successes, n):
    rate = share(successes, n)
    expected = stats.binomtest(successes, n).proportion_ci(0.95, method="wilson")
    assert (rate.value, rate.n) == (successes / n, n)
    assert rate.low == pytest.approx(expected.low, abs=1e-9)
    assert rate.high == pytest.approx(expected.high, abs=1e-9)


def test_nothing_measured_has_no_value():
    for rate in (share(0, 0), mean([]), ratio([0, 0], [0, 0])):
        assert (rate.value, rate.low, rate.high, rate.n) == (None, None, None, 0)


def test_a_means_interval_agrees_with_an_independent_bootstrap():
    values = list(np.random.default_rng(1).uniform(size=60))
    rate = mean(values)
    other = stats.bootstrap((values,), np.mean, n_resamples=4000, method="percentile", rng=2)
    assert rate.value == pytest.approx(np.mean(values))
    assert rate.low == pytest.approx(other.confidence_interval.low, abs=0.02)
    assert rate.high == pytest.approx(other.confidence_interval.high, abs=0.02)
    assert mean(values) == rate


def test_step_rates_draw_whole_episodes():
    clustered = ratio([10, 0] * 20, [10] * 40)
    assert (clustered.value, clustered.n) == (0.5, 400)
    independent = share(200, 400)
    assert clustered.high - clustered.low > 2 * (independent.high - independent.low)


def test_every_rate_by_hand():
    episodes = [
        episode(1, step(progress=0.5), step("pull", valid=False, progress=0.5), step(progress=1.0), success=True),
        episode(
            2,
            step("pull", valid=False),
            step("pull", valid=False),
            step("hm", valid=False, format_error=True),
            step("pull", valid=False),
            task="u",
        ),
        episode(3, step("pull", valid=False), step("push", progress=0.25, cut=2), variant="w"),
    ]
    summary = summarise(episodes)["push"]
    values = {name: rate["value"] for name, rate in summary.items() if isinstance(rate, dict) and "value" in rate}
    assert values == {
        "success_rate": pytest.approx(1 / 3),
        "progress_rate": pytest.approx(1.25 / 3),
        "grounding": pytest.approx(3 / 9),
        "format_error_rate": pytest.approx(1 / 9),
        "stuck_rate": pytest.approx(1 / 3),
        # Errors that another turn followed: one in episode 1 (recovered), three in 2 (none), one in 3 (recovered).
        "recovery_rate": pytest.approx(2 / 5),
        "mean_steps": 3.0,
        "mean_prompt_tokens": 30.0,
        "mean_completion_tokens": 9.0,
    }
    assert {name: summary[name]["n"] for name in ("success_rate", "grounding", "recovery_rate")} == {
        "success_rate": 3,
        "grounding": 9,
        "recovery_rate": 5,
    }
    assert summary["stops"] == {"solved": 1, "step limit": 2}
    assert summary["episodes_with_cut_history"] == 1
    assert {task: rates["success_rate"]["value"] for task, rates in summary["by_task"].items()} == {"t": 0.5, "u": 0.0}
    assert set(summary["by_variant"]) == {"", "w"}
    assert summary["by_difficulty"] == {}
    assert summary["progress_by_step"] == pytest.approx([0, 0.5 / 3, 0.75 / 3, 1.25 / 3, 1.25 / 3])
    assert json.loads(json.dumps(summary, allow_nan=False)) == summary


def test_the_same_action_after_an_error_is_no_recovery():
    lucky = episode(1, step("pull", valid=False), step("pull"))
    assert summarise([lucky])["push"]["recovery_rate"]["value"] == 0


def test_benchmarks_are_summarised_apart_and_none_is_no_error():
    both = summarise([episode(1, step(), success=True), episode(1, step(), benchmark="pull")])
    assert {name: summary["success_rate"]["value"] for name, summary in both.items()} == {"push": 1.0, "pull": 0.0}
    assert summarise([]) == {}
    assert progress_by_step([]) == []
    assert summarise([episode(1)])["push"]["grounding"]["value"] is None


@pytest.mark.parametrize(("only_a", "only_b"), [(0, 0), (1, 0), (5, 0), (6, 0), (12, 3), (3, 12), (40, 40)])
def test_mcnemars_test_is_the_exact_binomial_test(only_a, only_b):
    expected = stats.binomtest(only_a, only_a + only_b).pvalue if only_a + only_b else 1.0
    assert mcnemar_exact(only_a, only_b) == pytest.approx(expected)


def paired(a_wins, b_wins, both, neither):
    outcomes = [(1, 0)] * a_wins + [(0, 1)] * b_wins + [(1, 1)] * both + [(0, 0)] * neither
    a = [episode(i, step(), success=bool(first), model="a") for i, (first, _) in enumerate(outcomes)]
    b = [episode(i, step(), success=bool(second), model="b") for i, (_, second) in enumerate(outcomes)]
    return a, b[::-1]


@pytest.mark.parametrize(
    ("counts", "verdict"),
    [
        ((20, 3, 10, 17), "better"),
        ((3, 20, 10, 17), "worse"),
        ((6, 5, 20, 19), "no difference beyond its interval"),
        ((3, 0, 20, 27), "no difference beyond its interval"),
        ((0, 0, 25, 25), "no difference beyond its interval"),
    ],
)
def test_two_models_are_compared_on_the_same_episodes(counts, verdict):
    comparison = compare(*paired(*counts))
    assert comparison.verdict == verdict
    assert (comparison.a, comparison.b, comparison.benchmark) == ("a", "b", "push")
    assert (comparison.only_a, comparison.only_b) == counts[:2]
    assert comparison.success_difference.value == pytest.approx((counts[0] - counts[1]) / sum(counts))
    assert comparison.progress_difference == comparison.success_difference
    assert comparison.p_value == mcnemar_exact(*counts[:2])


def test_models_that_played_other_episodes_are_not_compared():
    with pytest.raises(UserError, match="1 episodes were played by the first only, 0 by the second only, 1 by both"):
        compare([episode(1), episode(2)], [episode(1)])
    with pytest.raises(UserError, match="cannot be paired"):
        compare([], [])
