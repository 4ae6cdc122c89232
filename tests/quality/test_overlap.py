"""Overlap with the benchmarks: what they show and what solves them is found in games, and nothing else is."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import pytest

from agentrefine.benchmarks import catalogue
from agentrefine.benchmarks.babyai.benchmark import BabyAI
from agentrefine.benchmarks.base import EpisodeSpec, SimulatorError, StepResult
from agentrefine.benchmarks.catalogue import benchmark
from agentrefine.errors import NotInstalledError
from agentrefine.game.conversation import instructions
from agentrefine.game.trajectory import PlayerTurn, Trajectory
from agentrefine.params.evaluation import INSTALLED
from agentrefine.quality.overlap import (
    BenchmarkTexts,
    OverlapCounts,
    OverlapIndex,
    all_benchmark_texts,
    allowed_texts,
    benchmark_texts,
    held_out,
)
from agentrefine.worlds.catalogue import families, themes
from agentrefine.worlds.layout import EVALUATION_SEEDS
from tests.helpers.builders import make_script, make_trajectory
from tests.helpers.errors import refused
from tests.helpers.gates import HELD_OUT, Gate, params, replaced, sound

TOMATO = "Put a cool tomato in the microwave and close it."


@pytest.fixture
def gate(tmp_path: Path) -> Gate:
    return Gate(tmp_path)


@pytest.fixture(scope="module")
def babyai() -> BenchmarkTexts:
    return benchmark_texts(BabyAI(), episodes=6, solved=4, seed=7)


def index(*passages: str) -> OverlapIndex:
    return OverlapIndex([BenchmarkTexts("household", passages=list(passages))], size=8)


def saying(text: str, key: str = "observation") -> Trajectory:
    """A game in which a text is the first observation, or the first thought or action of the player."""
    trajectory = make_trajectory(1)
    turns = list(trajectory.turns)
    at = 0 if key == "observation" else 1
    turns[at] = turns[at].model_copy(update={key: text})
    return replaced(trajectory, turns=turns)


def test_babyai_is_read_with_instructions_goals_observations_and_gold_actions(babyai: BenchmarkTexts) -> None:
    assert (babyai.episodes, len(babyai.goals), babyai.ours) == (6, 6, False)
    assert 3 <= len(babyai.solutions) <= 4
    assert any("toggle and go through {door}" in passage for passage in babyai.passages)
    assert any(passage.startswith("You see:") for passage in babyai.passages)
    assert set(babyai.goals) | {action for actions in babyai.solutions for action in actions} <= set(babyai.passages)


def test_every_kind_of_babyai_text_is_found_in_a_game(babyai: BenchmarkTexts) -> None:
    found = OverlapIndex([babyai], size=8)
    shown = max((p for p in babyai.passages if p.startswith("You see:")), key=len)
    assert str(found.find(saying(shown)).foreign).startswith('babyai text "you see ')
    assert str(found.find(saying(shown, key="thought")).foreign).startswith('babyai text "')
    goal = next(goal for goal in babyai.goals if len(goal.split()) >= 4)
    copied = make_trajectory(1, persona="x")
    copied = replaced(copied, script=copied.script.model_copy(update={"goal": goal.upper()}))
    assert str(found.find(copied).foreign).startswith("babyai goal")
    assert found.find(make_trajectory(1)).foreign is None


def test_a_benchmarks_action_description_is_found_in_a_script() -> None:
    trajectory = make_trajectory(1)
    spec = trajectory.script.available_actions["go {place}"].model_copy(update={"description": TOMATO})
    actions = trajectory.script.available_actions | {"go {place}": spec}
    copied = replaced(trajectory, script=trajectory.script.model_copy(update={"available_actions": actions}))
    assert index(TOMATO).find(copied).foreign == 'household text "put a cool tomato in the microwave and"'


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("I was told: put a COOL tomato in the microwave, and close it!", True),
        ("Put a cool tomato in the microwave. And close it.", False),
        ("Put a cool tomato in the microwave\nand close it.", False),
        ("Put a cool tomato in the oven and close it.", False),
        ("", False),
        ("tomato", False),
        ("...", False),
    ],
)
def test_an_ngram_stands_within_one_sentence_whatever_its_case_and_commas(text: str, found: bool) -> None:
    assert (index(TOMATO).find(saying(text)).foreign is not None) == found


def test_gold_actions_are_found_when_a_game_takes_them_with_mistakes_between() -> None:
    trajectory = make_trajectory(3)
    right = [
        turn.action
        for turn, answer in zip(trajectory.turns[1::2], trajectory.turns[2::2], strict=True)
        if isinstance(turn, PlayerTurn) and not isinstance(answer, PlayerTurn) and not answer.error
    ]
    copied = OverlapIndex([BenchmarkTexts("rooms", solutions=[right])], size=8)
    assert copied.find(trajectory).foreign == f'rooms gold actions "{", ".join(right)}"'
    other = OverlapIndex([BenchmarkTexts("rooms", solutions=[right[::-1]])], size=8)
    assert other.find(trajectory).foreign is None


def test_short_goals_and_short_solutions_are_everyday_language() -> None:
    short = BenchmarkTexts("rooms", goals=["Open the door."], solutions=[["go moon", "go moon"]])
    trajectory = make_trajectory(1)
    open_door = replaced(trajectory, script=trajectory.script.model_copy(update={"goal": "open the door"}))
    assert OverlapIndex([short], size=8).find(open_door).foreign is None


def test_what_every_game_says_by_nature_is_no_overlap() -> None:
    assert instructions({}) in allowed_texts()
    every = index(instructions({"go {place}": "go to a place"}), "You are in the middle of a room.", TOMATO)
    for text in allowed_texts():
        assert every.find(saying(text)).foreign is None
    assert len(every.owners) == len(index(TOMATO).owners)


def test_our_own_worlds_are_counted_and_never_an_overlap(gate: Gate) -> None:
    texts = benchmark_texts(benchmark("worlds_layouts"), episodes=3, solved=3, seed=7)
    assert texts.ours
    assert len(texts.solutions) == 3
    said = max(texts.passages, key=len)
    ours = OverlapIndex([texts], size=8)
    found = ours.find(saying(said))
    assert found.foreign is None
    counts = OverlapCounts(ours)
    counts.add(found)
    counts.add(ours.find(make_trajectory(2)))
    figures = counts.by_benchmark()["worlds_layouts"]
    assert (figures.trajectories, figures.episodes) == (1, 3)
    assert 0 < figures.ngrams_found <= figures.ngrams


def test_the_report_says_what_was_looked_for_and_found(gate: Gate) -> None:
    poisoned = [*sound(39), replaced(saying(TOMATO.replace("close it", "look")), id="copied")]
    refusal = gate.refused(poisoned)
    finding = refusal.finding("trajectory", "held_out_overlap")
    assert finding.example_ids == ["copied"]
    assert finding.example_values == ['household text "put a cool tomato in the microwave and"']
    overlap = refusal.result.overlap
    assert {name: figures.trajectories for name, figures in overlap.items()} == {
        "worlds_layouts": 0,
        "household": 1,
        "rooms": 0,
    }
    assert (overlap["household"].ngrams, overlap["household"].ngrams_found) == (2, 2)
    page = (gate.reports / "summary.md").read_text(encoding="utf-8")
    assert "| household | no | 0 | 2 | 2 | 1 |" in page
    assert "copied (household text" in page


def test_our_held_out_worlds_are_recognised_by_family_theme_and_seed() -> None:
    training, evaluation = families("train")[0].name, families("held_out")[0].name
    theme = themes("train")[0].name
    ours = held_out([], 8)
    nothing = ours.texts.find(make_trajectory(1))
    assert ours.overlap(make_script(1, f"{training}.{theme}.12"), nothing) is None
    assert ours.overlap(make_script(1, f"{evaluation}.{theme}.12"), nothing) == f"held-out family {evaluation}"
    assert ours.overlap(make_script(1, f"{training}.{theme}.{EVALUATION_SEEDS}"), nothing)


class Rooms:
    """A benchmark as a later one may be: its package is missing, or its simulator dies."""

    name = "rooms"
    progress_definition = "none"

    def __init__(self, installed: bool = True) -> None:
        self._installed = installed

    def episodes(self, limit: int, seed: int) -> Sequence[EpisodeSpec]:
        if not self._installed:
            raise NotInstalledError(
                "not_installed", "the benchmark rooms needs the package rooms: pip install rooms.", name="rooms"
            )
        return [EpisodeSpec(id=f"rooms.{n}", benchmark="rooms", task="go", seed=n) for n in range(limit)]

    def make(self, episode: EpisodeSpec) -> RoomsEnvironment:
        return RoomsEnvironment(episode.seed)

    def gold(self, episode: EpisodeSpec) -> list[str]:
        return ["go north", "take ball", "go south"]


class RoomsEnvironment:
    actions: ClassVar = {"go {way}": "Walk through rooms."}
    goal = TOMATO

    def __init__(self, seed: int) -> None:
        self._seed = seed
        self.closed = False

    def reset(self) -> str:
        if self._seed == 0:
            raise SimulatorError("died")
        return "A room."

    def step(self, action: str) -> StepResult:
        raise SimulatorError("died")

    def close(self) -> None:
        self.closed = True


def test_a_simulator_that_dies_costs_its_episode_only() -> None:
    texts = benchmark_texts(Rooms(), episodes=3, solved=1, seed=7)
    assert (texts.episodes, texts.goals, texts.solutions) == (2, [TOMATO, TOMATO], [])
    solved = benchmark_texts(Rooms(), episodes=2, solved=2, seed=7)
    assert len(solved.solutions) == 1


def with_rooms(monkeypatch: pytest.MonkeyPatch, *, installed: bool) -> None:
    known: dict[str, Any] = {"worlds_families": catalogue.BENCHMARKS["worlds_families"]}
    known["rooms"] = lambda _: Rooms(installed)
    monkeypatch.setattr(catalogue, "BENCHMARKS", known)  # another dictionary: the order of the first stands in an error


def test_every_installed_benchmark_is_compared_and_the_others_are_named(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    settings = params()
    evaluation = settings.evaluation.model_copy(update={"benchmarks": ["worlds_families"], "episodes": 2})
    gate_params = settings.quality_gate.model_copy(update={"overlap_episodes": 3})
    settings = settings.model_copy(update={"evaluation": evaluation, "quality_gate": gate_params})
    with_rooms(monkeypatch, installed=True)
    assert [t.benchmark for t in all_benchmark_texts(settings)] == ["worlds_families"], "none but those evaluated"
    gate_params = gate_params.model_copy(update={"overlap_benchmarks": INSTALLED})
    settings = settings.model_copy(update={"quality_gate": gate_params})
    assert [(t.benchmark, t.episodes) for t in all_benchmark_texts(settings)] == [("worlds_families", 3), ("rooms", 2)]
    with_rooms(monkeypatch, installed=False)
    texts = all_benchmark_texts(settings)
    assert texts[1].missing.startswith("the benchmark rooms needs")
    gate = Gate(tmp_path, held_out(texts, 8))
    gate.run(sound())
    assert "rooms was not compared: the benchmark rooms needs" in (gate.reports / "summary.md").read_text()
    played = settings.evaluation.model_copy(update={"benchmarks": INSTALLED})
    none_besides = gate_params.model_copy(update={"overlap_benchmarks": []})
    both = settings.model_copy(update={"evaluation": played, "quality_gate": none_besides})
    assert [bool(t.missing) for t in all_benchmark_texts(both)] == [False, True]
    evaluated = settings.evaluation.model_copy(update={"benchmarks": ["rooms"]})
    with refused("not_installed", name="rooms"):
        all_benchmark_texts(settings.model_copy(update={"evaluation": evaluated}))


def test_no_benchmark_at_all_is_no_overlap() -> None:
    assert OverlapIndex([], size=8).find(make_trajectory(1)).foreign is None
    assert HELD_OUT.texts.find(make_trajectory(1)).foreign is None
