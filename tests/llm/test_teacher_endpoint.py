"""One endpoint on a bad day: what is tried again, what is given up, and what is reported."""

import json
import re
import time
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import pytest
from aiohttp import web

from agentrefine.llm import endpoint
from agentrefine.llm.completion import UNANSWERED
from agentrefine.llm.reply import asked_pause, read_reply
from tests.helpers.asking import SECRET, ask, questions
from tests.helpers.chat_server import ChatServer, Trickle, answer, error
from tests.helpers.errors import refused

BAD_REPLIES = {
    "too many requests": lambda: error(429),
    "request time-out": lambda: error(408),
    "conflict": lambda: error(409),
    "server error": lambda: error(500),
    "bad gateway": lambda: web.Response(status=502, text="<html>", content_type="text/html"),
    "overloaded": lambda: error(503, retry_after="0"),
    "reset": lambda: "reset",
    "hang": lambda: "hang",
    "trickle": lambda: Trickle(20),
    "no choice": lambda: {"choices": []},
    "error inside": lambda: {"error": {"message": "busy"}},
    "message null": lambda: {"choices": [{"message": None}]},
    "list": lambda: web.json_response([1]),
    "page": lambda: web.Response(text="<html>hello</html>", content_type="text/html"),
    "broken body": lambda: web.Response(text='{"choices": [{"mess', content_type="application/json"),
    "empty body": lambda: web.Response(text=""),
    "deep body": lambda: web.Response(text="[" * 100_000, content_type="application/json"),
}


@pytest.mark.parametrize("kind", BAD_REPLIES)
def test_every_fault_of_the_wire_is_tried_again(journal, kind):
    def reply(number, request):
        return BAD_REPLIES[kind]() if number < 3 else answer("at last")

    with ChatServer(reply) as server:
        asked = ask(server, journal, timeout_seconds=0.5)
    assert asked.texts == ["at last"]
    assert len(server.requests) == 3
    assert (asked.paid, asked.numbers["reserved"]) == (1, 0)


def test_an_answer_with_the_wrong_content_type_is_an_answer(journal):
    def reply(number, request):
        return web.Response(text=web.json_response(answer("plain")).text, content_type="text/plain")

    with ChatServer(reply) as server:
        assert ask(server, journal).texts == ["plain"]
    assert len(server.requests) == 1


def test_a_body_that_trickles_is_given_up_after_the_time_limit_of_the_whole_try(journal):
    with ChatServer(lambda number, request: Trickle(20)) as server:
        started = time.monotonic()
        with refused("answer_too_late", seconds=0.4):
            ask(server, journal, timeout_seconds=0.4, max_retries=1)
        assert time.monotonic() - started < 4
    with ChatServer(lambda number, request: Trickle(0.5)) as server:
        assert ask(server, journal, timeout_seconds=5.0).texts == ["at last"]


@pytest.mark.parametrize(
    ("reply", "code", "values"),
    [
        (
            lambda: error(401, f"Incorrect key {SECRET}"),
            "key_refused",
            {"variable": "OPENAI_API_KEY", "status": 401, "quoted": "401: Incorrect key ***"},
        ),
        (lambda: error(403), "key_refused", {"status": 403}),
        (lambda: error(404), "unknown_model_or_path", {"name": "m"}),
        (lambda: error(400, f"wrong messages {SECRET}"), "endpoint_refused", {"quoted": "400: wrong messages ***"}),
        (lambda: error(400, "max_completion_tokens is too large"), "endpoint_refused", {"status": 400}),
        (lambda: error(422), "endpoint_refused", {"status": 422}),
        (lambda: error(429), "rate_limited", {"retries": 1}),
        (lambda: error(503, f"no {SECRET}"), "endpoint_failing", {"retries": 1, "status": 503}),
        (lambda: "reset", "endpoint_unreachable", {}),
        (lambda: "hang", "answer_too_late", {"seconds": 0.3}),
        (BAD_REPLIES["page"], "not_chat_api", {}),
        (BAD_REPLIES["broken body"], "not_chat_api", {}),
        (BAD_REPLIES["no choice"], "not_chat_api", {}),
        (BAD_REPLIES["list"], "not_chat_api", {}),
    ],
)
def test_what_cannot_be_fixed_is_one_sentence_without_the_key(journal, reply, code, values):
    expected = refused(code, key="teacher.base_url", **values)
    with ChatServer(lambda number, request: reply()) as server, expected as caught:
        ask(server, journal, questions(3), max_retries=1, timeout_seconds=0.3)
    assert SECRET not in f"{caught.value} {caught.value.values}"
    assert len(server.requests) <= 12


def test_a_server_that_is_not_there_is_one_sentence(journal):
    with refused("endpoint_unreachable", key="teacher.base_url"):
        ask("http://127.0.0.1:9/v1", journal, max_retries=0)


@pytest.mark.parametrize(
    "reply", [lambda: error(429, code="insufficient_quota"), lambda: error(429, retry_after="86400")]
)
def test_a_spent_quota_is_said_at_once(journal, reply):
    with ChatServer(lambda number, request: reply()) as server, refused("quota_spent", status=429):
        ask(server, journal, max_retries=6)
    assert len(server.requests) == 1


@pytest.mark.parametrize("reply", [lambda: error(500), lambda: "reset", lambda: {"choices": []}])
def test_a_call_that_always_fails_while_others_are_answered_is_unanswered_and_not_kept(journal, reply):
    def one_fails(number, request):
        return reply() if request["seed"] == 3 else answer()

    with ChatServer(one_fails) as server:
        asked = ask(server, journal, questions(6), concurrency=2)
    assert asked.texts == ["hello"] * 3 + [""] + ["hello"] * 2
    assert asked.completions[3].finish_reason == UNANSWERED
    assert asked.paid == 5
    with ChatServer(lambda number, request: answer("now")) as later:
        again = ask(server.base_url, journal, questions(3)).replayed
        assert again == 3
        assert ask(later, journal, questions(1)).paid == 1, "another address is another endpoint"


def test_a_call_that_always_fails_is_unanswered_also_when_no_other_call_is_left(journal):
    """The second of two equal runs: the journal answers all other calls, so that none shows that the endpoint is up."""

    def one_fails(number, request):
        return error(500) if request["seed"] == 3 and request["messages"][0]["content"] == "hi" else answer()

    with ChatServer(one_fails) as server:
        first = ask(server, journal, questions(6))
        second = ask(server, journal, questions(6))
    assert first.completions == second.completions
    assert second.completions[3].finish_reason == UNANSWERED
    assert (second.replayed, second.paid) == (5, 0)


@pytest.mark.parametrize("count", [1, 8])
def test_a_model_that_wants_another_name_for_the_limit_gets_it(journal, count):
    text = "Unsupported parameter: 'max_tokens' is not supported with this model. Use 'max_completion_tokens' instead."

    def reply(number, request):
        return error(400, text) if "max_tokens" in request else answer()

    with ChatServer(reply) as server:
        asked = ask(server, journal, questions(count))
        assert asked.texts == ["hello"] * count
    assert [request["max_completion_tokens"] for request in server.requests if "max_tokens" not in request] == (
        [100] * count
    )


def test_a_storm_of_429_with_slow_progress_uses_up_no_retries(journal):
    """The endpoint takes ten calls a second and refuses the others: each call is refused far more than two times."""
    answered = [0.0]

    def reply(number, request):
        if time.monotonic() - answered[-1] < 0.1:
            return error(429)
        answered.append(time.monotonic())
        return answer()

    with ChatServer(reply) as server:
        asked = ask(server, journal, questions(25), concurrency=12)
    assert asked.texts == ["hello"] * 25
    assert asked.paid == 25
    assert len(server.requests) > 50


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({}, None),
        ({"retry-after": "3"}, 3.0),
        ({"retry-after": "0.5"}, 0.5),
        ({"retry-after-ms": "1500"}, 1.5),
        ({"retry-after-ms": "1500", "retry-after": "20"}, 1.5),
        ({"retry-after": "-5"}, 0.0),
        ({"retry-after": "nan"}, 0.0),
        ({"retry-after": "soon"}, 0.0),
        ({"retry-after": "Mon, 99999999999999999999 Jan 2030 00:00:00 GMT"}, 0.0),
        ({"retry-after": "Wed, 21 Oct 2015 07:28:00 GMT"}, 0.0),
    ],
)
def test_the_pause_that_an_endpoint_asks_for_is_read(headers, seconds):
    assert asked_pause(headers) == seconds


@pytest.mark.parametrize("zone", ["GMT", "-0000", "+0200"])
def test_a_pause_until_a_date_is_read_in_every_zone(zone):
    hours = 2 if zone == "+0200" else 0
    date = format_datetime(datetime.now(UTC) + timedelta(seconds=60, hours=hours))
    assert 57 <= asked_pause({"retry-after": re.sub(r"[+-]0000$", zone, date)}) <= 60


def test_an_outage_is_waited_out_by_an_endpoint_that_has_answered(journal, monkeypatch):
    monkeypatch.setattr(endpoint, "SECONDS_BETWEEN_CHECKS", 0.1)
    down_until = []

    def reply(number, request):
        if number == 4:
            down_until.append(time.monotonic() + 6)
        return error(500) if down_until and time.monotonic() < down_until[0] else answer()

    with ChatServer(reply) as server:
        asked = ask(server, journal, questions(30), concurrency=2, max_retries=1)
    assert asked.texts == ["hello"] * 30


def test_an_endpoint_that_stays_down_ends_the_run(journal, monkeypatch):
    monkeypatch.setattr(endpoint, "SECONDS_BETWEEN_CHECKS", 0.1)
    monkeypatch.setattr(endpoint, "MAX_OUTAGE_SECONDS", 1.0)
    with (
        ChatServer(lambda number, request: answer() if number < 4 else error(500)) as server,
        refused("endpoint_failing", retries=1),
    ):
        ask(server, journal, questions(30), concurrency=2, max_retries=1)


def test_odd_counts_do_not_cost_a_paid_answer(journal):
    odd = {"prompt_tokens": 10**20, "completion_tokens": "many", "prompt_tokens_details": [1]}
    body = answer("paid") | {"usage": odd}
    with ChatServer(lambda number, request: body) as server:
        asked = ask(server, journal, questions(3))
    assert asked.texts == ["paid"] * 3
    assert asked.completions[0].usage.estimated


@pytest.mark.parametrize(
    ("message", "text"),
    [
        ({"content": None, "refusal": "I cannot."}, "I cannot."),
        ({"content": [{"type": "text", "text": "one "}, {"type": "text", "text": "two"}, 3]}, "one two"),
        ({"content": {"a": 1}}, ""),
    ],
)
def test_refusals_and_parts_are_read(message, text):
    body = json.dumps({"choices": [{"message": message, "finish_reason": "\ud83d"}]})
    assert read_reply(body).text == text
    assert read_reply(body).finish_reason == "?"
