"""Diversity: a data set of one persona, one kind of action or one kind of goal is named by its own feature."""

from __future__ import annotations

from pathlib import Path

import pytest

from agentrefine.files import short_hash
from agentrefine.game.trajectory import Trajectory
from agentrefine.quality.diversity import Diversity, goal_form
from tests.helpers.builders import DIALECTS, Dialect, make_script, make_trajectory
from tests.helpers.gates import Gate, replaced, sound
from tests.helpers.simulated_games import games


@pytest.fixture
def gate(tmp_path: Path) -> Gate:
    return Gate(tmp_path)


def diversity_of(trajectories: list[Trajectory]) -> Diversity:
    diversity = Diversity(persona_similarity=0.7)
    for trajectory in trajectories:
        diversity.add(trajectory)
    return diversity


def of_persona(trajectory: Trajectory, text: str) -> Trajectory:
    return replaced(trajectory, persona=text, persona_id=short_hash("persona", text))


def test_games_of_the_simulated_teacher_are_diverse_with_margin() -> None:
    trajectories = [
        Trajectory(
            id=str(n),
            persona_id=str(n // 6),
            persona=f"Persona {short_hash(str(n // 6))}",
            sample=n % 6,
            script=script,
            turns=turns,
            calls=[],
            teacher="offline",
        )
        for n, (script, turns) in enumerate(games(480))
    ]
    found = diversity_of(trajectories).features()
    assert found["common_actions_share"] < 0.3
    assert found["common_goal_share"] < 0.35
    assert found["action_templates"] >= 14
    assert found["action_evenness"] > 0.55
    assert found["goal_opening_entropy"] > 6
    assert found["largest_persona_share"] == pytest.approx(6 / 480)
    assert found["persona_near_duplicate_share"] == 0


def test_the_same_game_under_other_names_is_refused(gate: Gate) -> None:
    refusal = gate.refused([make_trajectory(n, persona=f"Persona {short_hash(str(n))}") for n in range(40)])
    finding = refusal.finding("data_set", "common_goal_share")
    assert (finding.observed, finding.expected) == ("1", "at most 0.5")
    assert finding.example_values == ['40 times "bring the _ from the _ to the _"']


def test_one_action_vocabulary_is_refused_whatever_the_goals(gate: Gate) -> None:
    goals = [dialect.goal for dialect in DIALECTS]
    same_actions = [Dialect("go", "take", "drop", goal) for goal in goals]
    one = [make_trajectory(n, persona=f"Persona {short_hash(str(n))}", dialect=same_actions[n % 3]) for n in range(40)]
    refusal = gate.refused(one)
    assert refusal.critical == ["data_set.common_actions_share"]
    finding = refusal.finding("data_set", "common_actions_share")
    assert finding.example_values == ['40 times "drop {item}, go {place}, take {item}"']
    assert refusal.finding("data_set", "action_templates").observed == "3"


def test_one_verb_has_no_evenness_and_equal_verbs_have_all_of_it() -> None:
    only = replaced(make_trajectory(1), turns=make_trajectory(1).turns[:2])
    assert diversity_of([only]).features()["action_evenness"] == 0
    three = [
        replaced(make_trajectory(n, dialect=d), turns=make_trajectory(n, dialect=d).turns[:2])
        for n, d in enumerate(DIALECTS)
    ]
    assert diversity_of(three).features()["action_evenness"] == pytest.approx(1)


def test_one_persona_in_most_games_is_refused(gate: Gate) -> None:
    trajectories = sound(40)
    repeated = [of_persona(t, "A nurse in Ghent.") if n < 20 else t for n, t in enumerate(trajectories)]
    refusal = gate.refused(repeated)
    assert refusal.critical == ["data_set.largest_persona_share"]
    finding = refusal.finding("data_set", "largest_persona_share")
    assert (finding.observed, finding.example_ids) == ("0.5", [repeated[0].id])
    assert finding.example_values == ['20 times "A nurse in Ghent."']


def test_personas_that_differ_in_case_punctuation_or_a_word_are_near_duplicates(gate: Gate) -> None:
    nurse = "A night nurse in Ghent who repairs old radios and sells them at the market"
    variants = (nurse, nurse.upper() + "!", nurse.replace("old", "very old"), nurse.replace(" and", ", and"))
    trajectories = [of_persona(t, variants[n]) if n < 4 else t for n, t in enumerate(sound(40))]
    result = gate.run(trajectories)
    assert result.data_set["persona_near_duplicate_share"] == pytest.approx(3 / len({t.persona for t in trajectories}))
    (finding,) = [f for f in result.failures if f.column == "persona_near_duplicate_share"]
    assert finding.severity == "warning"
    assert finding.example_ids == [t.id for t in trajectories[1:4]]
    assert finding.example_values[1] == f'"{variants[2]}" resembles "{nurse}"'
    page = (gate.reports / "summary.md").read_text(encoding="utf-8")
    assert "persona_near_duplicate_share (warning, **not met**)" in page


@pytest.mark.parametrize(
    "texts",
    [
        ("A cook in Lyon", "A miner in Kiruna"),
        ("在北京开出租车的司机", "上海的一名小学老师"),
        ("!!!", "???"),
        ("A nurse who repairs radios in Ghent", "A nurse who collects stamps in Bergen"),
    ],
)
def test_different_personas_are_no_near_duplicates_in_any_language(texts: tuple[str, str]) -> None:
    pair = [of_persona(make_trajectory(n), text) for n, text in enumerate(texts)]
    assert diversity_of(pair).features()["persona_near_duplicate_share"] == 0


def test_goals_have_the_same_form_when_only_names_differ() -> None:
    assert {goal_form(make_script(n)) for n in range(20)} == {"bring the _ from the _ to the _"}
    assert len({goal_form(make_script(n % 7, dialect=DIALECTS[n % 3])) for n in range(20)}) == 3


def test_no_game_at_all_has_no_diversity_and_divides_by_nothing() -> None:
    assert set(diversity_of([]).features().values()) == {0}
