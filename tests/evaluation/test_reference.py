"""The reference policies and the gold check."""

import json

import pytest

from agentrefine.benchmarks.alfworld import benchmark as alfworld
from agentrefine.benchmarks.base import EpisodeSpec, NoSolutionError, SimulatorError, StepResult, UnlistedActionsError
from agentrefine.benchmarks.catalogue import BENCHMARKS, benchmark
from agentrefine.benchmarks.hotpotqa.benchmark import HotpotQA
from agentrefine.errors import NotInstalledError
from agentrefine.evaluation import gold_check
from agentrefine.evaluation.gold_check import check_benchmark
from agentrefine.evaluation.policy import Dialogue
from agentrefine.evaluation.reference import IDLE, ChancePolicy, GoldPolicy, IdlePolicy
from agentrefine.evaluation.rollout import play
from agentrefine.game.conversation import opening, parse_reply
from agentrefine.params import load_params
from agentrefine.params.evaluation import Prompting
from flows.cli import main
from tests.helpers.commands import failure

START = opening("play", "goal", "room")


def actions_of(policy, episodes, chosen, max_steps=8, batch_size=4):
    played = play(policy, chosen, episodes, max_steps=max_steps, batch_size=batch_size)
    return {episode.id: [step.action for step in episode.steps] for episode in played}


def test_the_solution_is_played_to_its_end_and_then_nothing():
    policy = GoldPolicy({"a": ["go", "take"], "b": []})
    replies = policy.act([Dialogue("a", START), Dialogue("a", START + START[1:]), Dialogue("b", START)])
    assert [parse_reply(reply.text).action for reply in replies] == ["go", "take", IDLE]
    assert parse_reply(policy.act([Dialogue("a", START + 4 * START[1:])])[0].text).action == IDLE


def test_random_actions_are_possible_and_the_same_for_the_same_seed():
    episodes = benchmark("worlds_layouts").episodes(6, 3)
    worlds = benchmark("worlds_layouts")
    drawn = actions_of(ChancePolicy(1), episodes, worlds)
    for episode in episodes:
        environment = benchmark("worlds_layouts").make(episode)
        environment.reset()
        for action in drawn[episode.id]:
            assert action in environment.possible()
            assert environment.step(action).valid
    assert actions_of(ChancePolicy(1), episodes[::-1], worlds, batch_size=1) == drawn
    assert actions_of(ChancePolicy(2), episodes, worlds) != drawn


def test_chance_plays_in_the_form_that_replies_are_asked_for():
    episodes = benchmark("worlds_layouts").episodes(2, 3)
    worlds = benchmark("worlds_layouts")
    act = Prompting(style="act")
    played = play(ChancePolicy(1, "act"), worlds, episodes, max_steps=4, batch_size=2, prompting=act)
    steps = {episode.id: episode.steps for episode in played}
    assert not any(step.format_error or step.thought for taken in steps.values() for step in taken)
    drawn = actions_of(ChancePolicy(1), episodes, worlds, max_steps=4)
    assert {name: [step.action for step in taken] for name, taken in steps.items()} == drawn


def test_chance_is_another_policy_with_another_seed():
    assert ChancePolicy.digest(7) == ChancePolicy.digest(7) != ChancePolicy.digest(8)


class Stuck:
    """A benchmark without an action, whose solution does not solve it; some episodes have none, or a dead simulator."""

    name = "stuck"
    progress_definition = "none"
    goal = "leave"
    actions = {"wait": "wait"}  # noqa: RUF012

    def episodes(self, limit, seed):
        return [EpisodeSpec(id=f"stuck.{n}", benchmark="stuck", task="any", seed=n) for n in range(limit)]

    def make(self, episode):
        self.seed = episode.seed
        return self

    def gold(self, episode):
        if episode.seed == 0:
            raise NoSolutionError("there is no door")
        return ["wait"]

    def reset(self):
        return "A room."

    def step(self, action):
        if self.seed == 2:
            raise SimulatorError("died")
        return StepResult("Nothing.", 0.25, False, False, False)

    def possible(self):
        if self.seed == 2:
            raise SimulatorError("died")
        return []

    def close(self):
        """Nothing to free."""


def test_where_nothing_is_possible_or_the_simulator_died_chance_does_nothing():
    played = list(play(ChancePolicy(1), Stuck(), Stuck().episodes(3, 0), max_steps=2, batch_size=1))
    assert [[step.action for step in episode.steps] for episode in played] == [[IDLE, IDLE], [IDLE, IDLE], []]
    assert played[2].error == "died"


def test_the_gold_check_reports_what_has_no_solution_and_what_its_solution_does_not_solve():
    found = check_benchmark(Stuck(), Stuck().episodes(3, 0), max_steps=4, seed=1)
    assert found.no_solution == {"stuck.0": "there is no door"}
    assert found.gold.unsolved == {"stuck.1": "step limit", "stuck.2": "environment error: died"}
    assert (found.gold.episodes, found.gold.success, found.idle.episodes) == (2, 0, 3)
    assert not found.sound
    assert not check_benchmark(Stuck(), Stuck().episodes(1, 0), max_steps=4, seed=1).sound


def test_where_the_simulator_lists_no_actions_chance_is_absent():
    class Unlisted(Stuck):
        def possible(self):
            raise UnlistedActionsError("there is no list")

    with pytest.raises(UnlistedActionsError, match=r"^there is no list$"):
        list(play(ChancePolicy(1), Unlisted(), Unlisted().episodes(1, 0), max_steps=2, batch_size=1))
    found = check_benchmark(Unlisted(), Unlisted().episodes(2, 0), max_steps=4, seed=1)
    assert found.chance is None
    assert [gold_check.COLUMNS[f"{name} success / progress"](found) for name in ("chance", "idle")] == ["-", "0% / 25%"]


def test_the_gold_check_of_a_sound_benchmark():
    found = check_benchmark(HotpotQA(), HotpotQA().episodes(6, 7), max_steps=5, seed=1)
    assert found.sound
    assert (found.gold.success, found.gold.progress, found.gold.valid, found.gold.steps) == (1, 1, 1, 3)
    assert (found.idle.success, found.idle.progress, found.idle.valid, found.idle.steps) == (0, 0, 0, 5)
    assert found.chance.valid == 1
    assert found.memory is None
    assert 0 < found.gold.step_seconds < 1


def test_the_command_prints_the_table_writes_json_and_fails_where_a_solution_does(tmp_path, monkeypatch, capsys):
    out = tmp_path / "gold.json"
    main(["gold-check", "worlds_layouts", "--episodes", "3", "--json", str(out)])
    assert "| worlds_layouts | 3 | 3 | 100% |" in capsys.readouterr().out
    assert json.loads(out.read_text())[0]["gold"]["success"] == 1
    absent = NotInstalledError("not_installed", "the benchmark rooms needs the package rooms.")
    monkeypatch.setattr(gold_check, "selected", lambda _: {"stuck": Stuck(), "rooms": absent})
    with pytest.raises(SystemExit, match=r"^1$"):
        main(["gold-check"])
    said = capsys.readouterr().out
    assert "no solution: stuck.0: there is no door" in said
    assert "FAILED: the solution of stuck.1 does not solve it (step limit)" in said
    assert "not played: the benchmark rooms needs the package rooms." in said
    monkeypatch.undo()
    error = failure("gold-check", "worlds_layoutz")
    assert (error.code, error.values["name"], error.values["meant"]) == (
        "unknown_name", "worlds_layoutz", "worlds_layouts"
    )  # fmt: skip
    error = failure("gold-check", "alfworld_wording")
    assert (error.code, error.values["new"]) == ("old_name", "alfworld_perturbed")


@pytest.mark.parametrize("name", BENCHMARKS)
def test_what_is_said_to_be_possible_is_and_asking_changes_nothing(name, tmp_path_factory, monkeypatch):
    monkeypatch.setenv("AGENTREFINE_GAMES", str(tmp_path_factory.getbasetemp() / "games"))
    monkeypatch.delenv(alfworld.DATA_FOLDER, raising=False)
    chosen = benchmark(name)
    try:
        episodes = chosen.episodes(1, load_params().seed)
    except NotInstalledError as error:
        pytest.skip(str(error))
    [played] = play(ChancePolicy(3), chosen, episodes, max_steps=6, batch_size=1)
    assert all(step.valid for step in played.steps)
    environment = chosen.make(episodes[0])
    environment.reset()
    possible = environment.possible()
    assert possible == environment.possible()
    assert len(set(possible)) == len(possible) > 1
    environment.close()


def test_doing_nothing_changes_nothing():
    chosen = benchmark("worlds_layouts")
    [played] = play(IdlePolicy(), chosen, chosen.episodes(1, 0), max_steps=3, batch_size=1)
    assert {step.action for step in played.steps} == {IDLE}
    assert not any(step.valid for step in played.steps)
