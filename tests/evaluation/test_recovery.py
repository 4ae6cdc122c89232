"""What a model does after its errors, counted by hand; and the kinds of errors in the files of a real evaluation."""

import json
from pathlib import Path

import pytest

from agentrefine.benchmarks.base import EpisodeSpec, StepResult
from agentrefine.benchmarks.catalogue import benchmark
from agentrefine.evaluation.episodes import Episode, EpisodeJournal
from agentrefine.evaluation.metrics import summarise
from agentrefine.evaluation.metrics.rates import NOTHING, mean, ratio, wilson
from agentrefine.evaluation.metrics.recovery import Aftermath, aftermaths
from agentrefine.evaluation.metrics.summary import BenchmarksPlayed, Summaries, write_evaluation, write_summaries
from agentrefine.evaluation.rollout import play
from agentrefine.files import read_jsonl
from agentrefine.game.conversation import reply_text
from agentrefine.worlds.engine import Game, Refusal
from agentrefine.worlds.layout import world_from_id
from tests.helpers.hand_made_episodes import episode, step
from tests.helpers.playing import PushBenchmark, PushGame, ScriptedPolicy


def error(action="pull", kind="logic_error"):
    return step(action, valid=False, kind=kind)


def malformed(reply="hm", kind="format_error"):
    return step(reply, valid=False, format_error=True, kind=kind)


AT_ONCE = episode(1, error(), step(), success=True)
SECOND_TURN = episode(2, error("pull", "place_error"), error("pull", "place_error"), step())
THIRD_TURN = episode(3, malformed(), malformed(), error("lift", "place_error"), step("turn"))
FOURTH_TURN = episode(4, error(), step("pull"), step("pull"), error("lift", "parameter_error"), step())
NEVER = episode(5, malformed("a"), malformed("b"), malformed("b"))
ENDS_WITH_AN_ERROR = episode(6, step(), error())
EPISODES = [AT_ONCE, SECOND_TURN, THIRD_TURN, FOURTH_TURN, NEVER, ENDS_WITH_AN_ERROR]

FOLLOWED = {
    1: [Aftermath("logic_error", 1, False)],
    2: [Aftermath("place_error", 2, True), Aftermath("place_error", 1, False)],
    3: [
        Aftermath("format_error", 3, True),
        Aftermath("format_error", 2, False),
        Aftermath("place_error", 1, False),
    ],
    # The same action, though it works now, is not another one, and the next other one fails.
    4: [Aftermath("logic_error", 4, False), Aftermath("parameter_error", 1, False)],
    5: [Aftermath("format_error", None, False), Aftermath("format_error", None, True)],
    6: [],
}
"""What followed the errors of each episode; one in the last turn has nothing after it."""


@pytest.mark.parametrize("played", EPISODES, ids=lambda played: played.id)
def test_what_followed_each_error(played):
    assert aftermaths(played) == FOLLOWED[int(played.id[1:])]


def test_recovery_by_hand():
    summary = summarise(EPISODES)["push"]
    ids = [played.id for played in EPISODES]
    # Ten errors were followed by a turn: 1, 2, 3, 2, 2 and 0 of them in the episodes.
    of = [1, 2, 3, 2, 2, 0]
    assert summary.recovery_rate == ratio([1, 1, 1, 1, 0, 0], of, ids)
    assert summary.recovery_within_3 == ratio([1, 2, 3, 1, 0, 0], of, ids)
    assert summary.repeat_rate == ratio([0, 1, 1, 0, 1, 0], of, ids)
    assert [rate.value for rate in (summary.recovery_rate, summary.recovery_within_3, summary.repeat_rate)] == [
        0.4, 0.7, 0.3
    ]  # fmt: skip
    assert summary.recovery_rate.n == summary.recovery_within_3.n == summary.repeat_rate.n == 10
    turns = [1, 2, 1, 3, 2, 1, 4, 1]
    assert summary.turns_to_recover == mean(turns, ["e1", "e2", "e2", "e3", "e3", "e3", "e4", "e4"])
    assert (summary.turns_to_recover.value, summary.turns_to_recover.n) == (15 / 8, 8)
    assert summary.turns_to_recover.low < 15 / 8 < summary.turns_to_recover.high
    assert {kind: (rate.value, rate.n) for kind, rate in summary.recovery_by_kind.items()} == {
        "format_error": (0.0, 4),
        "logic_error": (0.5, 2),
        "parameter_error": (1.0, 1),
        "place_error": (pytest.approx(2 / 3), 3),
    }
    assert summary.recovery_by_kind["place_error"] == ratio([0, 1, 1, 0, 0, 0], [0, 2, 1, 0, 0, 0], ids)


def test_an_episode_that_ends_sooner_than_in_three_turns_counts_with_the_turns_that_it_has():
    soon = summarise([episode(1, error(), error("lift"))])["push"]
    assert (soon.recovery_within_3.value, soon.recovery_within_3.n) == (0.0, 1)
    assert soon.turns_to_recover == NOTHING


def test_errors_of_one_cluster_are_drawn_together():
    """Two attempts at one episode are as little evidence as one: the interval is that of a single trial."""
    attempts = [episode(1, error(), step(), attempt=number) for number in range(2)]
    summary = summarise(attempts)["push"]
    for rate in (summary.recovery_rate, summary.recovery_within_3, summary.recovery_by_kind["logic_error"]):
        assert (rate.value, rate.n) == (1.0, 2)
        assert rate.low == wilson(1, 1).low


def test_an_action_and_a_malformed_reply_of_the_same_text_are_no_repeat():
    mixed = episode(1, malformed("pull"), error("pull"), step())
    assert [found.repeated for found in aftermaths(mixed)] == [False, False]


def test_without_errors_nothing_is_measured_and_no_kind_is_named():
    summary = summarise([episode(1, step(), step(), success=True)])["push"]
    assert summary.recovery_within_3 == summary.turns_to_recover == summary.repeat_rate == NOTHING
    assert summary.recovery_by_kind == {}


def test_what_a_simulator_failed_in_has_no_errors():
    failed = episode(7, error(), error(), step(), failed=True)
    assert summarise([*EPISODES, failed])["push"].recovery_by_kind == summarise(EPISODES)["push"].recovery_by_kind


SOLVED = {1: (1, 1, 1), 2: (1, 1, 0), 3: (0, 1, 0), 4: (0, 0, 0)}
"""Which of three attempts solved each episode."""


def attempts_at(solved):
    return [
        episode(number, step(), success=bool(success), attempt=attempt)
        for number, successes in solved.items()
        for attempt, success in enumerate(successes)
    ]


def test_pass_hat_k_is_the_unbiased_share_of_episodes_that_k_attempts_all_solve():
    summary = summarise(attempts_at(SOLVED))["push"]
    # Of the three pairs of attempts at an episode all solve the first, one solves the second, none the others.
    assert [rate.value for rate in summary.success_in_all_k] == pytest.approx(
        [(1 + 2 / 3 + 1 / 3 + 0) / 4, (1 + 1 / 3 + 0 + 0) / 4, 1 / 4]
    )
    assert summary.success_in_all_k[0].value == pytest.approx(summary.success_rate.value)
    assert summary.success_in_all_n == summary.success_in_all_k[-1] == wilson(1, 4)
    assert summary.success_at_n == wilson(3, 4)
    assert summary.rates()["success_in_all_n"] == wilson(1, 4)


def test_an_episode_with_a_failed_attempt_is_in_pass_hat_k_as_far_as_it_was_played():
    lost = episode(5, step(), attempt=2, failed=True)
    played = [episode(5, step(), success=True, attempt=attempt) for attempt in range(2)]
    summary = summarise([*attempts_at(SOLVED), *played, lost])["push"]
    assert [rate.n for rate in summary.success_in_all_k] == [5, 5, 4]
    assert summary.success_in_all_k[1].value == pytest.approx((1 + 1 / 3 + 0 + 0 + 1) / 5)
    assert summary.success_in_all_n == wilson(1, 4)


def test_what_was_tried_once_has_no_pass_hat_k():
    summary = summarise(EPISODES)["push"]
    assert (summary.success_in_all_n, summary.success_in_all_k) == (None, [])
    assert "success_in_all_n" not in summary.rates()


def test_files_of_before_the_kinds_are_read_and_their_errors_are_of_unknown_kind(tmp_path: Path):
    lines = [json.loads(played.model_dump_json()) for played in EPISODES]
    for line in lines:
        for turn in line["steps"]:
            del turn["error_kind"]
    old = tmp_path / "episodes.jsonl"
    old.write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    read = list(read_jsonl(old, Episode))
    assert {turn.error_kind for played in read for turn in played.steps} == {""}
    before, now = summarise(read)["push"], summarise(EPISODES)["push"]
    assert {kind: rate.n for kind, rate in before.recovery_by_kind.items()} == {"format_error": 4, "unknown": 6}
    assert before.model_copy(update={"recovery_by_kind": now.recovery_by_kind}) == now

    journal = tmp_path / "journal.jsonl"
    journal.write_text("".join(f"{json.dumps({'seconds': 1.0, 'episode': line})}\n" for line in lines))
    with EpisodeJournal(journal) as opened:
        assert opened.episodes == read


def test_details_of_before_these_metrics_are_read_and_the_new_ones_are_empty(tmp_path: Path):
    write_summaries(tmp_path, summarise(EPISODES))
    details = json.loads((tmp_path / "details.json").read_text())
    new = {
        "success_in_all_n", "success_in_all_k", "recovery_within_3", "turns_to_recover", "repeat_rate",
        "recovery_by_kind",
    }  # fmt: skip
    old = {name: value for name, value in details["push"].items() if name not in new}
    read = Summaries.model_validate({"push": old}).root["push"]
    assert (read.recovery_within_3, read.recovery_by_kind, read.success_in_all_k) == (NOTHING, {}, [])
    assert read.recovery_rate == summarise(EPISODES)["push"].recovery_rate


def refused_action(game: Game, kind: str) -> str:
    """An action that the world refuses with an error of a kind."""
    judged = ((move, game.judge(move)) for move in game.moves())
    return next(game.render(move) for move, found in judged if isinstance(found, Refusal) and found.error == kind)


@pytest.mark.parametrize("name", ["worlds_layouts", "worlds_perturbed"])
def test_an_evaluation_in_worlds_writes_the_engines_kinds_of_errors(tmp_path: Path, name: str):
    worlds = benchmark(name)
    (spec,) = worlds.episodes(1, 7)
    game = worlds.make(spec)._game
    assert game.world == world_from_id(spec.id.partition("/")[0])
    wrong = {
        "parameter_error": "dance with the moon",
        "place_error": refused_action(game, "place_error"),
        "logic_error": refused_action(game, "logic_error"),
    }
    script = ["I would rather not.", *(reply_text("I try.", action) for action in wrong.values())]
    script += [reply_text("I know.", action) for action in worlds.gold(spec)]
    played = list(play(ScriptedPolicy({spec.id: script}), worlds, [spec], max_steps=50, batch_size=1))
    write_evaluation(tmp_path, played, BenchmarksPlayed(progress={}, absent={}, agentboard=[]), {name: 1.0}, [])

    (written,) = (json.loads(line) for line in (tmp_path / "episodes.jsonl").read_text().splitlines())
    kinds = [turn["error_kind"] for turn in written["steps"]]
    assert kinds == ["format_error", *wrong] + [""] * (len(kinds) - 4)
    assert written["success"]
    details = json.loads((tmp_path / "details.json").read_text())[name]
    assert {kind: (rate["value"], rate["n"]) for kind, rate in details["recovery_by_kind"].items()} == {
        "format_error": (0.0, 1), "logic_error": (1.0, 1), "parameter_error": (0.0, 1), "place_error": (0.0, 1)
    }  # fmt: skip
    assert (details["recovery_rate"]["value"], details["recovery_within_3"]["value"]) == (0.25, 0.75)
    assert (details["turns_to_recover"]["value"], details["repeat_rate"]["value"]) == (2.5, 0.0)


class NamingGame(PushGame):
    """Says why it refuses one of two actions."""

    def step(self, action: str) -> StepResult:
        return super().step(action)._replace(error_kind="jammed" if action == "jam" else "")


class NamingBenchmark(PushBenchmark):
    def make(self, episode: EpisodeSpec) -> PushGame:
        return NamingGame(episode.seed)


def test_a_benchmarks_own_kind_is_kept_and_other_stands_for_none():
    spec = EpisodeSpec(id="e", benchmark="push", task="push", seed=1)
    script = ["hm", *(reply_text("I try.", action) for action in ("jam", "pull", "push"))]
    (played,) = play(ScriptedPolicy({"e": script}), NamingBenchmark(), [spec], max_steps=9, batch_size=1)
    assert [turn.error_kind for turn in played.steps] == ["format_error", "jammed", "other", ""]
