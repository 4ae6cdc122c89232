"""The offline teacher: what it writes (in process), and its server as the official client meets it (over HTTP)."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from random import Random
from typing import Any
from urllib.parse import urlsplit

import httpx
import openai
import pytest
from pydantic import ValidationError

from agentrefine.errors import UserError
from agentrefine.params import OfflineTeacher, load_params
from agentrefine.personas import Persona, load_personas
from agentrefine.script import Script
from agentrefine.script_checks import verify_script
from agentrefine.synthesis import SAMPLES_PER_CALL
from agentrefine.teacher.offline import faults, offline_teacher
from agentrefine.teacher.offline.answers import REFUSAL, answer
from agentrefine.teacher.offline.draws import generator
from agentrefine.teacher.offline.game import write_game
from agentrefine.teacher.offline.themes import theme_words, world_for
from agentrefine.teacher.offline.thoughts import words
from agentrefine.teacher.prompts import (
    continuation_messages,
    script_messages,
    script_retry_messages,
    trajectory_messages,
)
from agentrefine.trajectory import error_refine_turns, parse_turns, steps
from agentrefine.verification import verify_trajectory
from agentrefine.worlds.catalogue import families, themes, vocabulary
from agentrefine.worlds.layout import EVALUATION_SEEDS, world_from_id
from agentrefine.worlds.script_of import script_of

ROOT = Path(__file__).parent.parent
PARAMS = load_params(ROOT / "params.yaml")
DEMANDS = PARAMS.verification
FAULTLESS = OfflineTeacher(script_faults=0.0, trajectory_faults=0.0, wire_faults=0.0, mistakes=[2, 3])
BAKER = Persona(id="baker", text="A baker in Ghent who sells bread to night workers")
TRAIN = [family.name for family in families("train")]
FLAGS = ("parameter_error", "logic_error", "place_error")


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    with offline_teacher(FAULTLESS) as base_url:
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


def script_for(family: str, seed: int = 3) -> Script:
    return script_of(world_from_id(f"{family}.kitchen.{seed}"))


def games(count: int, mistakes: tuple[int, int] = (2, 3)) -> Iterator[tuple[Script, list[dict[str, Any]]]]:
    for number in range(count):
        world = world_for(f"persona {number // len(TRAIN)}", number)
        yield script_of(world), write_game(world, [], mistakes, generator("test", str(number)))


# What it writes.


@pytest.mark.parametrize("family", TRAIN)
def test_script_then_game_of_every_train_family_pass_verification(client: openai.OpenAI, family: str):
    seed = next(n for n in range(len(TRAIN)) if world_for(BAKER.text, n).family == family)
    script, problem = verify_script(ask(client, script_messages(BAKER), seed))
    assert problem is None
    assert script is not None
    text = ask(client, trajectory_messages(script), seed)
    kept, problem = verify_trajectory(script, text, DEMANDS)
    assert problem is None
    assert error_refine_turns(kept) >= 2
    assert kept[-1].task_completed


def test_games_hold_all_kinds_of_mistakes_and_runs_of_them():
    kinds = dict.fromkeys(FLAGS, 0)
    runs: dict[int, int] = {}
    for script, turns in games(130):
        kept, problem = verify_trajectory(script, faults.turns_text(turns), DEMANDS)
        assert problem is None, script.environment["world"]
        assert 2 <= error_refine_turns(kept) <= 3
        run = 0
        for step in steps(kept):
            run = run + 1 if step.answer.error else 0
            runs[run] = runs.get(run, 0) + 1
            for kind in FLAGS:
                kinds[kind] += getattr(step.answer, kind)
    assert min(kinds.values()) > 0.2 * sum(kinds.values())
    assert 0 < runs[2] < 0.4 * runs[1]
    assert runs.keys() <= {0, 1, 2, 3}


def test_a_mistake_carries_a_wrong_belief_and_the_next_thought_cites_the_error_and_acts_otherwise():
    for _, turns in games(130):
        moves = [(player, dm) for player, dm in pairwise(turns) if player["role"] == "Player"]
        for (player, dm), (following, _) in pairwise(moves):
            if not any(dm[flag] for flag in FLAGS):
                continue
            belief = dm["thought"].removeprefix("the player believes that ").split(" , but that is wrong")[0]
            assert belief in player["thought"]
            assert f"i {player['action']} ." in player["thought"]
            cited = following["thought"].split(" . ")[0]
            said = cited.replace("i hold", "you hold").replace("i do", "you do").replace("i am", "you are")
            said = said.replace("my", "your")
            assert said in dm["observation"] or cited.endswith("is not a known action")
            assert following["action"] != player["action"]


def test_mistakes_concern_only_what_the_player_has_read():
    for script, turns in games(130):
        read = set(f"{script.goal} {' '.join(script.available_actions)}".split())
        for turn in turns:
            if turn["role"] == "DM":
                read.update(turn["observation"].split())
            elif not _next_turn(turns, turn)["parameter_error"]:
                assert set(turn["action"].split()) <= read


def _next_turn(turns: list[dict[str, Any]], turn: dict[str, Any]) -> dict[str, Any]:
    return turns[turn["turn"]]


def test_mistakes_are_spread_over_the_games():
    places = [
        number / len(turns)
        for _, turns in games(130)
        for number, turn in enumerate(turns)
        if turn["role"] == "DM" and any(turn[flag] for flag in FLAGS)
    ]
    thirds = [sum(low <= place < low + 1 / 3 for place in places) for low in (0, 1 / 3, 2 / 3)]
    assert min(thirds) > 0.15 * len(places)


def test_every_word_of_a_thought_is_in_the_vocabulary():
    known = words() | vocabulary()
    strange = {
        word
        for _, turns in games(260)
        for turn in turns
        for word in f"{turn.get('action', '')} {turn['thought'] if turn['role'] == 'Player' else ''}".split()
        if word not in known
    }
    assert strange == set()


def test_a_rejected_game_is_continued_from_its_sound_turns():
    for number, (script, turns) in enumerate(games(40)):
        kept = parse_turns(faults.turns_text(turns)).turns[: 2 * (number % 7) + 1]
        if kept[-1].turn == len(turns):
            continue
        prompt = continuation_messages(script, kept, "Turn 9 is wrong.")[0]["content"]
        text = answer(prompt, str(number), 0, FAULTLESS)
        whole, problem = verify_trajectory(script, text, DEMANDS, kept)
        assert problem is None
        assert whole[: len(kept)] == kept
        if kept[-1].error:
            assert " . " in whole[len(kept)].thought


def test_feedback_brings_a_new_draw_of_the_same_world():
    params = FAULTLESS.model_copy(update={"script_faults": 0.5})
    worlds, passed = set(), set()
    for call in range(12):
        prompt = script_retry_messages(BAKER, f"Reason {call}.")[0]["content"]
        script, problem = verify_script(answer(prompt, str(call), 4 + call * SAMPLES_PER_CALL, params))
        passed.add(problem is None)
        worlds |= {script.environment["world"]} if script else set()
    assert len(worlds) == 1
    assert passed == {True, False}


def test_held_out_families_themes_and_layouts_never_appear():
    allowed = {theme.name for theme in themes("train")}
    assert set(theme_words().values()) == allowed
    seen = set()
    for persona in load_personas(ROOT / "data" / "personas.jsonl", limit=60):
        for sample in range(4):
            world = world_for(persona.text, sample)
            seen.add((world.family, world.theme))
            assert 0 <= world.seed < EVALUATION_SEEDS
    assert {family for family, _ in seen} == set(TRAIN)
    assert {theme for _, theme in seen} == allowed


def test_a_persona_gets_a_theme_that_fits_it():
    assert world_for("A pastry chef from Lyon", 0).theme == "kitchen"
    assert world_for("A night nurse in Manila", 5).theme == "hospital"


# Bad answers.

SCRIPT_RULES = {
    faults.regex_rejects_own_action: {"action_mismatch"},
    faults.lookahead_in_regex: {"nonlinear_regex"},
    faults.script_without_key: {"script_keys"},
    faults.script_cut_off: {"cut_off"},
    faults.value_not_in_environment: {"unknown_value"},
    faults.ambiguous_templates: {"ambiguous_actions"},
    faults.placeholder_without_values: {"placeholders"},
    faults.script_in_prose: {"not_json"},
}
TRAJECTORY_RULES = {
    faults.unflagged_parameter_error: {"unflagged_error"},
    faults.false_alarm: {"false_alarm"},
    faults.turn_without_key: {"turn_keys"},
    faults.game_in_prose: {"not_json"},
    faults.game_cut_off: {"cut_off"},
    faults.unfinished: {"unfinished"},
    faults.refinement_repeats_failure: {"repeated_mistake"},
    faults.leaked_environment: {"environment_leak"},
    faults.completed_too_early: {"early_completion", "completed_on_error", "completed_at_start"},
    faults.turn_left_out: {"role_order", "turn_number"},
}


def test_every_fault_has_its_rule():
    assert set(SCRIPT_RULES) == set(faults.SCRIPT_FAULTS)
    assert set(TRAJECTORY_RULES) == set(faults.TRAJECTORY_FAULTS)


@pytest.mark.parametrize("fault", faults.SCRIPT_FAULTS, ids=lambda fault: fault.__name__)
def test_a_spoilt_script_is_rejected_by_the_rule_meant_for_it(fault: faults.ScriptFault):
    for number, family in enumerate(TRAIN):
        good = script_for(family).model_dump()
        before = json.dumps(good)
        text = fault(good, Random(number))
        assert json.dumps(good) == before, "a fault must not change what it is given"
        assert text is not None
        problem = verify_script(text).problem
        assert problem is not None
        assert problem.rule.value in SCRIPT_RULES[fault], (family, problem)


@pytest.mark.parametrize("fault", faults.TRAJECTORY_FAULTS, ids=lambda fault: fault.__name__)
def test_a_spoilt_game_is_rejected_by_the_rule_meant_for_it(fault: faults.TrajectoryFault):
    spoilt = 0
    for number, (script, turns) in enumerate(games(40)):
        before = json.dumps(turns)
        text = fault(turns, script.environment, Random(number))
        assert json.dumps(turns) == before, "a fault must not change what it is given"
        if text is None:
            continue
        spoilt += 1
        problem = verify_trajectory(script, text, DEMANDS).problem
        assert problem is not None
        assert problem.rule.value in TRAJECTORY_RULES[fault], problem
    assert spoilt >= 20


def test_a_game_that_is_too_clean_is_rejected():
    for script, turns in games(20, mistakes=(0, 1)):
        problem = verify_trajectory(script, faults.turns_text(turns), DEMANDS).problem
        assert problem is not None
        assert problem.rule.value == "too_few_refinements"


def test_at_the_default_rates_a_quarter_of_the_first_answers_is_rejected():
    asked = rejected = 0
    for persona in load_personas(ROOT / "data" / "personas.jsonl", limit=75):
        for sample in range(2):
            key = f"{persona.id} {sample}"
            prompt = script_messages(persona)[0]["content"]
            script, problem = verify_script(answer(prompt, key, sample, PARAMS.teacher.offline))
            asked, rejected = asked + 1, rejected + (problem is not None)
            if script is not None:
                prompt = trajectory_messages(script)[0]["content"]
                text = answer(prompt, f"game {key}", sample, PARAMS.teacher.offline)
                problem = verify_trajectory(script, text, DEMANDS).problem
                asked, rejected = asked + 1, rejected + (problem is not None)
    assert 0.25 <= rejected / asked <= 0.4


# The server.


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


def test_it_says_that_it_is_a_rule_based_stand_in(client: openai.OpenAI):
    (model,) = client.models.list().data
    assert model.id == "offline-teacher"
    assert "rule-based stand-in" in model.owned_by
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
    assert ask(client, trajectory_messages(Script.model_validate(script))) == REFUSAL


@pytest.mark.parametrize("world", ["recover.kitchen.1", "fetch.ship.1", f"fetch.kitchen.{EVALUATION_SEEDS}"])
def test_a_world_that_models_are_evaluated_on_is_refused(client: openai.OpenAI, world: str):
    assert ask(client, trajectory_messages(script_of(world_from_id(world)))) == REFUSAL


def test_a_game_that_is_over_is_continued_by_nothing():
    spoiling = FAULTLESS.model_copy(update={"trajectory_faults": 1.0})
    script, turns = next(games(1))
    kept = parse_turns(faults.turns_text(turns)).turns
    prompt = continuation_messages(script, kept, "Nothing.")[0]["content"]
    assert {answer(prompt, str(n), 0, spoiling).removeprefix("```json\n").removesuffix("\n```") for n in range(30)} == {
        "[]"
    }


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
    ],
)
def test_a_malformed_request_is_told_what_is_wrong(server: str, body: bytes):
    response = httpx.post(f"{server}/chat/completions", content=body)
    assert response.status_code == 400
    assert response.json()["error"]["message"]


def test_the_same_request_gives_the_same_bytes_in_another_process(server: str):
    params = FAULTLESS.model_copy(update={"script_faults": 0.5, "trajectory_faults": 0.5})
    with offline_teacher(params) as first, offline_teacher(params) as second:
        for number, family in enumerate(TRAIN):
            for messages in (script_messages(BAKER), trajectory_messages(script_for(family))):
                body = {"model": "offline-teacher", "messages": messages, "seed": number}
                answers = [httpx.post(f"{url}/chat/completions", json=body).content for url in (first, second, first)]
                assert answers[0] == answers[1] == answers[2]


def test_another_sample_number_is_another_draw(client: openai.OpenAI):
    scripts = {ask(client, script_messages(BAKER), seed) for seed in range(6)}
    assert len(scripts) == 6


def test_failures_on_the_wire_are_survived_by_retries():
    params = FAULTLESS.model_copy(update={"wire_faults": 0.5})
    with offline_teacher(params) as base_url:
        statuses: set[int] = set()
        for seed in range(60):
            body = {"model": "offline-teacher", "messages": [{"role": "user", "content": "hello"}], "seed": seed}
            response = httpx.post(f"{base_url}/chat/completions", json=body)
            statuses.add(response.status_code)
            if response.status_code == 429:
                assert float(response.headers["Retry-After"]) < 1
        assert statuses == {200, 429, 500, 503}
        with openai.OpenAI(base_url=base_url, api_key="none needed", max_retries=10) as patient:
            for seed in (100, 101, 102):
                assert verify_script(ask(patient, script_messages(BAKER), seed)).problem is None


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
        with offline_teacher(FAULTLESS) as base_url:
            addresses.append(base_url)
            raise KeyboardInterrupt

    addresses: list[str] = []
    with pytest.raises(KeyboardInterrupt):
        failing()
    assert _refuses_connections(addresses[0], within=1)


def test_the_server_ends_when_its_parent_is_killed():
    program = (
        "import time\n"
        "from agentrefine.params import OfflineTeacher\n"
        "from agentrefine.teacher.offline import offline_teacher\n"
        f"with offline_teacher(OfflineTeacher.model_validate_json({FAULTLESS.model_dump_json()!r})) as url:\n"
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
    with pytest.raises(UserError, match="did not start"), offline_teacher(FAULTLESS):
        pass


@pytest.mark.parametrize("mistakes", [[3, 2], [-1, 2], [2]])
def test_a_range_of_mistakes_that_is_none_is_refused(mistakes: list[int]):
    with pytest.raises(ValidationError, match="mistakes"):
        OfflineTeacher(script_faults=0.0, trajectory_faults=0.0, wire_faults=0.0, mistakes=mistakes)


def test_a_port_in_use_is_said_in_one_sentence():
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        command = [sys.executable, "-m", "agentrefine.teacher.offline", "--port", str(port)]
        done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=60)
    assert done.returncode != 0
    assert done.stderr.strip().count("\n") == 0
    assert str(port) in done.stderr
