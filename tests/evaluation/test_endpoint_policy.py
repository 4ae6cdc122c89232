"""The endpoint policy against a real HTTP server."""

import json
import threading
import time
from concurrent.futures import CancelledError
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from agentrefine.benchmarks.catalogue import benchmark
from agentrefine.evaluation.rollout import play
from agentrefine.game.conversation import instructions, opening
from agentrefine.llm import endpoint
from agentrefine.params.evaluation import EndpointParams, Sampling
from tasks.endpoint_evaluation import endpoint_identity
from tests.helpers.endpoint_players import KEY, dialogue, player
from tests.helpers.errors import misfit, refused


@contextmanager
def server(answer):
    """A chat completions server; `answer(request, number)` gives status, body and headers."""
    seen = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            seen.append((self.path, self.headers["Authorization"], request))
            status, body, headers = answer(request, len(seen))
            payload = body if isinstance(body, bytes) else json.dumps(body).encode()
            self.send_response(status)
            for name, value in {"Content-Type": "application/json", **headers}.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(payload)))
            self.end_headers()
            self.wfile.write(payload)

        def log_message(self, *_):
            pass

    http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=http.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{http.server_port}/v1", seen
    finally:
        http.shutdown()
        http.server_close()
        thread.join()


def completion(text, **usage):
    choice = {"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": "stop"}
    return {
        "id": "x",
        "object": "chat.completion",
        "created": 0,
        "model": "m",
        "choices": [choice],
        "usage": {"prompt_tokens": 11, "completion_tokens": 4, "total_tokens": 15, **usage},
    }


@pytest.fixture
def make(monkeypatch):
    monkeypatch.setenv(KEY, "secret")
    monkeypatch.setattr(endpoint, "_FIRST_BACKOFF_SECONDS", 0.05)
    policies = []

    def policy(url, **options):
        policies.append(player(url, **options))
        return policies[-1]

    return policy


def test_replies_come_in_the_order_of_the_dialogues_and_at_once(make):
    all_there = threading.Barrier(8)

    def answer(request, number):
        last = request["messages"][-1]["content"]
        if number <= 8:
            all_there.wait(timeout=20)
        time.sleep(0.2 if "first 0" in last else 0)
        return 200, completion(f"echo {last}"), {}

    with server(answer) as (url, seen):
        policy = make(url, timeout_seconds=30, name="shown")
        replies = policy.act([dialogue(str(n)) for n in range(8)])
        again = policy.act([dialogue("later")])
    assert [reply.text for reply in replies] == [f"echo Goal: take the apple\nfirst {n}" for n in range(8)]
    assert (replies[0].prompt_tokens, replies[0].completion_tokens, replies[0].turns_cut) == (11, 4, 0)
    assert again[0].text.endswith("first later")
    assert policy.name == "shown"
    path, authorization, request = seen[0]
    assert (path, authorization) == ("/v1/chat/completions", "Bearer secret")
    assert (request["model"], request["temperature"], request["max_tokens"]) == ("m", 0, 64)
    assert [message["role"] for message in request["messages"]] == ["user", "assistant", "user"]


def test_no_more_calls_in_flight_than_allowed(make):
    lock, running, most = threading.Lock(), 0, 0

    def answer(request, _):
        nonlocal running, most
        with lock:
            running += 1
            most = max(most, running)
        time.sleep(0.05)
        with lock:
            running -= 1
        return 200, completion("ok"), {}

    with server(answer) as (url, _):
        make(url, concurrency=2).act([dialogue(str(n)) for n in range(8)])
    assert most == 2


def test_a_busy_server_is_asked_again(make):
    def answer(_, number):
        if number == 1:
            return 429, {"error": {"message": "slow down"}}, {"Retry-After": "0.1"}
        if number == 2:
            return 500, {"error": {"message": "oops"}}, {"Retry-After": "0.1"}
        return 200, completion("ok"), {}

    with server(answer) as (url, seen):
        assert make(url, max_retries=3).act([dialogue("a")])[0].text == "ok"
    assert len(seen) == 3


@pytest.mark.parametrize(
    ("status", "body", "code", "quoted"),
    [
        (401, {"error": {"message": "bad key"}}, "key_refused", "401: bad key"),
        (404, {"error": {"message": "no such model"}}, "unknown_model_or_path", "404: no such model"),
        (500, {"error": {"message": "down"}}, "endpoint_failing", "500: down"),
        (400, {"error": {"message": "nonsense"}}, "endpoint_refused", "400: nonsense"),
        (422, {"error": "plain nonsense", "error_type": "validation"}, "endpoint_refused", "422: plain nonsense"),
        (400, {"detail": "nonsense in detail"}, "endpoint_refused", "400: nonsense in detail"),
        (
            422,
            {"detail": [{"loc": ["body", "messages"], "msg": "is wrong"}]},
            "endpoint_refused",
            "422: body.messages: is wrong",
        ),
        (400, {"message": "top nonsense"}, "endpoint_refused", "400: top nonsense"),
        (400, [{"error": {"message": "listed nonsense"}}], "endpoint_refused", "400: listed nonsense"),
    ],
)
def test_a_refusal_has_its_code_and_quotes_the_server(make, status, body, code, quoted):
    answer = status, body, {"Retry-After": "0.01"}
    with server(lambda *_: answer) as (url, _), refused(code, name="m", status=status, quoted=quoted):
        make(url, max_retries=1).act([dialogue("a"), dialogue("b")])


def test_a_server_that_is_not_there_is_one_clear_sentence(make):
    with server(lambda *_: (200, completion("ok"), {})) as (url, _):
        pass
    with refused("endpoint_unreachable"):
        make(url, max_retries=0).act([dialogue("a")])


def test_an_incomplete_answer_is_still_a_reply(make):
    bodies = [
        completion(None),
        completion("x") | {"usage": None},
        json.dumps(completion("half \ud83d")).encode(),
    ]
    with server(lambda _, number: (200, bodies[number - 1], {})) as (url, _):
        policy = make(url)
        replies = [policy.act([dialogue("a")])[0] for _ in bodies]
    assert [reply.text for reply in replies] == ["", "x", "half ?"]
    assert replies[1].prompt_tokens > 0


@pytest.mark.parametrize("body", [b"<html>not an api</html>", b'{"hello": 1}', b"[]", b'"text"', b'{"choices": []}'])
def test_another_kind_of_server_is_one_clear_sentence(make, body):
    with server(lambda *_: (200, body, {})) as (url, _), refused("not_chat_api"):
        make(url, max_retries=0).act([dialogue("a")])


def test_the_oldest_turns_go_when_the_endpoint_says_the_dialogue_is_too_long(make):
    def answer(request, _):
        if len(request["messages"]) > 7:
            return 400, {"error": {"message": "too long", "code": "context_length_exceeded"}}, {}
        return 200, completion("ok"), {}

    with server(answer) as (url, seen):
        (reply,) = make(url).act([dialogue("a", turns=5)])
    assert (reply.text, reply.turns_cut, reply.context_full) == ("ok", 4, False)
    kept = [message["content"] for message in seen[-1][2]["messages"]]
    assert kept[0] == "act"
    assert kept[3:] == ["reply 4", "seen 4"]


def test_an_opening_that_is_too_long_ends_the_episode(make):
    body = {"error": {"message": "too long", "code": "context_length_exceeded"}}
    with server(lambda *_: (400, body, {})) as (url, _):
        (reply,) = make(url).act([dialogue("a", turns=2)])
    assert reply.context_full


def test_a_key_that_is_not_set_is_one_clear_sentence_except_on_this_machine(monkeypatch):
    monkeypatch.delenv(KEY, raising=False)
    with refused("key_missing", variable=KEY):
        player("https://api.example.org/v1")
    with server(lambda *_: (200, completion("ok"), {})) as (url, _):
        assert player(url).act([dialogue("a")])[0].text == "ok"


def test_a_remote_model_that_knows_the_way_wins_worlds(make):
    worlds = benchmark("worlds_layouts")
    episodes = worlds.episodes(6, 7)
    gold = {}
    for episode in episodes:
        environment = worlds.make(episode)
        first = environment.reset()
        gold[opening(instructions(environment.actions), environment.goal, first)[2].content] = worlds.gold(episode)

    def answer(request, _):
        turns = [message["content"] for message in request["messages"]]
        return 200, completion(f"Thought: I know.\nAction: {gold[turns[2]][(len(turns) - 3) // 2]}"), {}

    with server(answer) as (url, _):
        played = list(play(make(url), worlds, episodes, max_steps=60, batch_size=3))
    assert [episode.success for episode in played] == [True] * 6


def test_what_was_answered_is_never_asked_for_again(make, tmp_path):
    with server(lambda request, number: (200, completion(f"answer {number}"), {})) as (url, seen):
        for _ in range(2):
            policy = make(url, journal=tmp_path / "replies.sqlite")
            replies = policy.act([dialogue("a"), dialogue("b", turns=1)])
            policy.close()
            assert sorted(reply.text for reply in replies) == ["answer 1", "answer 2"]
            assert [reply.prompt_tokens for reply in replies] == [11, 11]
        assert len(seen) == 2
        other = make(url, journal=tmp_path / "replies.sqlite", sampling=Sampling(temperature=0.5))
        assert other.act([dialogue("a")])[0].text == "answer 3"
        other.close()


def test_draws_are_asked_for_with_a_seed_of_their_own_and_greedy_replies_without(make):
    with server(lambda *_: (200, completion("ok"), {})) as (url, seen):
        make(url).act([dialogue("a")])
        for _ in range(2):
            policy = make(url, sampling=Sampling(temperature=0.7, top_p=0.9), seed=3)
            for asked in (dialogue("a"), dialogue("a#1"), dialogue("a", turns=1)):
                policy.act([asked])
    requests = [request for _, _, request in seen]
    assert "seed" not in requests[0]
    assert "top_p" not in requests[0]
    assert {(request["temperature"], request["top_p"]) for request in requests[1:]} == {(0.7, 0.9)}
    seeds = [request["seed"] for request in requests[1:]]
    assert seeds[:3] == seeds[3:]
    assert len(set(seeds)) == 3


def test_closing_gives_up_calls_that_are_under_way(make):
    asked, over = threading.Event(), threading.Event()

    def answer(*_):
        asked.set()
        over.wait(timeout=20)
        return 200, completion("late"), {}

    with server(answer) as (url, _):
        policy = make(url, timeout_seconds=30)
        outcome = []

        def ask():
            try:
                policy.act([dialogue("a")])
            except CancelledError:
                outcome.append("given up")

        thread = threading.Thread(target=ask)
        thread.start()
        assert asked.wait(timeout=20)
        policy.close()
        thread.join(timeout=10)
        over.set()
    assert outcome == ["given up"]


@pytest.mark.parametrize(
    "change", [{"extra_body": {"reasoning_effort": "low"}}, {"max_new_tokens": 512}, {"model": "n"}]
)
def test_episodes_are_played_again_when_an_endpoint_is_asked_otherwise_and_not_when_calls_are_only_sent_otherwise(
    change,
):
    section = {"base_url": "http://127.0.0.1:1/v1", "model": "m", "api_key_env": KEY}

    def digest(**more):
        return endpoint_identity(EndpointParams.model_validate(section | more))

    assert digest(**change) != digest()
    assert digest(timeout_seconds=1.0, max_retries=0, concurrency=1, max_cost=1.0) == digest()


@pytest.mark.parametrize("key", ["messages", "max_tokens", "stream"])
def test_an_extra_body_must_not_change_what_is_asked(key):
    section = {"base_url": "http://127.0.0.1:1/v1", "model": "m", "api_key_env": KEY, "extra_body": {key: 1}}
    with misfit(name=key):
        EndpointParams.model_validate(section)
