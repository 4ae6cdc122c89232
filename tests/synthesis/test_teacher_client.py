"""The teacher's client against a real HTTP server: what goes out, to whom, and what the journal answers."""

import asyncio
import sqlite3
import time
from pathlib import Path

import pytest
from aiohttp import web

from agentrefine.llm.completion import REFUSED
from agentrefine.llm.journal import Journal
from agentrefine.synthesis.client import JournaledTeacher, run_numbers
from tests.helpers.asking import SECRET, ask, ask_with, complete, questions, settings
from tests.helpers.chat_server import ChatServer, answer, error
from tests.helpers.errors import misfit, refused


@pytest.fixture(autouse=True)
def _key(monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", SECRET)


@pytest.fixture
def journal(tmp_path):
    with Journal(tmp_path / "journal" / "answers.sqlite") as opened:
        yield opened


def test_an_answer_comes_over_http_and_is_on_disk(journal):
    with ChatServer(lambda number, request: answer("good day")) as server:
        asked = ask(server, journal, [{"sample": 4}], temperature=0.5, max_tokens=77)
    (completion,) = asked.completions
    assert (completion.text, completion.finish_reason, completion.model) == ("good day", "stop", "m")
    assert (completion.usage.prompt_tokens, completion.usage.completion_tokens) == (7, 5)
    assert server.requests == [
        {
            "model": "m",
            "messages": [{"role": "user", "content": "hi"}],
            "temperature": 0.5,
            "max_tokens": 77,
            "seed": 4,
        }
    ]
    assert server.keys == [f"Bearer {SECRET}"]
    assert (asked.paid, asked.replayed) == (1, 0)
    with sqlite3.connect(journal.path) as other:
        assert other.execute("SELECT text FROM answers").fetchall() == [("good day",)]


def test_a_rerun_pays_nothing_and_gets_the_same(journal):
    with ChatServer(lambda number, request: answer(f"answer {number}")) as server:
        first = ask(server, journal, questions(10))
        second = ask(server, journal, questions(10))
        assert len(server.requests) == 10
    assert first.completions == second.completions
    assert len({completion.id for completion in first.completions}) == 10
    assert (second.paid, second.replayed) == (0, 10)


def test_how_calls_are_sent_changes_no_key(journal):
    with ChatServer(lambda number, request: answer(f"answer {number}")) as server:
        ask(server, journal, questions(4))
        other_ways = {
            "timeout_seconds": 9.0,
            "max_retries": 0,
            "concurrency": 3,
            "requests_per_minute": 6000,
            "tokens_per_minute": 600_000,
            "processes": 2,
        }
        assert ask(server, journal, questions(4), **other_ways).paid == 0
        assert ask(server, journal, questions(4), transport="batch").paid == 0
    assert len(server.requests) == 4


def test_no_key_is_stored(journal):
    with ChatServer(lambda number, request: answer()) as server:
        ask(server, journal)
    journal.close()
    for path in journal.path.parent.iterdir():
        assert SECRET.encode() not in path.read_bytes()


@pytest.mark.parametrize(
    ("finish_reason", "tokens", "asked_first", "asked_then", "reused"),
    [
        ("stop", 50, 100, 100, True),
        ("stop", 50, 100, 200, True),
        ("stop", 50, 100, 50, True),
        ("stop", 50, 100, 49, False),
        ("length", 100, 100, 100, True),
        ("length", 100, 100, 200, False),
        ("length", 100, 100, 60, False),
        ("stop", 0, 100, 100, True),
        ("stop", 0, 100, 99, False),
        ("stop", 0, 100, 150, True),
    ],
)
def test_an_answer_is_reused_under_the_limits_that_could_have_given_it(
    journal, finish_reason, tokens, asked_first, asked_then, reused
):
    with ChatServer(lambda number, request: answer("x", finish_reason, tokens)) as server:
        (first,) = ask(server, journal, max_tokens=asked_first).completions
        (then,) = ask(server, journal, max_tokens=asked_then).completions
    assert len(server.requests) == (1 if reused else 2)
    assert (first.id == then.id) == reused


def test_each_role_has_its_own_endpoint_model_temperature_and_key(journal, monkeypatch):
    monkeypatch.setenv("OTHER_KEY", "sk-other")
    with (
        ChatServer(lambda number, request: answer("one")) as one,
        ChatServer(lambda number, request: answer("other")) as other,
    ):
        asked = ask(
            one,
            journal,
            [{"role": role} for role in ("script", "trajectory", "repair")],
            trajectory={"model": "m2", "temperature": 0.25, "max_tokens": 33},
            repair={"base_url": other.base_url, "api_key_env": "OTHER_KEY", "model": "m3"},
        )
    assert asked.texts == ["one", "one", "other"]
    sent = {request["model"]: (request["temperature"], request["max_tokens"]) for request in one.requests}
    assert sent == {"m": (1.0, 100), "m2": (0.25, 33)}
    assert [request["model"] for request in other.requests] == ["m3"]
    assert (set(one.keys), other.keys) == ({f"Bearer {SECRET}"}, ["Bearer sk-other"])
    assert [completion.model for completion in asked.completions] == ["m", "m2", "m3"]


def test_another_endpoint_without_a_key_of_its_own_is_refused():
    with misfit(missing="api_key_env"):
        settings("http://127.0.0.1:1/v1", repair={"base_url": "https://elsewhere.example.org/v1"})


def test_a_redirect_takes_the_key_to_no_other_host(journal):
    with ChatServer(lambda number, request: answer("from elsewhere")) as elsewhere:

        def redirect(number, request):
            return web.Response(status=307, headers={"Location": f"{elsewhere.base_url}/chat/completions"})

        with ChatServer(redirect) as server:
            ask(server, journal)
    assert SECRET in server.keys[0]
    assert [key for key in elsewhere.keys if SECRET in key] == []


def test_a_missing_key_is_said_before_any_call(journal, monkeypatch):
    monkeypatch.delenv("OPENAI_API_KEY")
    with refused("key_missing", variable="OPENAI_API_KEY"):
        ask("https://api.example.org/v1", journal)
    with ChatServer(lambda number, request: answer()) as server:
        ask(server, journal)
    assert server.keys == ["Bearer none"]


@pytest.mark.parametrize(("content", "text"), [(None, ""), ("\ud83d!", "?!"), ("\x00 nul", "\x00 nul")])
def test_odd_answers_are_kept_as_text(journal, content, text):
    with ChatServer(lambda number, request: answer(content, finish_reason=None)) as server:
        first = ask(server, journal)
        again = ask(server, journal)
    assert first.completions == again.completions
    (completion,) = first.completions
    assert (completion.text, completion.finish_reason) == (text, "unknown")


@pytest.mark.parametrize(("status", "code"), [(400, None), (422, "400"), (451, None)])
def test_a_refused_prompt_is_an_empty_answer_of_one_sample(journal, status, code):
    def reply(number, request):
        return error(status, code=code) if request["seed"] == 1 else answer()

    with ChatServer(reply) as server:
        asked = ask(server, journal, questions(3))
        again = ask(server, journal, questions(3))
    assert asked.texts == again.texts == ["hello", "", "hello"]
    assert asked.completions[1].finish_reason == REFUSED
    health_checks = [request for request in server.requests if request["messages"][0]["content"] == "Hello!"]
    assert (len(server.requests), len(health_checks)) == (4, 1)


def test_an_endpoint_that_refuses_every_prompt_ends_the_run(journal):
    def reply(number, request):
        return answer() if request["messages"][0]["content"] == "Hello!" else error(400, "no")

    with ChatServer(reply) as server, refused("endpoint_refused", status=400, quoted="400: no"):
        ask(server, journal, questions(60))


def test_extra_keys_go_into_the_body_and_null_leaves_one_out(journal):
    with ChatServer(lambda number, request: answer()) as server:
        ask(server, journal, script={"extra_body": {"reasoning_effort": "low", "seed": None}})
        ask(server, journal)
    first, second = server.requests
    assert first["reasoning_effort"] == "low"
    assert "seed" not in first
    assert "seed" in second, "another body is another question"


def test_answers_in_flight_are_kept_when_the_work_is_given_up(journal, tmp_path):
    """One call is refused for good while others are out: those come back and are journaled, and no more go out."""

    def reply(number, request):
        if request["seed"] == 0:
            return error(401)
        return {"delay": 0.6, **answer(f"late {request['seed']}")}

    with ChatServer(reply) as server:
        params = settings(server, concurrency=4)

        async def work() -> None:
            with run_numbers(tmp_path / "numbers", params) as numbers:
                async with JournaledTeacher(params, journal, numbers) as teacher, asyncio.TaskGroup() as group:
                    for sample in range(30):
                        group.create_task(complete(teacher, sample=sample))

        with pytest.raises(BaseExceptionGroup) as caught:
            asyncio.run(work())
        assert "key_refused" in {getattr(error, "code", "") for error in caught.value.exceptions}
        answered = [request["seed"] for request in server.requests if request["seed"]]
        assert 3 <= len(answered) <= 4
        assert len(server.requests) < 6
        kept = ask_with(params, journal, tmp_path / "later", [{"sample": seed} for seed in answered])
    assert (kept.paid, kept.replayed) == (0, len(answered))


def test_the_work_given_up_does_not_wait_for_calls_that_are_not_out(journal, tmp_path):
    def reply(number, request):
        return error(401) if request["seed"] == 0 else error(429, retry_after="600")

    with ChatServer(reply) as server:
        started = time.monotonic()
        with refused("key_refused", variable="OPENAI_API_KEY"):
            ask(server, journal, questions(8)[::-1], concurrency=8)
        assert time.monotonic() - started < 5


def test_a_call_given_up_while_it_fails_is_not_tried_again(journal, tmp_path):
    def reply(number, request):
        return error(401) if request["seed"] == 0 else {"delay": 0.5, "choices": []}

    with ChatServer(reply) as server:
        started = time.monotonic()
        with refused("key_refused", variable="OPENAI_API_KEY"):
            ask(server, journal, questions(5), max_retries=6)
        assert time.monotonic() - started < 4
        assert len(server.requests) == 5


def test_no_call_goes_out_when_the_run_is_ending(tmp_path: Path) -> None:
    with ChatServer(lambda number, request: answer()) as server, Journal(tmp_path / "answers.sqlite") as journal:
        params = settings(server)
        with run_numbers(tmp_path / "numbers", params) as numbers:
            numbers["stopped"] = 1.0
        with refused("stopped"):
            ask_with(params, journal, tmp_path / "numbers", questions(3))
    assert server.requests == []
