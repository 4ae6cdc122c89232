"""The first script and the first game of a sample."""

import asyncio

from agentrefine.errors import UserError
from agentrefine.game.personas import Persona
from agentrefine.game.verdict import by_sample
from agentrefine.synthesis.first_answers import synthesise, synthesise_shard
from tests.helpers.errors import refused
from tests.helpers.games import script_text
from tests.helpers.scripted_teacher import PARAMS, ScriptedTeacher

PERSONA = Persona(id="p1", text="A tester who pays $5 for {braces} and \\n.")


def test_a_sound_script_is_followed_by_a_game_of_it():
    teacher = ScriptedTeacher(script_text(), "anything")
    first, second = asyncio.run(synthesise(PERSONA, 3, teacher, PARAMS))
    assert (first.kind, first.call, first.sample, first.script_call, first.text) == (
        "script", 1, 3, None, script_text(),
    )  # fmt: skip
    assert (second.kind, second.call, second.script_call, second.text) == ("trajectory", 2, 1, "anything")
    assert (first.id, second.id, second.persona, second.teacher) == ("answer-1", "answer-2", PERSONA.text, "scripted")
    assert teacher.asked == [("script", "script"), ("trajectory", "trajectory")]
    assert len(set(teacher.draws)) == 2


def test_an_unsound_script_is_not_played():
    attempts = asyncio.run(synthesise(PERSONA, 0, ScriptedTeacher("no"), PARAMS))
    assert [attempt.text for attempt in attempts] == ["no"]


def test_a_shard_comes_back_in_its_order_and_reports_its_progress():
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
                raise UserError("endpoint_refused", "teacher: no.")
            await asyncio.sleep(60)
            raise AssertionError("the others are given up")

    personas = [(Persona(id=str(number), text=f"Persona <{number}>"), 0) for number in range(6)]
    with refused("endpoint_refused") as caught:
        asyncio.run(synthesise_shard(personas, Refusing(), PARAMS))
    assert str(caught.value) == "teacher: no."
