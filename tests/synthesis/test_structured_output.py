"""JSON Schema, JSON mode or text: found out by a probe, reported where it is not honoured, shared by the run."""

import json
import logging
from typing import Any

import pytest
from jsonschema import Draft202012Validator

from agentrefine.files import packaged_text
from agentrefine.llm import endpoint
from agentrefine.synthesis.prompts import script_pool, trajectory_pool
from agentrefine.verification.reading import list_elements
from tests.helpers.asking import SECRET, ask, ask_with, price_list, questions, settings
from tests.helpers.chat_server import ChatServer, answer, error
from tests.helpers.errors import refused
from tests.helpers.games import game

FRUIT = json.dumps({"answer": "apple"})
HONOURED = json.dumps({"answer": "agentrefine"})


@pytest.fixture(autouse=True)
def _key(monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", SECRET)
    monkeypatch.setattr(endpoint, "_FIRST_BACKOFF_SECONDS", 0.02)


def form(request: dict[str, Any]) -> str:
    return request.get("response_format", {"type": "text"})["type"]


def is_probe(request: dict[str, Any]) -> bool:
    return "fruit" in request["messages"][0]["content"]


def server_that(json_schema: str, json_object: str) -> ChatServer:
    """Each form is honoured, ignored, refused with 400 or 422, or fails with 500."""

    def reply(number, request):
        does = {"json_schema": json_schema, "json_object": json_object, "text": "honours"}[form(request)]
        if does.isdecimal():
            return error(int(does), f"response_format {form(request)} is not supported")
        if not is_probe(request):
            return answer()
        honours = does == "honours"
        return answer(HONOURED if honours and form(request) == "json_schema" else FRUIT if honours else "An apple!")

    return ChatServer(reply)


KINDS = [{"kind": "script", "sample": 0}, {"kind": "trajectory", "sample": 1}]


@pytest.mark.parametrize(
    ("json_schema", "json_object", "script", "trajectory", "warnings"),
    [
        ("honours", "honours", "json_schema", "json_schema", 0),
        ("400", "honours", "json_object", "text", 1),
        ("422", "honours", "json_object", "text", 1),
        ("500", "honours", "json_object", "text", 1),
        ("ignores", "honours", "json_object", "text", 1),
        ("ignores", "ignores", "text", "text", 2),
        ("400", "422", "text", "text", 2),
    ],
)
def test_auto_takes_the_first_form_that_is_honoured_and_reports_the_others(
    journal, caplog, json_schema, json_object, script, trajectory, warnings
):
    with server_that(json_schema, json_object) as server, caplog.at_level(logging.WARNING, "agentrefine"):
        asked = ask(server, journal, KINDS, structured_output="auto")
    assert asked.texts == ["hello", "hello"]
    sent = {request["seed"]: form(request) for request in server.requests if not is_probe(request)}
    assert sent == {0: script, 1: trajectory}
    reports = [record.getMessage() for record in caplog.records if "is not used" in record.getMessage()]
    assert len(reports) == warnings


@pytest.mark.parametrize("wanted", ["json_schema", "json_object"])
@pytest.mark.parametrize(("does", "fault"), [("400", "refused"), ("ignores", "ignored"), ("500", "fails")])
def test_a_form_that_is_demanded_and_not_honoured_is_refused_without_the_key(journal, wanted, does, fault):
    expected = refused("form_not_honoured", key="teacher.structured_output", form=wanted, name="m", fault=fault)
    with server_that(does, does) as server, expected as caught:
        ask(server, journal, KINDS, structured_output=wanted)
    assert SECRET not in f"{caught.value} {caught.value.values}"
    assert all(is_probe(request) or "Hello" in str(request["messages"]) for request in server.requests)


def test_text_is_never_probed(journal):
    with server_that("honours", "honours") as server:
        ask(server, journal, KINDS, structured_output="text")
    assert [form(request) for request in server.requests] == ["text", "text"]


def test_the_probe_is_sent_once_and_never_when_the_journal_has_all(journal):
    with server_that("honours", "honours") as server:
        ask(server, journal, questions(20), structured_output="auto")
        assert [is_probe(request) for request in server.requests].count(True) == 1
        before = len(server.requests)
        assert ask(server, journal, questions(20), structured_output="auto").replayed == 20
        assert len(server.requests) == before


def test_the_probe_is_sent_once_in_a_run_of_many_shards(journal, tmp_path):
    with server_that("400", "honours") as server:
        params = settings(server, structured_output="auto")
        for shard in range(4):
            asked = questions(3, f"shard {shard}")
            ask_with(params, journal, tmp_path / "numbers", asked, keep=True)
    assert [is_probe(request) for request in server.requests].count(True) == 2


def test_models_of_one_endpoint_are_probed_each(journal):
    def reply(number, request):
        if is_probe(request):
            return answer(HONOURED) if request["model"] == "new" else error(400, "no response_format")
        return answer()

    with ChatServer(reply) as server:
        asked = [{"role": "script", "sample": 0}, {"role": "trajectory", "sample": 1}, {"role": "repair"}]
        ask(
            server,
            journal,
            asked,
            structured_output="auto",
            trajectory={"model": "new"},
            repair={"structured_output": "text"},
        )
    sent = {(request["model"], form(request)) for request in server.requests if not is_probe(request)}
    assert sent == {("m", "text"), ("new", "json_schema")}


def test_what_a_probe_takes_is_counted(journal, tmp_path):
    prices = price_list(tmp_path, m={"input": 1_000_000, "output": 0})
    with server_that("honours", "honours") as server:
        asked = ask(server, journal, structured_output="auto", prices=prices)
    assert len(server.requests) == 2
    assert asked.numbers["spent"] == pytest.approx(14.0)


def validator(name: str) -> Draft202012Validator:
    schema = json.loads(packaged_text("agentrefine.synthesis", "prompts", "schemas", f"{name}.json"))["schema"]
    Draft202012Validator.check_schema(schema)
    return Draft202012Validator(schema)


def test_the_schema_of_scripts_takes_all_our_examples_and_refuses_broken_ones():
    schema = validator("script")
    for shot in script_pool().values():
        assert schema.is_valid(shot.script.model_dump(mode="json"))
    value = next(iter(script_pool().values())).script.model_dump(mode="json")
    assert not schema.is_valid({key: part for key, part in value.items() if key != "goal"})
    assert not schema.is_valid(value | {"available_actions": {"go": {"description": "x"}}})


def test_the_schema_of_games_takes_all_our_examples_and_the_parser_reads_its_form():
    schema = validator("trajectory")
    for shot in trajectory_pool().values():
        assert schema.is_valid({"turns": [turn.model_dump(mode="json") for turn in shot.turns]})
    assert schema.is_valid({"turns": game()})
    assert list(list_elements(json.dumps({"turns": game()}))) == game()
    assert not schema.is_valid({"turns": [game()[0] | {"task_completed": "yes"}]})
    assert not schema.is_valid(game())


def test_strict_schemas_keep_to_what_strict_mode_allows():
    """Every object names all its keys as required and allows no others (OpenAI's structured outputs)."""

    def check(part: object) -> None:
        if isinstance(part, dict):
            if part.get("type") == "object":
                assert part["additionalProperties"] is False
                assert sorted(part["required"]) == sorted(part["properties"])
            for inner in part.values():
                check(inner)
        elif isinstance(part, list):
            for inner in part:
                check(inner)

    for name in ("probe", "script", "trajectory"):
        value = json.loads(packaged_text("agentrefine.synthesis", "prompts", "schemas", f"{name}.json"))
        assert value["name"] == name
        if value["strict"]:
            check(value["schema"])
