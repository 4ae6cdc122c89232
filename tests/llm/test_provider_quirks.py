"""One provider's quirk after the other, over real HTTP, for the teacher's client and the player's alike."""

import json
from collections.abc import Callable
from typing import Any, NamedTuple

import pytest
from aiohttp import web

from agentrefine.llm import endpoint
from agentrefine.llm.completion import FILTERED, TOO_LONG, field_of_thoughts
from agentrefine.params.evaluation import Sampling
from agentrefine.synthesis.client import MAX_USELESS_IN_A_ROW
from tests.helpers.asking import ask, price_list, questions
from tests.helpers.chat_server import ChatServer, answer, error
from tests.helpers.endpoint_players import KEY, dialogue, player, replies_file
from tests.helpers.errors import refused

TURN = "Thought: looking helps\nAction: look around"


class Said(NamedTuple):
    texts: list[str]
    prompt_tokens: int
    completion_tokens: int


class Client(NamedTuple):
    """A client as a test uses it: texts of `count` calls at an address, with settings that both clients have."""

    name: str
    ask: Callable[..., Said]


@pytest.fixture(params=["teacher", "player"])
def client(request, journal, tmp_path):
    def teacher(server: ChatServer, count: int = 1, *, extra_body: dict[str, Any] | None = None, **settings: Any):
        roles = {"script": {"extra_body": extra_body}} if extra_body else {}
        done = ask(server, journal, questions(count), temperature=0.5, **roles, **settings)
        return Said(done.texts, done.completions[0].usage.prompt_tokens, done.completions[0].usage.completion_tokens)

    def play(server: ChatServer, count: int = 1, **settings: Any):
        file, sampling = replies_file(tmp_path), Sampling(temperature=0.5)
        policy = player(server.base_url, sampling=sampling, journal=file, max_retries=2, **settings)
        try:
            replies = policy.act([dialogue(str(number)) for number in range(count)])
        finally:
            policy.close()
        return Said([reply.text for reply in replies], replies[0].prompt_tokens, replies[0].completion_tokens)

    return Client(request.param, teacher if request.param == "teacher" else play)


REFUSED_PARAMETERS = {
    "OpenAI's limit": ("max_tokens", lambda: error(400, "Unsupported parameter: 'max_tokens' is not supported with "
                       "this model. Use 'max_completion_tokens' instead.")),
    "OpenAI's temperature": ("temperature", lambda: error(400, "Unsupported value: 'temperature' does not support 0.5 "
                             "with this model. Only the default (1) value is supported.")),
    "a forbidden key": ("seed", lambda: web.json_response(
        {"detail": [{"type": "extra_forbidden", "loc": ["body", "seed"], "msg": "Extra inputs are not permitted"}]},
        status=422)),
    "the same inside a message": ("seed", lambda: web.json_response(
        {"object": "error", "message": {"detail": [{"type": "extra_forbidden", "loc": ["body", "seed"],
         "msg": "Extra inputs are not permitted"}]}, "type": "invalid_request_error"}, status=422)),
    "a text": ("seed", lambda: web.json_response({"error": "unknown field: seed"}, status=400)),
    "inside a 200": ("temperature", lambda: web.json_response(
        {"choices": None, "error": {"message": "temperature is not supported", "code": 400}})),
}  # fmt: skip


@pytest.mark.parametrize("kind", REFUSED_PARAMETERS)
def test_a_parameter_that_a_model_refuses_is_left_out_or_renamed_once(client, kind):
    name, refusal = REFUSED_PARAMETERS[kind]
    with ChatServer(lambda number, request: refusal() if name in request else answer(TURN)) as server:
        assert client.ask(server, 4, concurrency=1).texts == [TURN] * 4
    assert [name in request for request in server.requests] == [True, False, False, False, False]
    if name == "max_tokens":
        assert server.requests[-1]["max_completion_tokens"] == server.requests[0]["max_tokens"]


def test_a_model_that_refuses_several_parameters_is_asked_without_each(client):
    def reply(number, request):
        for name in ("max_tokens", "temperature", "seed"):
            if name in request:
                return error(400, f"Unsupported parameter: {name}. Use max_completion_tokens.")
        return answer(TURN)

    with ChatServer(reply) as server:
        assert client.ask(server).texts == [TURN]
    assert len(server.requests) == 4


def test_what_the_user_has_set_is_not_left_out(client):
    with (
        ChatServer(lambda number, request: error(400, "Unsupported parameter: 'temperature'")) as server,
        refused("endpoint_refused", status=400, quoted="400: Unsupported parameter: 'temperature'"),
    ):
        client.ask(server, extra_body={"temperature": 0.1})
    assert all(request["temperature"] == 0.1 for request in server.requests)


def test_a_temperature_out_of_range_is_the_users_to_correct(client):
    said = "temperature must be less than or equal to 0.4"
    with (
        ChatServer(lambda number, request: error(400, said)) as server,
        refused("endpoint_refused", status=400, quoted=f"400: {said}"),
    ):
        client.ask(server)


def test_further_keys_of_the_body_reach_the_endpoint(client):
    with ChatServer(lambda number, request: answer(TURN)) as server:
        client.ask(server, extra_body={"reasoning_effort": "low", "seed": None})
    assert server.requests[0]["reasoning_effort"] == "low"
    assert "seed" not in server.requests[0]


CONTENTS = {
    "parts": [{"type": "text", "text": TURN[:10]}, {"type": "text", "text": TURN[10:]}],
    "a part that is a thought": [
        {"type": "thinking", "thinking": [{"type": "text", "text": "Looking comes first."}]},
        {"type": "text", "text": TURN},
    ],
    "a reasoning part": [{"type": "reasoning", "text": "Looking comes first."}, {"type": "text", "text": TURN}],
}


@pytest.mark.parametrize("kind", CONTENTS)
def test_a_content_of_parts_is_one_text_without_thoughts(client, kind):
    body = answer()
    body["choices"][0]["message"]["content"] = CONTENTS[kind]
    with ChatServer(lambda number, request: body) as server:
        assert client.ask(server).texts == [TURN]


@pytest.mark.parametrize(
    "body",
    [
        {"id": None, "choices": None, "usage": None, "error": {"message": "Provider returned error", "code": 429}},
        {"error": {"message": "busy", "code": 502}},
        {"error": "upstream failed"},
        {
            "choices": [
                {"message": {"content": "half"}, "finish_reason": "error", "error": {"message": "x", "code": 502}}
            ]
        },
    ],
)
def test_an_error_inside_a_200_is_tried_again(client, body):
    with ChatServer(lambda number, request: body if number == 1 else answer(TURN)) as server:
        assert client.ask(server).texts == [TURN]
    assert len(server.requests) == 2


def test_a_pause_that_is_asked_for_is_kept(client):
    def reply(number, request):
        return error(429, "Rate limit reached", retry_after="1.5") if number == 1 else answer(TURN)

    with ChatServer(reply) as server:
        assert client.ask(server).texts == [TURN]
    assert server.times[1] - server.times[0] >= 1.5


def test_a_pause_of_minutes_is_waited_for_and_announced(client, monkeypatch, caplog):
    """Three minutes are more than the two that the HTTP client's own retries accept; here the clock is shortened."""
    slept: list[float] = []
    real = endpoint.Throttle.overloaded

    def shortened(self, sent, retry_after=0.0):
        slept.append(retry_after)
        real(self, sent, min(retry_after, 0.5))

    monkeypatch.setattr(endpoint.Throttle, "overloaded", shortened)

    def reply(number, request):
        return error(429, "Try again in 3 minutes.", retry_after="180") if number == 1 else answer(TURN)

    with ChatServer(reply) as server:
        assert client.ask(server).texts == [TURN]
    assert slept == [180.0]
    assert "180 seconds" in caplog.text


@pytest.mark.parametrize("concurrency", [1, 3])
def test_no_more_calls_are_out_than_allowed(client, concurrency):
    with ChatServer(lambda number, request: answer(TURN) | {"delay": 0.05}) as server:
        client.ask(server, 6, concurrency=concurrency)
    assert server.most_at_once == concurrency


def test_a_server_on_this_machine_needs_no_key(client, monkeypatch):
    monkeypatch.delenv("OPENAI_API_KEY")
    monkeypatch.delenv(KEY)
    with ChatServer(lambda number, request: answer(TURN)) as server:
        assert client.ask(server).texts == [TURN]


def test_one_filtered_prompt_does_not_end_the_run_though_a_short_check_is_refused(client):
    def reply(number, request):
        if request["messages"][-1]["content"] == "Hello!":
            return error(400, "max_tokens must be at least 64")
        if number == 2:
            return error(400, "The prompt was filtered by the content policy.", code="content_filter")
        return answer(TURN)

    with ChatServer(reply) as server:
        assert client.ask(server, 5, concurrency=1).texts == [TURN, "", TURN, TURN, TURN]


@pytest.mark.parametrize("where", ["content", "lone", "field"])
def test_thoughts_count_as_tokens_of_the_answer_where_the_endpoint_does_not_count(client, where):
    thoughts = "Looking comes first. " * 30
    body = answer(TURN)
    body["usage"] = None
    if where == "field":
        body["choices"][0]["message"]["reasoning_content"] = thoughts
    else:
        opened = "<think>" if where == "content" else ""
        body["choices"][0]["message"]["content"] = f"{opened}{thoughts}</think>{TURN}"
    with ChatServer(lambda number, request: body) as server:
        assert client.ask(server).completion_tokens > 150


def test_calls_that_are_not_counted_still_reach_the_limit_of_the_cost(client, tmp_path):
    body = answer(TURN * 4) | {"usage": None}
    prices = price_list(tmp_path, m={"input": 1000.0, "output": 1000.0})
    with ChatServer(lambda number, request: body) as server, refused("budget_spent", limit=0.5):
        client.ask(server, 40, prices=prices, max_cost=0.5, concurrency=1)
    assert 1 <= len(server.requests) <= 8


def test_a_cut_answer_is_asked_for_again_under_a_larger_limit_and_a_whole_one_is_not(client):
    limit = "max_tokens" if client.name == "teacher" else "max_new_tokens"

    def reply(number, request):
        cut = request["max_tokens"] < 200 and number == 1
        return answer("Thought: well", "length", 60) if cut else answer(TURN)

    with ChatServer(reply) as server:
        assert client.ask(server, **{limit: 60}).texts == ["Thought: well"]
        assert client.ask(server, **{limit: 60}).texts == ["Thought: well"]
        assert client.ask(server, **{limit: 512}).texts == [TURN]
        assert client.ask(server, **{limit: 600}).texts == [TURN]
    assert len(server.requests) == 2


@pytest.mark.parametrize("reason", ["stop", "max_tokens", "MAX_TOKENS", "model_length", "unknown"])
def test_an_answer_as_long_as_its_limit_is_cut_whatever_its_server_calls_that(client, reason):
    limit = "max_tokens" if client.name == "teacher" else "max_new_tokens"

    def reply(number, request):
        return answer("Thought: well", reason, 60) if number == 1 else answer(TURN)

    with ChatServer(reply) as server:
        client.ask(server, **{limit: 60})
        assert client.ask(server, **{limit: 512}).texts == [TURN]


# What only one of the two does with it.


TOO_LONG_TEXTS = {
    "OpenAI": (400, {"error": {"message": "too many", "code": "context_length_exceeded"}}),
    "vLLM": (400, {"object": "error", "message": "This model's maximum context length is 4096 tokens. However, you "
             "requested 5000 tokens.", "type": "BadRequestError", "code": 400}),
    "vLLM, naming the other limit": (400, {"error": {"message": "'max_tokens' or 'max_completion_tokens' is too large: "
             "64. This model's maximum context length is 512 tokens and your request has 500 input tokens"}}),
    "TGI": (422, {"error": "Input validation error: `inputs` tokens + `max_new_tokens` must be <= 512. Given: 500",
            "error_type": "validation"}),
    "TGI, prompt alone": (422, {"error": "`inputs` must have less than 1024 tokens. Given: 2000"}),
    "SGLang": (400, {"object": "error", "message": "The input (5000 tokens) is longer than the model's context length "
               "(4096 tokens)."}),
    "llama.cpp": (400, {"error": {"code": 400, "message": "the request exceeds the available context size",
                  "type": "exceed_context_size_error"}}),
    "llama-cpp-python": (500, {"error": {"message": "Requested tokens (5000) exceed context window of 4096"}}),
    "FastAPI": (422, {"detail": "the prompt is too long for this model"}),
    "LM Studio": (400, {"error": "Trying to keep the first 5000 tokens when context the overflows. However, the model "
                  "is loaded with context length of only 4096 tokens"}),
    "Anthropic": (400, {"error": {"message": "prompt is too long: 210000 tokens > 200000 maximum"}}),
    "Gemini": (400, [{"error": {"code": 400, "message": "The input token count (1200000) exceeds the maximum number of "
               "tokens allowed (1048576).", "status": "INVALID_ARGUMENT"}}]),
    "Mistral": (400, {"object": "error", "message": "Prompt contains 40000 tokens, too large for model with 32768 "
                "maximum context length"}),
    "xAI": (400, {"error": "This model's maximum prompt length is 131072 but the request contains 137197 tokens."}),
    "Groq": (413, {"error": {"message": "Request too large for model on tokens per minute"}}),
    "OpenAI's minute": (429, {"error": {"message": "Request too large for gpt-4o on tokens per min: Limit 30000"}}),
    "nginx": (413, "<html>Request Entity Too Large</html>"),
    "inside a 200": (200, {"error": {"message": "Provider returned error", "code": 400,
                     "metadata": {"raw": "{\"message\": \"maximum context length is 8192 tokens\"}"}}}),
}  # fmt: skip


@pytest.mark.parametrize("kind", TOO_LONG_TEXTS)
def test_a_dialogue_that_is_too_long_loses_its_oldest_turns(kind):
    status, body = TOO_LONG_TEXTS[kind]
    text = body if isinstance(body, str) else json.dumps(body)

    def reply(number, request):
        return web.Response(status=status, text=text) if len(request["messages"]) > 5 else answer(TURN)

    with ChatServer(reply) as server:
        (said,) = player(server.base_url).act([dialogue("a", turns=3)])
    assert (said.text, said.turns_cut) == (TURN, 2)
    assert len(server.requests) == 3


@pytest.mark.parametrize("kind", TOO_LONG_TEXTS)
def test_a_prompt_that_is_too_long_costs_the_teacher_one_sample_and_is_asked_again_in_the_next_run(kind, journal):
    status, body = TOO_LONG_TEXTS[kind]
    text = body if isinstance(body, str) else json.dumps(body)

    def reply(number, request):
        return web.Response(status=status, text=text) if request["seed"] == 1 else answer(TURN)

    with ChatServer(reply) as server:
        done = ask(server, journal, questions(3))
        assert [completion.finish_reason for completion in done.completions] == ["stop", TOO_LONG, "stop"]
        assert ask(server, journal, questions(3)).replayed == 2


@pytest.mark.parametrize(
    "message",
    [
        "max_tokens is too large: 65536. This model supports at most 16384 completion tokens",
        "temperature must be between 0 and 2",
        "messages: at least one message is required",
    ],
)
def test_other_refusals_are_not_taken_for_a_dialogue_that_is_too_long(message):
    with ChatServer(lambda number, request: error(400, message)) as server, refused("endpoint_refused", status=400):
        player(server.base_url, sampling=Sampling(temperature=0.5)).act([dialogue("a", turns=3)])
    assert len(server.requests) == 2  # the call and the health check


@pytest.mark.parametrize("field", ["reasoning_content", "reasoning"])
def test_answers_that_stand_in_another_field_alone_end_the_teachers_run_by_its_name(field, journal):
    body = answer(None)
    body["choices"][0]["message"][field] = "Looking comes first."
    with ChatServer(lambda number, request: body) as server:
        done = ask(server, journal, questions(3))
        assert {field_of_thoughts(completion.finish_reason) for completion in done.completions} == {field}
        with refused("answers_useless", name="m", field=field):
            ask(server, journal, questions(40), concurrency=1)
    assert len(server.requests) <= 3 + MAX_USELESS_IN_A_ROW + 1


def test_a_filtered_prompt_is_named_as_such_to_the_teacher(journal):
    def reply(number, request):
        return error(400, "flagged by our usage policy") if request["seed"] == 1 else answer(TURN)

    with ChatServer(reply) as server:
        done = ask(server, journal, questions(3))
    assert done.completions[1].finish_reason == FILTERED


def test_the_probe_for_json_has_the_settings_of_the_role(journal):
    def reply(number, request):
        if request.get("temperature", 1) != 1 or "seed" in request:
            return error(400, "temperature does not support this value with this model")
        return answer('{"answer": "agentrefine"}' if "response_format" in request else TURN)

    extra = {"temperature": None, "seed": None, "reasoning_effort": "low"}
    with ChatServer(reply) as server:
        ask(server, journal, structured_output="auto", script={"extra_body": extra})
    assert all(request["reasoning_effort"] == "low" and "temperature" not in request for request in server.requests)
    assert server.requests[0]["response_format"]["type"] == "json_schema"


def test_a_player_says_that_its_reply_was_cut():
    with ChatServer(lambda number, request: answer("", "length", 64)) as server:
        (reply,) = player(server.base_url).act([dialogue("a")])
    assert (reply.text, reply.cut) == ("", True)
