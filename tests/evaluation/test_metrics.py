"""Rates and intervals, checked against hand-made numbers and other implementations."""

import json
from statistics import stdev

import numpy as np
import pytest
from scipy import stats

from agentrefine.evaluation.episodes import Episode
from agentrefine.evaluation.metrics import BenchmarkSummary, summarise
from agentrefine.evaluation.metrics.rates import episode_share, mean, ratio, wilson
from agentrefine.evaluation.metrics.summary import write_summaries
from tests.helpers.hand_made_episodes import episode, step

SINGLES = [f"e{number}" for number in range(1000)]


@pytest.mark.parametrize(("successes", "n"), [(0, 50), (1, 50), (28, 50), (50, 50), (1, 1), (7, 112)])
def test_shares_have_wilsons_interval(successes, n):
    rate = episode_share([True] * successes + [False] * (n - successes), SINGLES[:n])
    expected = stats.binomtest(successes, n).proportion_ci(0.95, method="wilson")
    assert (rate.value, rate.n) == (successes / n, n)
    assert rate.low == pytest.approx(expected.low, abs=1e-9)
    assert rate.high == pytest.approx(expected.high, abs=1e-9)


def test_nothing_measured_has_no_value():
    for rate in (wilson(0, 0), episode_share([], []), mean([], []), ratio([0, 0], [0, 0], ["a", "b"])):
        assert (rate.value, rate.low, rate.high, rate.n) == (None, None, None, 0)


def test_a_means_interval_agrees_with_an_independent_bootstrap():
    values = list(np.random.default_rng(1).uniform(size=60))
    rate = mean(values, SINGLES[:60])
    other = stats.bootstrap((values,), np.mean, n_resamples=4000, method="percentile", rng=2)
    assert rate.value == pytest.approx(np.mean(values))
    assert rate.low == pytest.approx(other.confidence_interval.low, abs=0.02)
    assert rate.high == pytest.approx(other.confidence_interval.high, abs=0.02)
    assert mean(values, SINGLES[:60]) == rate
    assert ratio(values, [1] * 60, SINGLES[:60]) == rate


def test_step_rates_draw_whole_episodes():
    clustered = ratio([10, 0] * 20, [10] * 40, SINGLES[:40])
    assert (clustered.value, clustered.n) == (0.5, 400)
    independent = wilson(200, 400)
    assert clustered.high - clustered.low > 2 * (independent.high - independent.low)


def test_episodes_of_one_cluster_count_as_little_as_one():
    one_each = episode_share([True, False] * 10, SINGLES[:20])
    five_alike = episode_share(
        [hit for hit in [True, False] * 10 for _ in range(5)], [c for c in SINGLES[:20] for _ in range(5)]
    )
    assert (five_alike.value, five_alike.n) == (0.5, 100)
    assert five_alike.high - five_alike.low == pytest.approx(one_each.high - one_each.low, abs=0.05)


def test_the_cluster_bootstrap_covers_the_truth_where_single_episodes_would_be_too_sure():
    draw = np.random.default_rng(5)
    worlds, covered, covered_by_wilson, trials = 20, 0, 0, 300
    for _ in range(trials):
        easy = draw.beta(0.8, 1.2, worlds)  # their mean is 0.4
        hits = draw.binomial(1, np.repeat(easy, 5)).tolist()
        rate, sure = (
            ratio(hits, [1] * len(hits), [c for c in SINGLES[:worlds] for _ in range(5)]),
            wilson(sum(hits), 100),
        )
        covered += rate.low <= 0.4 <= rate.high
        covered_by_wilson += sure.low <= 0.4 <= sure.high
    assert covered / trials > 0.9 > 0.85 > covered_by_wilson / trials


@pytest.mark.parametrize("outcome", [0.0, 1.0])
def test_an_interval_has_a_width_where_all_came_out_alike(outcome):
    expected = wilson(int(10 * outcome), 10)
    for rate in (
        ratio([outcome * 7] * 10, [7] * 10, SINGLES[:10]),
        episode_share([bool(outcome)] * 30, [c for c in SINGLES[:10] for _ in range(3)]),
    ):
        assert (rate.value, rate.low, rate.high) == (outcome, expected.low, expected.high)
        assert rate.high - rate.low > 0.2


def values(summary):
    return {name: rate.value for name, rate in summary.rates().items()}


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
        episode(3, step("pull", valid=False), step("push", progress=0.25, cut=2), difficulty="hard"),
    ]
    summary = summarise(episodes)["push"]
    # All eight thoughts are the one word "t".
    assert values(summary) == {
        "success_rate": pytest.approx(1 / 3),
        "progress_rate": pytest.approx(1.25 / 3),
        "grounding": pytest.approx(3 / 9),
        "grounding_per_episode": pytest.approx((2 / 3 + 0 + 1 / 2) / 3),
        "format_error_rate": pytest.approx(1 / 9),
        "stuck_rate": pytest.approx(1 / 3),
        # Errors that another turn followed: one in episode 1 (recovered), three in 2 (none), one in 3 (recovered).
        "recovery_rate": pytest.approx(2 / 5),
        "recovery_within_3": pytest.approx(2 / 5),
        "turns_to_recover": 1.0,
        "repeat_rate": pytest.approx(1 / 5),
        "mean_steps": 3.0,
        "mean_prompt_tokens": 30.0,
        "mean_completion_tokens": 9.0,
        "thoughts_self_bleu": 1.0,
    }
    assert (summary.success_rate.n, summary.grounding.n, summary.recovery_rate.n) == (3, 9, 5)
    assert summary.stops == {"solved": 1, "step limit": 2}
    assert summary.episodes_with_cut_history == 1
    assert {task: found.success_rate.value for task, found in summary.by_task.items()} == {"t": 0.5, "u": 0.0}
    assert {name: found.progress_rate.value for name, found in summary.by_difficulty.items()} == {"": 0.5, "hard": 0.25}
    assert summary.progress_by_step.value == pytest.approx([0, 0.5 / 3, 0.75 / 3, 1.25 / 3, 1.25 / 3])
    assert summary.success_by_step.value == pytest.approx([0, 0, 0, 1 / 3, 1 / 3])
    assert all(low <= value <= high for value, low, high in summary.progress_by_step.points())
    assert (summary.success_at_n, summary.robustness) == (None, None)


def test_the_same_action_after_an_error_is_no_recovery():
    lucky = episode(1, step("pull", valid=False), step("pull"))
    assert summarise([lucky])["push"].recovery_rate.value == 0


def test_benchmarks_are_summarised_apart_and_none_is_no_error():
    both = summarise([episode(1, step(), success=True), episode(1, step(), benchmark="pull")])
    assert {name: summary.success_rate.value for name, summary in both.items()} == {"push": 1.0, "pull": 0.0}
    assert summarise([]) == {}
    assert summarise([episode(1)])["push"].grounding.value is None
    assert summarise([episode(1)])["push"].progress_by_step.value == [0.0]


def test_a_failed_simulator_tells_nothing_of_the_model():
    sound = [episode(1, step(progress=1.0), success=True), episode(2, step("pull", valid=False), step())]
    failed = [episode(3, step("pull", valid=False), step("pull", valid=False), failed=True), episode(4, failed=True)]
    with_failures, without = summarise([*sound, *failed])["push"], summarise(sound)["push"]
    assert (with_failures.episodes, with_failures.environment_errors) == (2, 2)
    assert with_failures.stops == {"environment error": 2, "solved": 1, "step limit": 1}
    same = {"environment_errors": 0, "stops": without.stops}
    assert with_failures.model_copy(update=same) == without
    nothing = summarise(failed)["push"]
    assert (nothing.episodes, nothing.success_rate.value, nothing.progress_by_step.value) == (0, None, [])


def test_attempts_at_one_episode_are_a_cluster_and_any_success_counts():
    outcomes = {1: (True, False), 2: (False, False), 3: (True, True), 4: (False, True)}
    attempts = [
        episode(number, step(), success=success, attempt=attempt)
        for number, successes in outcomes.items()
        for attempt, success in enumerate(successes)
    ]
    summary = summarise(attempts)["push"]
    assert (summary.attempts, summary.episodes) == (2, 8)
    assert (summary.success_rate.value, summary.success_rate.n) == (0.5, 8)
    assert (summary.success_at_n.value, summary.success_at_n.n) == (0.75, 4)
    assert summary.success_at_n == wilson(3, 4)
    assert summary.success_rate == ratio([1, 0, 2, 1], [2, 2, 2, 2], ["e1", "e2", "e3", "e4"])


def test_perturbations_are_compared_on_the_worlds_that_were_played_in_all_of_them():
    solved = {"a": (1, 1, 1, 0), "b": (1, 0, 0, 0), "c": (1, 1, 0, 0)}
    episodes = [
        episode(world, step(), success=bool(success), perturbation=perturbation)
        for perturbation, successes in solved.items()
        for world, success in enumerate(successes)
    ]
    stray = episode(9, step(), success=True, perturbation="a")
    summary = summarise([*episodes, stray])["push"]
    found = summary.robustness
    assert found.worlds == 4
    assert {name: reached.success_rate.value for name, reached in found.perturbations.items()} == {
        "a": 0.75, "b": 0.25, "c": 0.5
    }  # fmt: skip
    assert found.mean.success_rate.value == 0.5
    assert found.success_std == found.progress_std == pytest.approx(0.25) == stdev([0.75, 0.25, 0.5])
    assert found.mean.success_rate == ratio([3, 2, 1, 0], [3, 3, 3, 3], ["e0", "e1", "e2", "e3"])
    assert summary.success_rate.value == pytest.approx(7 / 13)
    # A world in three perturbations is one cluster: Wilson's interval of 13 episodes would be too sure.
    own, sure = summary.success_rate, wilson(7, 13)
    assert own.high - own.low > 1.2 * (sure.high - sure.low)


def test_one_perturbation_has_no_deviation():
    found = summarise([episode(1, step(), perturbation="a"), episode(2, step(), success=True, perturbation="a")])[
        "push"
    ].robustness
    assert (found.success_std, found.mean.success_rate.value) == (None, 0.5)


def test_the_files_hold_all_and_the_success_rates(tmp_path):
    summaries = summarise([episode(1, step("pull", valid=False), step(), success=True), episode(2, step(), task="u")])
    write_summaries(tmp_path, summaries)
    details = json.loads((tmp_path / "details.json").read_text())
    assert details["push"] == summaries["push"].model_dump()
    assert details["push"]["by_task"]["u"]["success_rate"]["n"] == 1
    assert json.loads((tmp_path / "metrics.json").read_text()) == {"push": 0.5}


def test_alike_and_lonely_clusters_have_wide_intervals():
    lonely = ratio([1, 1, 1, 0, 0], [1] * 5, ["world"] * 5)
    assert lonely.value == 0.6
    assert (lonely.low, lonely.high) == pytest.approx((0.0771, 0.9642), abs=1e-4)  # Wilson's of 0.6 of one trial
    alike = ratio([0.5] * 6, [1] * 6, list("abcdef"))
    assert (alike.low, alike.high) == pytest.approx((wilson(3, 6).low, wilson(3, 6).high))


def test_a_fault_of_the_world_is_no_error_by_hand():
    lifted, pushed = step("lift", fault=True), step("push", fault=True)
    found = summarise(
        [
            # Tried again until it works: nothing is repeated in vain.
            episode(1, pushed, pushed, pushed, step("push", progress=1.0), success=True),
            # The turn after an error is possible and different, so the error was corrected, though the world failed.
            episode(2, step("pull", valid=False), lifted, step("push"), lifted),
        ]
    )["push"]
    assert (found.grounding.value, found.grounding.n) == (7 / 8, 8)
    assert (found.recovery_rate.value, found.recovery_rate.n) == (1, 1)
    assert found.stuck_rate.value == 0
    assert (found.fault_rate.value, found.fault_rate.n) == (5 / 8, 8)
    # An episode's last turn is no chance to try again.
    assert (found.retry_rate.value, found.retry_rate.n) == (3 / 4, 4)
    assert {"fault_rate", "retry_rate"} <= found.rates().keys()


def test_where_no_fault_was_met_the_files_do_not_speak_of_faults():
    played = episode(1, step("pull", valid=False), step(progress=1.0), success=True)
    found = summarise([played])["push"]
    assert (found.fault_rate, found.retry_rate) == (None, None)
    assert "fault" not in played.model_dump_json() + found.model_dump_json()
    failed = episode(1, step(fault=True))
    assert Episode.model_validate_json(failed.model_dump_json()) == failed
    summary = summarise([failed])["push"]
    assert BenchmarkSummary.model_validate_json(summary.model_dump_json()) == summary
