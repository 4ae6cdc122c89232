"""The teacher's client against a real HTTP server, and its journal."""

import asyncio
import logging
import multiprocessing
import sqlite3
import time
from pathlib import Path

import pytest
from aiohttp import web
from chat_server import ChatServer, answer, error
from scripted_teacher import PARAMS

from agentrefine.errors import UserError
from agentrefine.teacher.client import OpenAITeacher, offline_endpoint
from agentrefine.teacher.completion import Usage
from agentrefine.teacher.journal import Journal, Question

SECRET = "sk-very-secret-0123456789"


@pytest.fixture(autouse=True)
def _key(monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", SECRET)


@pytest.fixture
def journal(tmp_path):
    with Journal(tmp_path / "journal" / "answers.sqlite") as opened:
        yield opened


def settings(base_url, **changes):
    values = {"base_url": base_url, "model": "m", "max_retries": 2, "timeout_seconds": 5.0} | changes
    return PARAMS.teacher.model_copy(update=values)


def ask(server, journal, questions, **changes):
    """The answers to many questions asked at once: dicts with keys text, max_tokens, sample, response_format."""

    async def work():
        base_url = server if isinstance(server, str) else server.base_url
        async with OpenAITeacher(settings(base_url, **changes), journal, base_url=base_url) as teacher:
            calls = (
                teacher.complete(
                    [{"role": "user", "content": question.get("text", "hi")}],
                    temperature=1.0,
                    max_tokens=question.get("max_tokens", 100),
                    response_format=question.get("response_format", "text"),
                    sample=question.get("sample", 0),
                )
                for question in questions
            )
            return await asyncio.gather(*calls), teacher

    return asyncio.run(work())


def test_an_answer_comes_over_http_and_is_on_disk(journal):
    with ChatServer(lambda number, request: answer("good day")) as server:
        (completion,), teacher = ask(server, journal, [{"sample": 4, "response_format": "json_object"}])
    assert (completion.text, completion.finish_reason) == ("good day", "stop")
    assert (completion.usage.prompt_tokens, completion.usage.completion_tokens) == (7, 5)
    (request,) = server.requests
    assert (request["model"], request["seed"], request["max_tokens"]) == ("m", 4, 100)
    assert request["response_format"] == {"type": "json_object"}
    assert server.keys == [f"Bearer {SECRET}"]
    assert (teacher.paid, teacher.replayed) == (1, 0)
    with sqlite3.connect(journal.path) as other:
        assert other.execute("SELECT text FROM answers").fetchall() == [("good day",)]


def test_a_rerun_pays_nothing_and_gets_the_same(journal):
    with ChatServer(lambda number, request: answer(f"answer {number}")) as server:
        questions = [{"sample": sample} for sample in range(10)]
        first, _ = ask(server, journal, questions)
        second, teacher = ask(server, journal, questions)
        assert len(server.requests) == 10
    assert first == second
    assert len({completion.id for completion in first}) == 10
    assert (teacher.paid, teacher.replayed) == (0, 10)


def test_no_key_is_stored(journal):
    with ChatServer(lambda number, request: answer()) as server:
        ask(server, journal, [{}])
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
        (first,), _ = ask(server, journal, [{"max_tokens": asked_first}])
        (then,), _ = ask(server, journal, [{"max_tokens": asked_then}])
    assert len(server.requests) == (1 if reused else 2)
    assert (first.id == then.id) == reused


def test_the_key_covers_all_that_can_change_an_answer_and_nothing_else():
    base = Question("http://a/v1", "m", [{"role": "user", "content": "hi"}], 1.0, "text", 0)
    others = [
        base._replace(endpoint="http://b/v1"),
        base._replace(model="n"),
        base._replace(messages=[{"role": "user", "content": "hi "}]),
        base._replace(messages=[{"role": "system", "content": "hi"}]),
        base._replace(temperature=0.5),
        base._replace(response_format="json_object"),
        base._replace(sample=1),
    ]
    assert len({question.key() for question in [base, *others]}) == 8
    assert base._replace(messages=[{"content": "hi", "role": "user"}]).key() == base.key()
    worse = PARAMS.teacher.model_copy(
        update={"offline": PARAMS.teacher.offline.model_copy(update={"script_faults": 0.9})}
    )
    names = [offline_endpoint(params, version) for params in (PARAMS.teacher, worse) for version in "12"]
    assert len(set(names)) == 4


def test_too_many_requests_and_failures_are_waited_out(journal):
    replies = {1: error(429, retry_after="1"), 2: error(500), 3: answer("at last")}
    with ChatServer(lambda number, request: replies[number]) as server:
        started = time.monotonic()
        (completion,), _ = ask(server, journal, [{}])
        waited = time.monotonic() - started
    assert completion.text == "at last"
    assert len(server.requests) == 3
    assert waited >= 1.0


def test_broken_connections_are_tried_again(journal):
    with ChatServer(lambda number, request: "reset" if number < 3 else answer("at last")) as server:
        (completion,), _ = ask(server, journal, [{}])
    assert completion.text == "at last"


def test_answers_without_a_choice_are_tried_again(journal):
    with ChatServer(lambda number, request: {"error": "busy"} if number < 2 else answer("at last")) as server:
        (completion,), _ = ask(server, journal, [{}])
    assert completion.text == "at last"


@pytest.mark.parametrize(
    ("reply", "sentence"),
    [
        (lambda: error(401, f"Incorrect key {SECRET}"), r"refuses the key in \$OPENAI_API_KEY"),
        (lambda: error(403), "refuses the key"),
        (lambda: error(404), "knows no model 'm'"),
        (lambda: error(400, f"messages too long {SECRET}"), r"refuses the call \(.*too long"),
        (lambda: error(422), "refuses the call"),
        (lambda: error(429), "rate limit"),
        (lambda: error(503), "still fails after 1 retries"),
        (lambda: "reset", "cannot be reached"),
        (lambda: "hang", "no answer within 0.3 seconds"),
        (lambda: web.Response(text="<html>hello</html>", content_type="text/html"), "answers without any choice"),
        (lambda: web.Response(text="{{{", content_type="application/json"), "answers without any choice"),
        (lambda: {"choices": []}, "answers without any choice"),
        (lambda: {"choices": [{"message": None}]}, "answers without any choice"),
        (lambda: [1], "answers without any choice"),
    ],
)
def test_what_cannot_be_mended_is_one_sentence(journal, reply, sentence):
    with ChatServer(lambda number, request: reply()) as server, pytest.raises(UserError, match=sentence) as caught:
        ask(server, journal, [{}], max_retries=1, timeout_seconds=0.3)
    assert SECRET not in str(caught.value)
    assert str(caught.value).startswith("teacher.base_url http://127.0.0.1")
    assert "\n" not in str(caught.value)


def test_a_server_that_is_not_there_is_one_sentence(journal):
    with pytest.raises(UserError, match="cannot be reached"):
        ask("http://127.0.0.1:9/v1", journal, [{}], max_retries=0)


def test_a_missing_key_is_said_before_any_call(journal, monkeypatch):
    monkeypatch.delenv("OPENAI_API_KEY")
    with pytest.raises(UserError, match="OPENAI_API_KEY is not set"):
        ask("https://api.example.org/v1", journal, [{}])
    with ChatServer(lambda number, request: answer()) as server:
        ask(server, journal, [{}])
    assert server.keys == ["Bearer none"]


def test_a_server_without_json_mode_is_asked_for_text(journal, caplog):
    def reply(number, request):
        return error(400, "response_format is not supported") if "response_format" in request else answer()

    questions = [{"sample": sample, "response_format": "json_object"} for sample in range(4)]
    with ChatServer(reply) as server, caplog.at_level(logging.WARNING, "agentrefine"):
        completions, _ = ask(server, journal, questions, concurrency=1)
    assert [completion.text for completion in completions] == ["hello"] * 4
    assert len(server.requests) == 5
    assert len([record for record in caplog.records if "json_object" in record.getMessage()]) == 1


@pytest.mark.parametrize("response_format", ["text", "json_object"])
@pytest.mark.parametrize("code", ["content_filter", "context_length_exceeded"])
def test_a_refused_prompt_is_an_empty_answer_of_one_sample(journal, code, response_format):
    def reply(number, request):
        return error(400, code=code) if request["seed"] == 1 else answer()

    with ChatServer(reply) as server:
        questions = [{"sample": sample, "response_format": response_format} for sample in range(3)]
        completions, _ = ask(server, journal, questions)
        ask(server, journal, questions)
    assert [completion.text for completion in completions] == ["hello", "", "hello"]
    assert completions[1].finish_reason == code
    assert len(server.requests) == 3


@pytest.mark.parametrize(("content", "text"), [(None, ""), ("\ud83d!", "?!"), ("\x00 nul", "\x00 nul")])
def test_odd_answers_are_kept_as_text(journal, content, text):
    with ChatServer(lambda number, request: answer(content, finish_reason=None)) as server:
        (first,), _ = ask(server, journal, [{}])
        (again,), _ = ask(server, journal, [{}])
    assert first == again
    assert (first.text, first.finish_reason) == (text, "unknown")


def test_calls_in_flight_are_bounded(journal):
    with ChatServer(lambda number, request: answer()) as server:
        ask(server, journal, [{"sample": sample} for sample in range(40)], concurrency=5)
    assert server.most_at_once == 5


def write_many(path: Path, process: int) -> None:
    async def work() -> None:
        usage = Usage(prompt_tokens=1, completion_tokens=1)
        with Journal(path) as journal:
            for number in range(0, 200, 20):
                await asyncio.gather(
                    *(journal.keep(f"key {number + i}", 9, f"by {process}", usage, "stop") for i in range(20))
                )

    asyncio.run(work())


def test_several_processes_share_a_journal_and_the_first_answer_stays(tmp_path):
    path = tmp_path / "answers.sqlite"
    context = multiprocessing.get_context("spawn")
    workers = [context.Process(target=write_many, args=(path, process)) for process in range(3)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(60)
    assert [worker.exitcode for worker in workers] == [0, 0, 0]
    with Journal(path) as journal:
        kept = [journal.find(f"key {number}", 9) for number in range(200)]
        assert all(kept)
        again = asyncio.run(journal.keep("key 0", 9, "late", Usage(prompt_tokens=1, completion_tokens=1), "stop"))
    assert again.text == kept[0].text


def test_a_file_that_is_no_journal_is_one_sentence(tmp_path):
    path = tmp_path / "answers.sqlite"
    path.write_bytes(b"something else entirely, long enough to be looked at" * 100)
    with pytest.raises(UserError, match=r"answers\.sqlite: the journal of answers cannot be used"):
        Journal(path)
    (tmp_path / "folder").write_text("")
    with pytest.raises(UserError, match="cannot be used"):
        Journal(tmp_path / "folder" / "answers.sqlite")


def test_a_full_disk_is_one_sentence(tmp_path):
    with Journal(tmp_path / "answers.sqlite") as journal:
        journal._writer.execute("PRAGMA max_page_count = 5")
        usage = Usage(prompt_tokens=1, completion_tokens=1)
        with pytest.raises(UserError, match="the disk is full"):
            asyncio.run(journal.keep("key", 9, "x" * 100_000, usage, "stop"))
        assert journal.find("key", 9) is None
        assert asyncio.run(journal.keep("key", 9, "small", usage, "stop")).text == "small"
