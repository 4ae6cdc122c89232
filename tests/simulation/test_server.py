"""The simulated teacher's server, as the official client meets it over HTTP."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import openai
import pytest

from agentrefine.game.script import Script
from agentrefine.game.trajectory import error_refine_turns
from agentrefine.simulation.answers import REFUSAL, world_for
from agentrefine.simulation.process import simulated_teacher
from agentrefine.synthesis.prompts import script_messages, trajectory_messages
from agentrefine.verification.script_rules import verify_script
from agentrefine.verification.trajectory_rules import verify_trajectory
from agentrefine.worlds.layout import EVALUATION_SEEDS, script_of, world_from_id
from tests.helpers.errors import refused
from tests.helpers.simulated_games import BAKER, FAULTLESS, ROOT, TRAIN_FAMILIES, VERIFICATION, script_for


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    with simulated_teacher(FAULTLESS) as base_url:
        yield base_url


@pytest.fixture(scope="module")
def client(server: str) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=server, api_key="none needed", max_retries=0) as client:
        yield client


def ask(client: openai.OpenAI, messages: Any, seed: int = 0, **settings: Any) -> str:
    completion = client.chat.completions.create(
        model="offline-teacher", messages=messages, seed=seed, temperature=1.0, **settings
    )
    return completion.choices[0].message.content or ""


@pytest.mark.parametrize("family", TRAIN_FAMILIES)
def test_script_then_game_of_every_train_family_pass_verification(client: openai.OpenAI, family: str):
    seed = next(n for n in range(len(TRAIN_FAMILIES)) if world_for(BAKER.text, n).family == family)
    script, problem = verify_script(ask(client, script_messages(BAKER), seed))
    assert problem is None
    assert script is not None
    text = ask(client, trajectory_messages(BAKER, script), seed)
    kept, problem = verify_trajectory(script, text, VERIFICATION)
    assert problem is None
    assert error_refine_turns(kept) >= 2
    assert kept[-1].task_completed


def test_answers_have_openais_form(client: openai.OpenAI):
    completion = client.chat.completions.create(
        model="offline-teacher", messages=script_messages(BAKER), seed=1, max_tokens=4096
    )
    assert completion.id.startswith("chatcmpl-")
    assert completion.model == "offline-teacher"
    assert completion.choices[0].finish_reason == "stop"
    assert completion.choices[0].message.role == "assistant"
    assert completion.usage is not None
    assert completion.usage.total_tokens == completion.usage.prompt_tokens + completion.usage.completion_tokens
    assert completion.usage.prompt_tokens > completion.usage.completion_tokens > 100


def test_max_tokens_cut_the_answer(client: openai.OpenAI):
    completion = client.chat.completions.create(
        model="offline-teacher", messages=script_messages(BAKER), seed=1, max_tokens=50
    )
    assert completion.choices[0].finish_reason == "length"
    assert completion.usage is not None
    assert completion.usage.completion_tokens == 50
    assert ask(client, script_messages(BAKER), 1).startswith(completion.choices[0].message.content or "-")


def test_it_says_that_it_is_a_rule_based_simulation(client: openai.OpenAI):
    (model,) = client.models.list().data
    assert model.id == "offline-teacher"
    assert "rule-based simulation" in model.owned_by
    assert client.models.retrieve("offline-teacher") == model


@pytest.mark.parametrize(
    "prompt",
    [
        "What is the capital of France?",
        "Persona: a cook",
        "",
        "\n# Script\n\n```json\n{not json\n```",
        '\n# Script\n\n```json\n{"environment": {"world": "no.such.world"}}\n```',
        '\n# Script\n\n```json\n{"environment": {"world": 7}}\n```',
        '\n# Script\n\n```json\n{"environment": []}\n```',
        '\n# Script\n\n```json\n[1]\n```\n# Turns so far\n\n```json\n[{"turn": 1}]\n```',
    ],
)
def test_what_it_does_not_understand_it_refuses_politely(client: openai.OpenAI, prompt: str):
    assert ask(client, [{"role": "user", "content": prompt}]) == REFUSAL


def test_a_script_that_is_no_world_of_ours_is_refused(client: openai.OpenAI):
    script = script_for("fetch").model_dump()
    script["environment"].pop("world")
    assert ask(client, trajectory_messages(BAKER, Script.model_validate(script))) == REFUSAL


@pytest.mark.parametrize("world", ["recover.kitchen.1", "fetch.ship.1", f"fetch.kitchen.{EVALUATION_SEEDS}"])
def test_a_world_that_models_are_evaluated_on_is_refused(client: openai.OpenAI, world: str):
    assert ask(client, trajectory_messages(BAKER, script_of(world_from_id(world)))) == REFUSAL


def test_another_model_name_is_not_found(client: openai.OpenAI):
    with pytest.raises(openai.NotFoundError, match="offline-teacher"):
        client.chat.completions.create(model="gpt-4o", messages=script_messages(BAKER))


@pytest.mark.parametrize(
    "body",
    [
        b"{",
        b"[]",
        b'{"model": "offline-teacher"}',
        b'{"model": "offline-teacher", "messages": []}',
        b'{"model": "offline-teacher", "messages": [{"role": "user", "content": "x"}], "stream": true}',
        b'{"model": "offline-teacher", "messages": [{"role": "user", "content": "x"}], "n": 2}',
        b'{"model": "offline-teacher", "messages": [{"role": "user", "content": 5}]}',
        b'{"model": "offline-teacher", "messages": [{"role": "user", "content": "x"}], "tools": []}',
        b'{"model": "offline-teacher", "messages": [{"role": "user", "content": "x"}], "logprobs": true}',
    ],
)
def test_a_malformed_request_is_told_what_is_wrong(server: str, body: bytes):
    response = httpx.post(f"{server}/chat/completions", content=body)
    assert response.status_code == 400
    assert response.json()["error"]["message"]


def test_the_same_request_gives_the_same_bytes_in_another_process(server: str):
    params = FAULTLESS.model_copy(update={"script_faults": 0.5, "trajectory_faults": 0.5})
    with simulated_teacher(params) as first, simulated_teacher(params) as second:
        for number, family in enumerate(TRAIN_FAMILIES):
            for messages in (script_messages(BAKER), trajectory_messages(BAKER, script_for(family))):
                body = {"model": "offline-teacher", "messages": messages, "seed": number}
                answers = [httpx.post(f"{url}/chat/completions", json=body).content for url in (first, second, first)]
                assert answers[0] == answers[1] == answers[2]


def test_every_answer_waits_for_the_latency_without_delaying_the_others():
    with simulated_teacher(FAULTLESS, "--latency", "0.5") as base_url, ThreadPoolExecutor(8) as pool:
        started = time.monotonic()
        list(pool.map(lambda seed: _post(base_url, seed), range(8)))
        assert 0.5 <= time.monotonic() - started < 2


def test_the_log_tells_of_every_request_before_its_answer(tmp_path: Path):
    log = tmp_path / "requests.jsonl"
    params = FAULTLESS.model_copy(update={"wire_faults": 0.5, "wire_fault_kinds": ["server_error", "truncated_body"]})
    with simulated_teacher(params, "--log", str(log)) as base_url:
        for seed in (1, 2, 3, 1, 1):
            with suppress(httpx.RemoteProtocolError):
                _post(base_url, seed)
            last = json.loads(log.read_text().splitlines()[-1])
            assert last["seed"] == seed
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    assert [(line["seed"], line["attempt"]) for line in lines] == [(1, 0), (2, 0), (3, 0), (1, 1), (1, 2)]
    assert len({line["key"] for line in lines}) == 3
    assert {line["outcome"] for line in lines} <= {"answered", "server_error", "truncated_body"}
    assert all(set(line) == {"time", "key", "seed", "attempt", "outcome", "batch"} for line in lines)


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        (["--log", "/nowhere/requests.jsonl"], "--log"),
        (["--state", "/proc/nowhere"], "--state"),
        (["--params", "{"], "--params"),
        (["--params", '{"wire_fault_kinds": ["gremlins"]}'], "wire_fault_kinds"),
        (["--params", '{"wire_fault_kinds": []}'], "wire_fault_kinds"),
    ],
)
def test_a_flag_that_cannot_be_followed_is_said_in_one_sentence(flags: list[str], expected: str):
    command = [sys.executable, "-m", "agentrefine.simulation", *flags]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=60)
    assert done.returncode == 1
    assert done.stderr.strip().count("\n") == 0
    assert expected in done.stderr


def _post(base_url: str, seed: int) -> httpx.Response:
    body = {"model": "offline-teacher", "messages": [{"role": "user", "content": "hello"}], "seed": seed}
    return httpx.post(f"{base_url}/chat/completions", json=body)


def test_another_sample_number_is_another_draw(client: openai.OpenAI):
    scripts = {ask(client, script_messages(BAKER), seed) for seed in range(6)}
    assert len(scripts) == 6


def _refuses_connections(base_url: str, within: float) -> bool:
    port = urlsplit(base_url).port
    deadline = time.monotonic() + within
    while time.monotonic() < deadline:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port or 0)) != 0:
                return True
        time.sleep(0.05)
    return False


def test_the_server_stops_when_the_block_is_left_by_an_exception():
    def failing() -> None:
        with simulated_teacher(FAULTLESS) as base_url:
            addresses.append(base_url)
            raise KeyboardInterrupt

    addresses: list[str] = []
    with pytest.raises(KeyboardInterrupt):
        failing()
    assert _refuses_connections(addresses[0], within=1)


def test_the_server_ends_when_its_parent_is_killed():
    program = (
        "import time\n"
        "from agentrefine.params.teacher import SimulatedTeacher\n"
        "from agentrefine.simulation.process import simulated_teacher\n"
        f"with simulated_teacher(SimulatedTeacher.model_validate_json({FAULTLESS.model_dump_json()!r})) as url:\n"
        "    print(url, flush=True)\n"
        "    time.sleep(600)\n"
    )
    parent = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True, cwd=ROOT)
    try:
        assert parent.stdout is not None
        base_url = parent.stdout.readline().strip()
        assert httpx.get(f"{base_url}/models").status_code == 200
    finally:
        os.kill(parent.pid, signal.SIGKILL)
        parent.wait()
    assert _refuses_connections(base_url, within=10)


def test_a_server_that_cannot_start_is_said_in_one_sentence(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(sys, "executable", "/bin/false")
    with refused("server_not_started"), simulated_teacher(FAULTLESS):
        pass


def test_a_port_in_use_is_said_in_one_sentence():
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        command = [sys.executable, "-m", "agentrefine.simulation", "--port", str(port)]
        done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=60)
    assert done.returncode != 0
    assert done.stderr.strip().count("\n") == 0
    assert str(port) in done.stderr
