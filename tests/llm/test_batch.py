"""The Batch API: nothing is submitted twice, nothing that was answered is lost, and what failed is asked by itself."""

import asyncio
import json
import sqlite3
from collections.abc import Coroutine, Iterator
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
from aiohttp import web
from openai.resources import AsyncBatches
from openai.types import Batch

from agentrefine.errors import UserError
from agentrefine.llm import batch as batches
from agentrefine.llm.batch import BatchLedger, OpenBatch
from agentrefine.llm.completion import Answer
from agentrefine.llm.journal import PAID, REPLAYED, Journal
from agentrefine.llm.throttle import STOPPED
from agentrefine.params.teacher import SimulatedTeacher, TeacherParams
from agentrefine.simulation.process import simulated_teacher
from agentrefine.synthesis.client import JournaledTeacher, run_numbers
from agentrefine.synthesis.prompts import script_messages
from tests.helpers.asking import Asked, price_list, settings
from tests.helpers.chat_server import ChatServer, answer, error
from tests.helpers.errors import misfit, refused
from tests.helpers.simulated_games import BAKER, FAULTLESS

pytestmark = pytest.mark.slow


@pytest.fixture(autouse=True)
def _quick(monkeypatch):
    monkeypatch.setattr(batches, "GATHER_SECONDS", 0.2)
    monkeypatch.setattr(batches, "_FIRST_POLL_SECONDS", 0.1)


class Endpoint:
    """A simulated teacher with a Batch API, and what its log says."""

    def __init__(self, base_url: str, log: Path) -> None:
        self.base_url = base_url
        self._log = log

    def asked(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self._log.read_text().splitlines()] if self._log.exists() else []

    def by_chat(self) -> int:
        return sum(line["batch"] is None for line in self.asked())

    def batches(self) -> list[dict[str, Any]]:
        listed = httpx.get(f"{self.base_url}/batches?limit=100").json()["data"]
        return [dict(batch) for batch in listed]


@pytest.fixture
def serve(tmp_path):
    """Starts simulated teachers that end with the test."""
    started: list[Any] = []

    def start(*flags: str, params: SimulatedTeacher = FAULTLESS) -> Endpoint:
        log = tmp_path / f"requests{len(started)}.jsonl"
        running = simulated_teacher(params, "--log", str(log), *flags)
        endpoint = Endpoint(running.__enter__(), log)
        started.append(running)
        return endpoint

    yield start
    for running in started:
        running.__exit__(None, None, None)


def params_for(endpoint: Endpoint, **changes: Any) -> TeacherParams:
    return settings(
        endpoint.base_url, **{"model": "offline-teacher", "transport": "batch", "max_tokens": 4000} | changes
    )


def scripts(teacher: JournaledTeacher, count: int) -> list[Coroutine[Any, Any, Answer]]:
    """Calls for so many scripts of one persona."""
    messages = script_messages(BAKER)
    return [teacher.complete(messages, kind="script", role="script", sample=sample) for sample in range(count)]


def ask(endpoint: Endpoint, journal: Journal, count: int = 6, seconds: float = 60, **changes: Any) -> Asked:
    """Ask for so many scripts of one persona at once."""
    params = params_for(endpoint, **changes)

    async def work() -> Asked:
        with run_numbers(journal.path.with_name("numbers"), params) as numbers:
            async with JournaledTeacher(params, journal, numbers) as teacher:
                done = await asyncio.wait_for(asyncio.gather(*scripts(teacher, count)), seconds)
            seen = {name: numbers[name] for name in ("spent", "reserved")}
            return Asked(list(done), int(numbers[PAID]), int(numbers[REPLAYED]), seen)

    try:
        return asyncio.run(work())
    finally:
        journal.path.with_name("numbers").unlink()


def open_batches(journal: Journal) -> list[tuple[str, str | None]]:
    with sqlite3.connect(journal.path) as ledger:
        found = ledger.execute("SELECT token, batch_id FROM batches").fetchall()
    ledger.close()
    return [(str(token), batch_id) for token, batch_id in found]


@pytest.fixture(scope="module")
def by_chat(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[str]]:
    """What the same calls are answered one by one."""
    folder = tmp_path_factory.mktemp("chat")
    with (
        simulated_teacher(FAULTLESS, "--log", str(folder / "log")) as base_url,
        Journal(folder / "answers.sqlite") as journal,
    ):
        yield ask(Endpoint(base_url, folder / "log"), journal, 12, transport="chat").texts


def test_a_batch_brings_each_call_its_own_answer_in_whatever_order(serve, journal, by_chat):
    """The simulated teacher writes its results in another order than the calls'."""
    endpoint = serve("--batch-seconds", "0.5")
    asked = ask(endpoint, journal, 12)
    assert asked.texts == by_chat
    assert (asked.paid, endpoint.by_chat()) == (12, 0)
    assert {batch["status"] for batch in endpoint.batches()} == {"completed"}
    assert len(endpoint.batches()) == 1
    assert all(completion.usage.batch for completion in asked.completions)
    assert open_batches(journal) == []
    assert ask(endpoint, journal, 12).replayed == 12


def test_batches_cost_their_share_of_the_price(serve, journal, tmp_path):
    endpoint = serve()
    prices = price_list(tmp_path, **{"offline-teacher": {"input": 0, "output": 1_000_000, "batch": 0.5}})
    asked = ask(endpoint, journal, prices=prices, max_cost=1e9)
    tokens = sum(completion.usage.completion_tokens for completion in asked.completions)
    assert asked.numbers["spent"] == pytest.approx(tokens / 2)
    assert asked.numbers["reserved"] == 0.0


def test_calls_that_failed_inside_a_batch_are_asked_one_by_one(serve, journal, by_chat):
    faulty = FAULTLESS.model_copy(update={"wire_faults": 0.5, "wire_fault_kinds": ["server_error"]})
    endpoint = serve(params=faulty)
    asked = ask(endpoint, journal, 12, max_retries=12)
    assert asked.texts == by_chat
    assert endpoint.by_chat() > 0
    assert len(endpoint.batches()) == 1
    assert {completion.usage.batch for completion in asked.completions} == {True, False}


def test_a_batch_without_a_single_answer_is_not_asked_again_at_the_full_price(serve, journal):
    faulty = FAULTLESS.model_copy(update={"wire_faults": 1.0, "wire_fault_kinds": ["server_error"]})
    endpoint = serve(params=faulty)
    with refused("batch_unanswered", calls=24):
        ask(endpoint, journal, 24)
    assert endpoint.by_chat() == 0


def test_what_an_expired_batch_did_not_come_to_is_asked_one_by_one(serve, journal, by_chat):
    endpoint = serve("--batch-seconds", "60", "--batch-window-seconds", "1")
    asked = ask(endpoint, journal, 12)
    assert asked.texts == by_chat
    assert [batch["status"] for batch in endpoint.batches()] == ["expired"]
    assert open_batches(journal) == []


def test_a_cancelled_batch_is_asked_one_by_one(serve, journal, by_chat):
    endpoint = serve("--batch-seconds", "60")

    async def cancel_soon() -> None:
        while not (open_ones := endpoint.batches()):
            await asyncio.sleep(0.1)
        httpx.post(f"{endpoint.base_url}/batches/{open_ones[0]['id']}/cancel")

    async def work() -> list[str]:
        params = params_for(endpoint)
        with run_numbers(journal.path.with_name("numbers"), params) as numbers:
            async with JournaledTeacher(params, journal, numbers) as teacher:
                calls = asyncio.gather(*scripts(teacher, 12))
                done, _ = await asyncio.wait_for(asyncio.gather(calls, cancel_soon()), 60)
            return [completion.text for completion in done]

    assert asyncio.run(work()) == by_chat
    assert endpoint.batches()[0]["status"] in ("cancelled", "cancelling")


def test_calls_go_into_several_batches_by_size(serve, journal, by_chat):
    endpoint = serve()
    assert ask(endpoint, journal, 12, batch_calls=5).texts == by_chat
    assert sorted(batch["request_counts"]["total"] for batch in endpoint.batches()) == [2, 5, 5]


def test_calls_go_into_several_batches_by_bytes(serve, journal, by_chat, monkeypatch):
    line = len(json.dumps(script_messages(BAKER))) + 250
    monkeypatch.setattr(batches, "MAX_BYTES", 6 * line)
    endpoint = serve()
    assert ask(endpoint, journal, 12).texts == by_chat
    assert len(endpoint.batches()) >= 2


def test_a_run_that_died_after_it_had_submitted_resumes_its_batch(serve, journal, by_chat):
    endpoint = serve("--batch-seconds", "3")
    with pytest.raises(TimeoutError):
        ask(endpoint, journal, 12, seconds=1.5)
    ((_, batch_id),) = open_batches(journal)
    assert batch_id == endpoint.batches()[0]["id"]
    asked = ask(endpoint, journal, 12)
    assert asked.texts == by_chat
    assert (len(endpoint.batches()), endpoint.by_chat()) == (1, 0), "nothing is submitted twice"
    assert len(endpoint.asked()) == 12


def test_a_run_that_died_before_it_knew_the_batchs_id_finds_it_by_its_token(serve, journal, by_chat):
    endpoint = serve("--batch-seconds", "3")
    with pytest.raises(TimeoutError):
        ask(endpoint, journal, 12, seconds=1.5)
    with sqlite3.connect(journal.path) as ledger:
        ledger.execute("UPDATE batches SET batch_id = NULL")
    ledger.close()
    assert ask(endpoint, journal, 12).texts == by_chat
    assert len(endpoint.batches()) == 1
    assert len(endpoint.asked()) == 12


def test_a_batch_that_never_came_into_being_is_forgotten_and_made_again(serve, journal, by_chat):
    endpoint = serve()
    who = f"{endpoint.base_url} offline-teacher OPENAI_API_KEY"
    ledger = BatchLedger(journal.path, who)
    ledger.keep(OpenBatch("0" * 32, None, {"some key": 100}))
    ledger.close()
    assert len(open_batches(journal)) == 1
    assert ask(endpoint, journal, 12).texts == by_chat
    assert len(endpoint.batches()) == 1
    assert open_batches(journal) == []


def test_a_batch_that_the_endpoint_has_forgotten_is_asked_again(serve, journal, by_chat, caplog):
    endpoint = serve()
    ledger = BatchLedger(journal.path, f"{endpoint.base_url} offline-teacher OPENAI_API_KEY")
    ledger.keep(OpenBatch("0" * 32, "batch_of_another_life", {"some key": 100}))
    ledger.close()
    assert ask(endpoint, journal, 12).texts == by_chat
    assert "no longer knows it" in caplog.text


def test_more_calls_than_an_open_batch_held_are_asked_besides(serve, journal, by_chat):
    endpoint = serve("--batch-seconds", "2")
    with pytest.raises(TimeoutError):
        ask(endpoint, journal, 6, seconds=1)
    assert ask(endpoint, journal, 12).texts == by_chat
    assert sorted(batch["request_counts"]["total"] for batch in endpoint.batches()) == [6, 6]
    assert len(endpoint.asked()) == 12


def test_a_batch_whose_reply_was_lost_is_not_made_twice(serve, journal, by_chat, monkeypatch):
    """The endpoint has made the batch when the connection breaks: the batch is found by its token."""
    endpoint = serve()
    make = AsyncBatches.create
    lost = []

    async def make_and_lose(batches: AsyncBatches, **arguments: Any) -> Batch:
        made = await make(batches, **arguments)
        lost.append(made.id)
        raise openai.APIConnectionError(request=httpx.Request("POST", endpoint.base_url))

    monkeypatch.setattr(AsyncBatches, "create", make_and_lose)
    assert ask(endpoint, journal, 12).texts == by_chat
    assert [batch["id"] for batch in endpoint.batches()] == lost


def test_a_refused_batch_is_one_sentence(serve, journal, monkeypatch):
    endpoint = serve()
    monkeypatch.setattr(batches.BatchTransport, "_line", lambda *_: b'{"custom_id": 5}\n')
    with refused("batch_refused", key="teacher.transport"):
        ask(endpoint, journal, 3)
    assert endpoint.by_chat() == 0


def test_a_ledger_that_cannot_be_written_ends_the_run_in_one_sentence(serve, journal, monkeypatch):
    endpoint = serve()

    def full(*_: object) -> None:
        raise UserError("not_writable", "answers.sqlite: cannot be written (disk full).", file="answers.sqlite")

    monkeypatch.setattr(BatchLedger, "keep", full)
    with refused("not_writable", file="answers.sqlite"):
        ask(endpoint, journal, 3, seconds=20)
    assert endpoint.batches() == []


def test_an_endpoint_without_a_batch_api_is_one_sentence(journal):
    with ChatServer(lambda number, request: answer()) as server:
        endpoint = Endpoint(server.base_url, Path("none"))
        with refused("unknown_model_or_path", status=404):
            ask(endpoint, journal, 3)
        assert server.requests == []


def test_a_run_that_is_stopped_leaves_its_batch_to_the_next(serve, journal, by_chat):
    endpoint = serve("--batch-seconds", "4")
    params = params_for(endpoint)

    async def work() -> None:
        with run_numbers(journal.path.with_name("numbers"), params) as numbers:
            async with JournaledTeacher(params, journal, numbers) as teacher:
                calls = asyncio.gather(*scripts(teacher, 12))
                await asyncio.sleep(1)
                numbers[STOPPED] = 1.0
                await asyncio.wait_for(calls, 3)

    with refused("stopped"):
        asyncio.run(work())
    journal.path.with_name("numbers").unlink()
    assert len(open_batches(journal)) == 1
    assert ask(endpoint, journal, 12).texts == by_chat
    assert len(endpoint.batches()) == 1


def test_batches_of_other_models_and_accounts_are_left_alone(tmp_path):
    Journal(tmp_path / "answers.sqlite").close()
    one, other = (BatchLedger(tmp_path / "answers.sqlite", f"http://a/v1 {model} KEY") for model in ("m", "n"))
    one.keep(OpenBatch("a", "batch_1", {"key": 5}))
    assert other.open_batches() == []
    assert one.open_batches() == [OpenBatch("a", "batch_1", {"key": 5})]
    one.close()
    other.close()


def test_more_processes_than_a_batch_needs_are_refused():
    with misfit(key="teacher.processes", most=1):
        settings("http://127.0.0.1:1/v1", transport="batch", processes=2)
    with misfit(key="teacher.processes", most=2):
        settings("http://127.0.0.1:1/v1", concurrency=2, processes=3)


class RefusingBatches:
    """A Batch API of a model that takes no `max_tokens`, over HTTP; `inputs` holds the bodies of each batch's calls."""

    def __init__(self) -> None:
        self.inputs: list[list[dict[str, Any]]] = []
        self._files: dict[str, bytes] = {}

    def routes(self) -> list[web.RouteDef]:
        return [
            web.post("/v1/files", self._upload),
            web.get("/v1/files/{id}/content", self._content),
            web.post("/v1/batches", self._create),
            web.get("/v1/batches/{id}", self._state),
            web.get("/v1/batches", self._none),
        ]

    async def _upload(self, request: web.Request) -> web.Response:
        form = await request.post()
        name = f"in{len(self._files)}"
        self._files[name] = form["file"].file.read()
        return web.json_response(
            {"id": name, "object": "file", "bytes": 1, "created_at": 1, "filename": "f", "purpose": "batch"}
        )

    async def _create(self, request: web.Request) -> web.Response:
        lines = [json.loads(line) for line in self._files[(await request.json())["input_file_id"]].splitlines()]
        self.inputs.append([line["body"] for line in lines])
        refusal = {"error": {"message": "'max_tokens' is not supported. Use 'max_completion_tokens' instead."}}
        results = [
            {"custom_id": line["custom_id"], "response": {"status_code": 400, "body": refusal}}
            if "max_tokens" in line["body"]
            else {"custom_id": line["custom_id"], "response": {"status_code": 200, "body": answer("said")}}
            for line in lines
        ]
        self._files[f"out{len(self.inputs)}"] = b"\n".join(json.dumps(result).encode() for result in results)
        return self._batch(len(self.inputs))

    async def _state(self, request: web.Request) -> web.Response:
        return self._batch(int(request.match_info["id"]))

    async def _content(self, request: web.Request) -> web.Response:
        return web.Response(body=self._files[request.match_info["id"]])

    async def _none(self, request: web.Request) -> web.Response:
        return web.json_response({"object": "list", "data": [], "has_more": False})

    def _batch(self, number: int) -> web.Response:
        state = {"id": str(number), "object": "batch", "endpoint": "/v1/chat/completions", "input_file_id": "x"}
        times = {"completion_window": "24h", "created_at": 1, "status": "completed", "output_file_id": f"out{number}"}
        return web.json_response(state | times)


def test_calls_that_a_batch_refused_for_a_parameter_go_into_the_next_one_without_it(journal, monkeypatch):
    monkeypatch.setattr(batches, "GATHER_SECONDS", 0.1)
    batches_api = RefusingBatches()
    with ChatServer(lambda number, request: error(500), batches_api.routes()) as server:
        done = ask(Endpoint(server.base_url, Path("none")), journal, 24, model="m")
    assert done.texts == ["said"] * 24
    assert [len(calls) for calls in batches_api.inputs] == [24, 24]
    assert {call["max_completion_tokens"] for call in batches_api.inputs[1]} == {4000}
    assert server.requests == [], "nothing is asked one by one at the full price"
