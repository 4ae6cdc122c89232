"""`response_format` of the simulated teacher: refused, or honoured, but never overlooked."""

import json
from collections.abc import Iterator
from typing import Any

import openai
import pytest

from agentrefine.simulation.answers import REFUSAL
from agentrefine.simulation.process import simulated_teacher
from agentrefine.synthesis.prompts import script_messages, trajectory_messages
from agentrefine.verification.trajectory_rules import verify_trajectory
from tests.helpers.simulated_games import BAKER, FAULTLESS, VERIFICATION, script_for

GAME = script_for("fetch")
TURNS_SCHEMA = {"type": "object", "properties": {"turns": {"type": "array", "items": {"type": "object"}}}}


def schema(definition: dict[str, Any]) -> dict[str, Any]:
    return {"type": "json_schema", "json_schema": {"name": "answer", "strict": True, "schema": definition}}


@pytest.fixture(scope="module")
def plain() -> Iterator[openai.OpenAI]:
    with simulated_teacher(FAULTLESS) as url, openai.OpenAI(base_url=url, api_key="none", max_retries=0) as client:
        yield client


@pytest.fixture(scope="module")
def structured() -> Iterator[openai.OpenAI]:
    with (
        simulated_teacher(FAULTLESS, "--structured") as url,
        openai.OpenAI(base_url=url, api_key="none", max_retries=0) as client,
    ):
        yield client


def ask(client: openai.OpenAI, messages: Any, seed: int = 0, **settings: Any) -> str:
    completion = client.chat.completions.create(model="offline-teacher", messages=messages, seed=seed, **settings)
    return completion.choices[0].message.content or ""


@pytest.mark.parametrize("form", [{"type": "json_object"}, schema(TURNS_SCHEMA)])
def test_a_server_of_plain_text_refuses_other_forms_and_names_the_key(plain: openai.OpenAI, form: dict[str, Any]):
    with pytest.raises(openai.BadRequestError, match="plain text only") as refused:
        ask(plain, script_messages(BAKER), response_format=form)
    assert refused.value.param == "response_format"
    assert refused.value.code == "unsupported_response_format"


def test_text_is_a_form_that_every_server_answers(plain: openai.OpenAI):
    text = ask(plain, script_messages(BAKER), response_format={"type": "text"})
    assert text == ask(plain, script_messages(BAKER))


@pytest.mark.parametrize("form", [{"type": "json_object"}, schema({"type": "object", "properties": {"goal": {}}})])
def test_a_script_in_json_mode_stands_without_markdown(
    plain: openai.OpenAI, structured: openai.OpenAI, form: dict[str, Any]
):
    fenced = 0
    for seed in range(20):
        text = ask(plain, script_messages(BAKER), seed)
        fenced += text.startswith("```")
        bare = text.removeprefix("```json\n").removesuffix("\n```")
        assert ask(structured, script_messages(BAKER), seed, response_format=form) == bare
    assert fenced > 0


def test_a_game_becomes_an_object_where_the_schema_has_turns(structured: openai.OpenAI):
    for seed in range(10):
        text = ask(structured, trajectory_messages(BAKER, GAME), seed, response_format=schema(TURNS_SCHEMA))
        answer = json.loads(text)
        assert list(answer) == ["turns"]
        assert verify_trajectory(GAME, json.dumps(answer["turns"]), VERIFICATION).problem is None


def test_a_game_stays_a_list_where_nothing_else_is_wanted(structured: openai.OpenAI):
    text = ask(structured, trajectory_messages(BAKER, GAME), response_format={"type": "json_object"})
    assert isinstance(json.loads(text), list)


def test_bad_games_stay_bad_in_a_schema():
    params = FAULTLESS.model_copy(update={"trajectory_faults": 1.0})
    with (
        simulated_teacher(params, "--structured") as url,
        openai.OpenAI(base_url=url, api_key="none") as client,
    ):
        texts = [
            ask(client, trajectory_messages(BAKER, GAME), seed, response_format=schema(TURNS_SCHEMA))
            for seed in range(60)
        ]
    cut_off = [text for text in texts if text.startswith('{"turns": [') and not text.endswith("]}")]
    prose = [text for text in texts if text.startswith("DM:")]
    assert cut_off
    assert prose


def test_a_schema_of_single_values_is_answered_with_them(structured: openai.OpenAI):
    definition = {
        "type": "object",
        "properties": {"ready": {"const": True}, "word": {"type": "string", "enum": ["yes"]}},
        "required": ["ready", "word"],
        "additionalProperties": False,
    }
    text = ask(structured, [{"role": "user", "content": "Are you there?"}], response_format=schema(definition))
    assert json.loads(text) == {"ready": True, "word": "yes"}


def test_a_refusal_under_a_schema_stands_in_its_own_key(structured: openai.OpenAI):
    completion = structured.chat.completions.create(
        model="offline-teacher",
        messages=[{"role": "user", "content": "What is the capital of France?"}],
        response_format=schema(TURNS_SCHEMA),  # type: ignore[arg-type]
    )
    assert completion.choices[0].message.content is None
    assert completion.choices[0].message.refusal == REFUSAL


@pytest.mark.parametrize(
    "form",
    [
        {"type": "json_schema"},
        {"type": "grammar"},
        {"type": "json_object", "json_schema": {"name": "x", "schema": TURNS_SCHEMA}},
        schema({"type": "array", "items": {}}),
        schema({"type": "object"}),
    ],
)
def test_a_form_that_cannot_be_honoured_is_refused(structured: openai.OpenAI, form: dict[str, Any]):
    with pytest.raises(openai.BadRequestError, match="response_format"):
        ask(structured, script_messages(BAKER), response_format=form)
