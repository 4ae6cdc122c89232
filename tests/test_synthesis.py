"""The first script and the first game of a sample, and the prompts that ask for them."""

import asyncio
import json

import pytest
from games import game, script, script_text
from scripted_teacher import PARAMS, ScriptedTeacher

from agentrefine.errors import UserError
from agentrefine.personas import Persona
from agentrefine.script import Script
from agentrefine.synthesis import by_sample, synthesise, synthesise_shard
from agentrefine.teacher.prompts import (
    continuation_messages,
    script_messages,
    script_retry_messages,
    trajectory_messages,
)
from agentrefine.trajectory import parse_turns

PERSONA = Persona(id="p1", text="A tester who pays $5 for {braces} and \\n.")


def test_a_sound_script_is_followed_by_a_game_of_it():
    teacher = ScriptedTeacher(script_text(), "anything")
    first, second = asyncio.run(synthesise(PERSONA, 3, teacher, PARAMS))
    assert (first.kind, first.call, first.sample, first.script_call, first.text) == (
        "script", 1, 3, None, script_text(),
    )  # fmt: skip
    assert (second.kind, second.call, second.script_call, second.text) == ("trajectory", 2, 1, "anything")
    assert (first.id, second.id, second.persona, second.teacher) == ("answer-1", "answer-2", PERSONA.text, "scripted")
    assert teacher.formats == ["json_object", "text"]
    assert len(set(teacher.draws)) == 2


def test_an_unsound_script_is_not_played():
    attempts = asyncio.run(synthesise(PERSONA, 0, ScriptedTeacher("no"), PARAMS))
    assert [attempt.text for attempt in attempts] == ["no"]


def test_a_shard_comes_back_in_its_order_and_tells_its_progress():
    personas = [Persona(id=str(number), text=f"Persona number <{number}>") for number in range(20)]
    teacher = ScriptedTeacher(by_persona={p.text: [f"said {p.id}"] for p in personas})
    done = []
    shard = asyncio.run(synthesise_shard([(p, 0) for p in personas], teacher, PARAMS, lambda: done.append(1)))
    assert [attempts[0].text for attempts in shard] == [f"said {number}" for number in range(20)]
    assert len(done) == 20
    flat = [attempt for attempts in shard for attempt in attempts]
    assert list(by_sample(flat)) == shard


def test_a_refusal_ends_the_shard_with_its_one_sentence():
    class Refusing(ScriptedTeacher):
        async def complete(self, messages, **settings):
            if "<3>" in messages[-1]["content"]:
                raise UserError("teacher: no.")
            await asyncio.sleep(60)
            raise AssertionError("the others are given up")

    personas = [(Persona(id=str(number), text=f"Persona <{number}>"), 0) for number in range(6)]
    with pytest.raises(UserError, match=r"^teacher: no\.$"):
        asyncio.run(synthesise_shard(personas, Refusing(), PARAMS))


def block(prompt: str, heading: str) -> str:
    return prompt.rpartition(f"\n# {heading}\n\n```json\n")[2].partition("\n```")[0]


def test_prompts_can_be_read_back_by_a_program():
    kept = parse_turns(json.dumps(game()[:5])).turns
    plain, retry = (
        script_messages(PERSONA)[-1]["content"],
        script_retry_messages(PERSONA, "It is\n\nbad: $x.")[-1]["content"],
    )
    assert plain.endswith(f"\nPersona: {PERSONA.text}")
    assert retry.endswith(f"\nPersona: {PERSONA.text}")
    assert "\nIt is bad: $x.\n" in retry.rpartition("# What to change")[2]
    assert retry.count(PERSONA.text) == 1

    prompt = trajectory_messages(script(), mistakes=3, max_turns=44)[-1]["content"]
    assert Script.model_validate_json(block(prompt, "Script")) == script()
    assert "at least 3 times" in prompt
    assert "under 44 turns" in prompt

    prompt = continuation_messages(script(), kept, "Turn 6\nis bad.")[-1]["content"]
    assert Script.model_validate_json(block(prompt, "Script")) == script()
    assert json.loads(block(prompt, "Turns so far")) == game()[:5]
    assert "\nTurn 6 is bad.\n" in prompt.rpartition("# What to change")[2]
    assert "your first turn is turn 6, of the Player" in prompt
    assert json.loads(block(continuation_messages(script(), [], "x")[-1]["content"], "Turns so far")) == []


def test_feedback_of_any_length_leaves_the_prompt_short():
    assert len(script_retry_messages(PERSONA, "x" * 10**6)[-1]["content"]) < 20_000
