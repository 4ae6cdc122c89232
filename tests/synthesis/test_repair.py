"""The loop that feeds verdicts back: every path, the counts, the budget."""

import asyncio
import json
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agentrefine.game.personas import Persona
from agentrefine.game.trajectory import DroppedSample, Trajectory
from agentrefine.synthesis.first_answers import synthesise, synthesise_shard
from agentrefine.synthesis.repair import refine, repair_shard
from agentrefine.verification.trajectory_rules import RULES
from tests.helpers.games import GOOD_STEPS, dm, game, game_text, player, script, script_text
from tests.helpers.scripted_teacher import PARAMS, ScriptedTeacher, params

PERSONA = Persona(id="p1", text="A tester.")
BAD_SCRIPT = script_text().replace('"lamp", ', '"sword", ', 1).replace('["lamp"', '["shield"')
UNFINISHED = game_text(completed=False)
TOO_CLEAN = game_text(GOOD_STEPS[1:])
SPOILED = json.dumps([*game()[:7], player(8, "go to cellar"), dm(9, "parameter"), *game()[9:]])


def run(*texts: str | None, budget: int = 4):
    """The end of a sample for which the teacher says `texts`, and the teacher."""
    teacher = ScriptedTeacher(*texts)
    settings_ = params(repair__call_budget=budget)

    async def work():
        return await refine(await synthesise(PERSONA, 0, teacher, settings_), teacher, settings_)

    return asyncio.run(work()), teacher


def rules(refined):
    return [verdict.rule for verdict in refined.verdicts]


def test_what_passes_at_first_needs_no_further_call():
    refined, teacher = run(script_text(), game_text())
    trajectory = refined.outcome
    assert isinstance(trajectory, Trajectory)
    assert rules(refined) == ["", ""]
    assert len(teacher.prompts) == 2
    assert [turn.model_dump() for turn in trajectory.turns] == game()
    assert trajectory.script == script()
    assert trajectory.calls == ["answer-1", "answer-2"]
    assert (trajectory.persona_id, trajectory.persona, trajectory.sample) == ("p1", "A tester.", 0)
    assert trajectory.teacher == "scripted"


def test_a_call_without_an_answer_costs_a_call_and_changes_nothing():
    refined, teacher = run(None, script_text(), SPOILED, None, json.dumps(game()[7:]), budget=5)
    assert rules(refined) == ["no_answer", "", "false_alarm", "no_answer", ""]
    assert [verdict.turns_kept for verdict in refined.verdicts] == [0, 0, 7, 7, 11]
    assert teacher.prompts[1] == teacher.prompts[0], "the script is asked for again, without feedback"
    assert teacher.prompts[4] == teacher.prompts[3], "the rest of the game is asked for again, with the same feedback"
    dropped, _ = run(None, None, None)
    assert isinstance(dropped.outcome, DroppedSample)
    assert dropped.outcome.rule == "no_answer"


def test_a_spoiled_game_is_continued_after_its_sound_turns():
    refined, teacher = run(script_text(), SPOILED, json.dumps(game()[7:]))
    assert rules(refined) == ["", "false_alarm", ""]
    assert [verdict.turns_kept for verdict in refined.verdicts] == [0, 7, 11]
    assert refined.outcome.calls == ["answer-1", "answer-2", "answer-3"]
    kept = [turn.model_dump_json() for turn in refined.outcome.turns[:7]]
    assert kept == [json.dumps(turn, separators=(",", ":")) for turn in game()[:7]], "unchanged, byte for byte"
    assert [turn.model_dump() for turn in refined.outcome.turns] == game()
    assert refined.verdicts[1].message in teacher.prompts[2]
    assert "your first turn is turn 8" in teacher.prompts[2]


def test_an_unfinished_game_is_continued_after_all_its_turns():
    rest = [player(12, "look"), dm(13, completed=True)]
    refined, _ = run(script_text(), UNFINISHED, json.dumps(rest))
    assert rules(refined) == ["", "unfinished", ""]
    assert [turn.model_dump() for turn in refined.outcome.turns] == game(completed=False) + rest


def test_a_game_that_is_too_clean_starts_again_and_the_old_answer_wrote_nothing():
    refined, teacher = run(script_text(), TOO_CLEAN, game_text())
    assert rules(refined) == ["", "too_few_refinements", ""]
    assert refined.outcome.calls == ["answer-1", "answer-3"]
    assert "```json\n[]\n```" in teacher.prompts[2]


def test_a_rejected_script_is_written_again_with_the_reason():
    refined, teacher = run(BAD_SCRIPT, script_text(), game_text())
    assert rules(refined) == ["unknown_value", "", ""]
    assert refined.outcome.calls == ["answer-2", "answer-3"]
    assert "shield" in teacher.prompts[1].rpartition("# What to change")[2]
    assert refined.attempts[2].script_call == 2
    assert teacher.asked == [("script", "script"), ("script", "repair"), ("trajectory", "repair")]
    assert len(set(teacher.draws)) == 3


def test_a_game_may_be_written_by_several_answers():
    first, second, third = game()[:5], game()[5:9], game()[9:]
    refined, _ = run(script_text(), json.dumps(first), json.dumps(second), json.dumps(third))
    assert rules(refined) == ["", "unfinished", "unfinished", ""]
    assert refined.outcome.calls == ["answer-1", "answer-2", "answer-3", "answer-4"]
    assert [turn.model_dump() for turn in refined.outcome.turns] == game()


def test_a_sample_that_does_not_pass_is_dropped_with_its_last_reason():
    refined, teacher = run(script_text(), "no", SPOILED, UNFINISHED)
    assert isinstance(refined.outcome, DroppedSample)
    assert rules(refined) == ["", "not_json", "false_alarm", "unfinished"]
    assert refined.outcome.rule == "unfinished"
    assert refined.outcome.message == refined.verdicts[-1].message
    assert (refined.outcome.persona_id, refined.outcome.persona, refined.outcome.sample) == ("p1", "A tester.", 0)
    assert refined.outcome.calls == len(teacher.prompts) == 4


def test_no_call_is_spent_on_a_script_that_could_not_be_played():
    refined, teacher = run("no", "no", "no", script_text())
    assert (refined.outcome.rule, refined.outcome.calls) == ("not_json", 3)
    assert len(teacher.prompts) == 3


@pytest.mark.parametrize("budget", [2, 3, 6])
def test_the_budget_bounds_the_calls(budget):
    refined, teacher = run(script_text(), *["no"] * 10, budget=budget)
    assert len(teacher.prompts) == refined.outcome.calls == len(refined.attempts) == budget


def test_the_same_answers_give_the_same_record():
    one, _ = run(script_text(), SPOILED, json.dumps(game()[7:]))
    two, _ = run(script_text(), SPOILED, json.dumps(game()[7:]))
    assert one.outcome.model_dump_json() == two.outcome.model_dump_json()
    assert Trajectory.model_validate_json(one.outcome.model_dump_json()) == two.outcome


_SAYINGS = st.sampled_from(
    [script_text(), BAD_SCRIPT, game_text(), UNFINISHED, TOO_CLEAN, SPOILED, "no", "", game_text()[:-90],
     json.dumps(game()[7:]), json.dumps(game()[5:])]
)  # fmt: skip


@settings(max_examples=60, deadline=None)
@given(st.lists(st.lists(_SAYINGS, min_size=6, max_size=6), min_size=1, max_size=6), st.integers(2, 5))
def test_every_sample_ends_kept_or_dropped_and_the_counts_add_up(sayings, budget):
    personas = [Persona(id=str(number), text=f"Persona <{number}>") for number in range(len(sayings))]
    settings_ = params(repair__call_budget=budget)

    async def one(persona, said):
        teacher = ScriptedTeacher(*said)
        attempts = await synthesise(persona, 0, teacher, settings_)
        return (await refine(attempts, teacher, settings_)), teacher

    async def work():
        return [await one(persona, said) for persona, said in zip(personas, sayings, strict=True)]

    passed, findings, calls = 0, Counter(), 0
    for refined, teacher in asyncio.run(work()):
        assert len(teacher.prompts) == len(refined.attempts) == len(refined.verdicts) <= budget
        assert [attempt.call for attempt in refined.attempts] == list(range(1, len(refined.attempts) + 1))
        assert refined.verdicts[-1].passed == isinstance(refined.outcome, Trajectory)
        assert set(rules(refined)) <= {"", *RULES}
        passed += sum(rule == "" for rule in rules(refined))
        findings.update(filter(None, rules(refined)))
        calls += len(teacher.prompts)
        if isinstance(refined.outcome, Trajectory):
            assert set(refined.outcome.calls) <= {attempt.id for attempt in refined.attempts}
            assert refined.outcome.turns[-1].task_completed
        else:
            assert refined.outcome.rule == rules(refined)[-1] != ""
    assert passed + findings.total() == calls


def test_a_shard_ends_in_its_order():
    personas = [Persona(id=str(number), text=f"Persona <{number}>") for number in range(8)]
    first = ScriptedTeacher(by_persona={p.text: [script_text()] for p in personas})

    async def work():
        samples = await synthesise_shard([(p, 0) for p in personas], first, PARAMS)
        return await repair_shard(samples, ScriptedTeacher(*[game_text()] * 8), PARAMS)

    first._texts = iter([TOO_CLEAN] * 8)
    refined = asyncio.run(work())
    assert [r.outcome.persona_id for r in refined] == [p.id for p in personas]
    assert all(isinstance(r.outcome, Trajectory) and len(r.attempts) == 3 for r in refined)
    assert len({r.outcome.id for r in refined}) == 8
