"""The teacher's prompts: their parts stand where programs read them, their versions are raised, their examples vary."""

import hashlib
import json
import re
from collections import Counter
from pathlib import Path

import pytest

from agentrefine.game.actions import PLACEHOLDER
from agentrefine.game.personas import Persona
from agentrefine.game.script import Script
from agentrefine.game.text import three_word_runs
from agentrefine.game.trajectory import DMTurn, PlayerTurn, error_refine_turns, steps
from agentrefine.params import VerificationParams
from agentrefine.quality.diversity import DuplicateIndex, script_text
from agentrefine.synthesis import prompts
from agentrefine.synthesis import prompts as shots
from agentrefine.synthesis.prompts import (
    script_messages,
    script_pool,
    script_shots,
    trajectory_messages,
    trajectory_pool,
    trajectory_shot,
    turns_json,
)
from agentrefine.synthesis.repair_prompts import continuation_messages, script_retry_messages
from agentrefine.verification.reading import parse_turns
from agentrefine.verification.script_rules import verify_script
from agentrefine.verification.trajectory_rules import verify_trajectory
from tests.helpers.games import game, script

PERSONA = Persona(id="p1", text="A tester who pays $5 for {braces} and \\n.")
DEMANDS = VerificationParams(min_error_refine_turns=2, max_turns=60)
FOLDER = Path(prompts.__file__).parent / "prompts"


RECORDED = {
    "continuation.md": "5cc6a6059215",
    "script.md": "c089bb4a5311",
    "script_retry.md": "a046b438a0c8",
    "script_rules.md": "17d52a8faaf0",
    "trajectory.md": "ffef1cf1fef1",
}
"""The prompts that the published data were written by: a changed one asks for every answer again."""


def test_the_prompts_are_those_that_published_data_were_written_by():
    files = sorted(FOLDER.glob("*.md"))
    assert {file.name: hashlib.sha256(file.read_bytes()).hexdigest()[:12] for file in files} == RECORDED


def block(text: str, heading: str) -> str:
    return text.rpartition(f"\n# {heading}\n\n```json\n")[2].partition("\n```")[0]


def test_prompts_can_be_read_back_by_a_program():
    kept = parse_turns(json.dumps(game()[:5])).turns
    plain = script_messages(PERSONA)[-1]["content"]
    retry = script_retry_messages(PERSONA, "It is\n\nbad: $x.")[-1]["content"]
    assert plain.endswith(f"\nPersona: {PERSONA.text}")
    assert retry.endswith(f"\nPersona: {PERSONA.text}")
    assert "\nIt is bad: $x.\n" in retry.rpartition("# What to change")[2]
    assert retry.count(PERSONA.text) == 1

    demands = VerificationParams(min_error_refine_turns=3, max_turns=44)
    text = trajectory_messages(PERSONA, script(), demands)[-1]["content"]
    assert Script.model_validate_json(block(text, "Script")) == script()
    assert "at least 3 times" in text
    assert "at most 44 turns" in text

    text = continuation_messages(PERSONA, script(), kept, "Turn 6\nis bad.", demands)[-1]["content"]
    assert Script.model_validate_json(block(text, "Script")) == script()
    assert json.loads(block(text, "Turns so far")) == game()[:5]
    assert "\nTurn 6 is bad.\n" in text.rpartition("# What to change")[2]
    assert "your first turn is turn 6, of the Player" in text
    assert "the whole game needs 3 at least" in text
    assert json.loads(block(continuation_messages(PERSONA, script(), [], "x")[-1]["content"], "Turns so far")) == []


def test_feedback_of_any_length_leaves_the_prompt_short():
    longer = script_retry_messages(PERSONA, "x" * 10**6)[-1]["content"]
    assert len(longer) - len(script_retry_messages(PERSONA, "x")[-1]["content"]) < 1100


def test_every_prompt_begins_by_speaking_to_the_teacher():
    for text in (
        script_messages(PERSONA)[0]["content"],
        script_retry_messages(PERSONA, "x")[0]["content"],
        continuation_messages(PERSONA, script(), [], "x")[0]["content"],
    ):
        assert text.startswith("You ")


def test_a_persona_draws_the_same_examples_in_every_process():
    pinned = {
        "a": ("archivist", "mediator", "conductor"),
        "b": ("baker", "archivist", "hortelana"),
        "c": ("dispatcher", "archivist", "sailor"),
    }
    assert {persona_id: tuple(script_shots(persona_id)) for persona_id in ("a", "b", "c")} == pinned


def test_examples_are_drawn_evenly_and_in_every_order():
    draws = [tuple(script_shots(str(number))) for number in range(6000)]
    games = Counter(trajectory_shot(str(number)) for number in range(6000))
    for position in range(3):
        counts = Counter(draw[position] for draw in draws)
        assert len(counts) == len(script_pool())
        assert all(abs(count * len(script_pool()) / 6000 - 1) < 0.25 for count in counts.values()), counts
    assert all(len(set(draw)) == 3 for draw in draws)
    assert len(set(draws)) > 1000
    assert len(games) == len(trajectory_pool())
    assert all(abs(count * len(trajectory_pool()) / 6000 - 1) < 0.1 for count in games.values()), games


def test_a_new_example_changes_only_the_prompts_that_show_it(monkeypatch):
    before = {str(number): script_shots(str(number)) for number in range(300)}
    fewer = {name: shot for name, shot in script_pool().items() if name != "sailor"}
    monkeypatch.setattr(shots, "script_pool", lambda: fewer)
    for persona_id, names in before.items():
        assert ("sailor" in names) or script_shots(persona_id) == names
    assert any("sailor" in names for names in before.values())


def test_all_calls_of_a_persona_begin_alike_and_those_of_others_differ():
    scripts = [script_messages(PERSONA)[0]["content"], script_retry_messages(PERSONA, "x")[0]["content"]]
    rules_end = scripts[0].index("\nNow write the script for this persona.")
    assert scripts[1].startswith(scripts[0][:rules_end])
    other = next(iter(script_pool().values())).script
    games = [
        trajectory_messages(PERSONA, script())[0]["content"],
        trajectory_messages(PERSONA, other)[0]["content"],
        continuation_messages(PERSONA, script(), [], "x")[0]["content"],
    ]
    rules_end = games[0].rindex("\n# Script\n")
    assert all(text.startswith(games[0][:rules_end]) for text in games)
    assert games[2].startswith(games[0])
    beginnings = {script_messages(Persona(id=str(n), text="x"))[0]["content"] for n in range(40)}
    assert len(beginnings) > 35


def test_the_pool_is_large_and_its_personas_differ():
    assert len(script_pool()) >= 9
    assert len(trajectory_pool()) >= 3
    assert len({shot.persona for shot in script_pool().values()}) == len(script_pool())
    assert len({shot.script for shot in trajectory_pool().values()}) == len(trajectory_pool())


@pytest.mark.parametrize("name", script_pool())
def test_an_example_script_keeps_the_rules_that_the_prompt_gives(name):
    example = script_pool()[name].script
    assert verify_script(example.model_dump_json()).problem is None
    assert 4 <= len(example.available_actions) <= 12
    assert len(example.model_dump_json()) <= 3500


@pytest.mark.parametrize("name", trajectory_pool())
def test_an_example_game_is_sound_and_errs_in_several_ways(name):
    shot = trajectory_pool()[name]
    text = turns_json(shot.turns)
    assert verify_trajectory(script_pool()[shot.script].script, text, DEMANDS).problem is None
    assert 12 <= len(shot.turns) <= 26
    assert len(text) <= 6500
    errors = [step.answer for step in steps(shot.turns) if step.answer.error]
    assert 2 <= len(errors) <= 4
    assert error_refine_turns(shot.turns) == len(errors), "every mistake is corrected at once"
    assert len({(e.parameter_error, e.logic_error, e.place_error) for e in errors}) >= 2
    assert len({turn.thought for turn in shot.turns}) == len(shot.turns)


@pytest.mark.parametrize("name", trajectory_pool())
def test_the_player_of_an_example_names_only_what_it_has_read(name):
    shot = trajectory_pool()[name]
    example = script_pool()[shot.script].script
    read = [example.goal, *(spec.description for spec in example.available_actions.values())]
    for turn in shot.turns:
        if isinstance(turn, DMTurn):
            read.append(turn.observation)
        elif (template := example.actions.matching(turn.action)) is not None:
            for value in values_of(example, template, turn):
                assert value.casefold() in "\n".join(read).casefold(), f"turn {turn.turn}: {value}"


def values_of(example: Script, template: str, turn: PlayerTurn) -> tuple[str, ...]:
    """The values with which an action fills its template."""
    parameters = example.available_actions[template].parameters
    parts = PLACEHOLDER.split(template)
    pattern = "".join(
        f"({'|'.join(map(re.escape, parameters[part]))})" if position % 2 else re.escape(part)
        for position, part in enumerate(parts)
    )
    found = re.fullmatch(pattern, turn.action)
    assert found is not None
    return found.groups()


def test_no_two_examples_are_alike():
    index = DuplicateIndex(0.5, three_word_runs)
    for name, shot in script_pool().items():
        assert index.add(name, script_text(shot.script)) == (None, None)
    games = DuplicateIndex(0.5, three_word_runs)
    for name, shot in trajectory_pool().items():
        said = [turn.observation if isinstance(turn, DMTurn) else turn.action for turn in shot.turns]
        assert games.add(name, "\n".join(said)) == (None, None)
    templates = [set(shot.script.available_actions) for shot in script_pool().values()]
    shared = [len(one & two) for number, one in enumerate(templates) for two in templates[:number]]
    assert max(shared) <= 2
