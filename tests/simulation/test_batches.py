"""The simulated teacher's files and batches, as the official client meets them."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
from openai.types import Batch

from agentrefine.params.teacher import SimulatedTeacher
from agentrefine.simulation.batches import Batches
from agentrefine.simulation.process import simulated_teacher
from agentrefine.synthesis.prompts import script_messages
from tests.helpers.errors import refused
from tests.helpers.simulated_games import BAKER, FAULTLESS, ROOT

ENDED = ("completed", "failed", "expired", "cancelled")
Lines = list[dict[str, Any]]


@contextmanager
def connected(base_url: str) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=base_url, api_key="none needed", max_retries=0) as client:
        yield client


@contextmanager
def serving(*flags: str, params: SimulatedTeacher = FAULTLESS) -> Iterator[openai.OpenAI]:
    with simulated_teacher(params, *flags) as base_url, connected(base_url) as client:
        yield client


@pytest.fixture(scope="module")
def client() -> Iterator[openai.OpenAI]:
    with serving() as client:
        yield client


def requests(count: int, **changes: Any) -> Lines:
    """Requests for scripts, one for each sample."""
    body = {"model": "offline-teacher", "messages": script_messages(BAKER), "temperature": 1.0}
    return [
        {"custom_id": f"baker-{n}", "method": "POST", "url": "/v1/chat/completions", "body": body | {"seed": n}}
        | changes
        for n in range(count)
    ]


def submit(client: openai.OpenAI, lines: Lines | bytes, **settings: Any) -> Batch:
    content = lines if isinstance(lines, bytes) else "\n".join(map(json.dumps, lines)).encode()
    file = client.files.create(file=("requests.jsonl", content), purpose="batch")
    return client.batches.create(
        input_file_id=file.id, endpoint="/v1/chat/completions", completion_window="24h", **settings
    )


def ended(client: openai.OpenAI, batch_id: str, within: float = 30) -> Batch:
    deadline = time.monotonic() + within
    while time.monotonic() < deadline:
        batch = client.batches.retrieve(batch_id)
        if batch.status in ENDED:
            return batch
        time.sleep(0.05)
    raise AssertionError(f"batch {batch_id} has not ended")


def in_progress(client: openai.OpenAI, batch_id: str, executed: int, within: float = 30) -> Batch:
    """The batch once so many of its requests are executed."""
    deadline = time.monotonic() + within
    while time.monotonic() < deadline:
        batch = client.batches.retrieve(batch_id)
        if batch.request_counts is not None and batch.request_counts.completed >= executed:
            return batch
        time.sleep(0.02)
    raise AssertionError(f"batch {batch_id} does not get on")


def read(client: openai.OpenAI, file_id: str | None) -> Lines:
    assert file_id is not None
    return [json.loads(line) for line in client.files.content(file_id).text.splitlines()]


def test_a_file_comes_back_byte_for_byte(client: openai.OpenAI):
    content = '{"text": "Zoë\\u00e9 “bread” \U0001f35e"}\r\n\n--not-a-boundary\r\n\x00\xff'.encode() + b"\xff\xfe \n\n"
    file = client.files.create(file=("anything.jsonl", content), purpose="batch")
    assert (file.bytes, file.filename, file.purpose, file.status) == (
        len(content), "anything.jsonl", "batch", "processed",
    )  # fmt: skip
    assert client.files.retrieve(file.id) == file
    assert client.files.content(file.id).read() == content


def test_a_batch_answers_every_request_as_a_call_would_in_another_order(client: openai.OpenAI):
    lines = requests(8)
    batch = submit(client, lines, metadata={"run": "7"})
    assert batch.status == "validating"
    assert batch.metadata == {"run": "7"}
    batch = ended(client, batch.id)
    assert batch.status == "completed"
    assert batch.request_counts is not None
    assert batch.request_counts.model_dump() == {"completed": 8, "failed": 0, "total": 8}
    assert batch.error_file_id is None
    assert batch.created_at <= (batch.in_progress_at or 0) <= (batch.finalizing_at or 0) <= (batch.completed_at or 0)
    output = read(client, batch.output_file_id)
    asked, answered = ([line["custom_id"] for line in some] for some in (lines, output))
    assert sorted(asked) == sorted(answered)
    assert asked != answered
    bodies = {line["custom_id"]: line["body"] for line in lines}
    for line in output:
        assert set(line) == {"id", "custom_id", "response", "error"}
        assert line["error"] is None
        assert line["response"]["status_code"] == 200
        called = client.chat.completions.create(**bodies[line["custom_id"]])
        assert line["response"]["body"] == json.loads(called.model_dump_json(exclude_unset=True))


def test_a_request_that_fails_is_in_the_error_file_and_may_be_asked_again(tmp_path: Path):
    log = tmp_path / "requests.jsonl"
    params = FAULTLESS.model_copy(update={"wire_faults": 0.5})
    with serving("--log", str(log), params=params) as client:
        answered: set[str] = set()
        statuses: set[int] = set()
        lines = requests(40)
        for _ in range(20):
            batch = ended(client, submit(client, [x for x in lines if x["custom_id"] not in answered]).id)
            assert batch.status == "completed"
            if batch.output_file_id:
                answered |= {line["custom_id"] for line in read(client, batch.output_file_id)}
            if batch.error_file_id is None:
                break
            failed = read(client, batch.error_file_id)
            assert batch.request_counts is not None
            assert len(failed) == batch.request_counts.failed
            statuses |= {line["response"]["status_code"] for line in failed}
            assert all(line["response"]["body"]["error"]["message"] for line in failed)
        assert answered == {line["custom_id"] for line in lines}
        assert statuses == {429, 500, 503}
    logged = [json.loads(line) for line in log.read_text().splitlines()]
    assert sum(line["outcome"] == "answered" for line in logged) == 40
    assert all(line["batch"].startswith("batch_") for line in logged)


def test_a_body_that_is_refused_fails_alone(client: openai.OpenAI):
    lines = requests(3)
    lines[1]["body"] |= {"response_format": {"type": "json_object"}}
    batch = ended(client, submit(client, lines).id)
    assert {line["custom_id"] for line in read(client, batch.output_file_id)} == {"baker-0", "baker-2"}
    (failed,) = read(client, batch.error_file_id)
    assert failed["response"]["status_code"] == 400
    assert failed["response"]["body"]["error"]["param"] == "response_format"


@pytest.mark.parametrize(
    ("lines", "code", "line"),
    [
        (b'{"custom_id": "a", ', "invalid_json_line", 1),
        (b"\n\n", "empty_file", None),
        (requests(2) + requests(1), "duplicate_custom_id", 3),
        (requests(1) + requests(1, custom_id="x", url="/v1/embeddings"), "url_mismatch", 2),
        (requests(1, method="GET"), "invalid_value", 1),
        ([{"custom_id": "a", "method": "POST", "url": "/v1/chat/completions"}], "missing_required_parameter", 1),
        (requests(1, body={"model": "gpt-4o", "messages": []}), "model_not_found", 1),
        (b"[1, 2]", "invalid_value", 1),
    ],
)
def test_a_broken_input_file_fails_the_batch_and_names_the_line(
    client: openai.OpenAI, lines: Lines | bytes, code: str, line: int | None
):
    batch = ended(client, submit(client, lines).id)
    assert batch.status == "failed"
    assert batch.failed_at is not None
    assert batch.output_file_id is batch.error_file_id is None
    assert batch.errors is not None
    (error,) = batch.errors.data or []
    assert (error.code, error.line) == (code, line)
    assert error.message


def test_an_input_file_that_is_not_there_fails_the_batch(client: openai.OpenAI):
    batch = client.batches.create(
        input_file_id="file-nowhere", endpoint="/v1/chat/completions", completion_window="24h"
    )
    errors = ended(client, batch.id).errors
    assert errors is not None
    assert "file-nowhere" in str(errors.data)


def test_what_is_not_there_is_not_found(client: openai.OpenAI):
    for look_up in (client.files.retrieve, client.files.content, client.batches.retrieve, client.batches.cancel):
        with pytest.raises(openai.NotFoundError, match="no-such-id"):
            look_up("no-such-id")


@pytest.mark.parametrize(
    ("form", "expected"),
    [
        ({"data": {"purpose": "vision"}, "files": {"file": ("a.jsonl", b"")}}, "vision"),
        ({"data": {"purpose": "batch"}, "files": {"file": ("a.csv", b"")}}, "jsonl"),
        ({"files": {"file": ("a.jsonl", b"")}}, "purpose"),
        ({"data": {"purpose": "batch"}, "files": {"other": ("a.jsonl", b"")}}, "other"),
        ({"json": {"purpose": "batch"}}, "multipart"),
        ({"content": b"no form", "headers": {"Content-Type": "multipart/form-data; boundary=x"}}, "boundary"),
    ],
)
def test_a_bad_upload_is_refused_with_its_reason(client: openai.OpenAI, form: dict[str, Any], expected: str):
    response = httpx.post(f"{client.base_url}files", **form)
    assert response.status_code == 400
    assert expected in response.json()["error"]["message"]


@pytest.mark.parametrize(
    "changes", [{"endpoint": "/v1/embeddings"}, {"completion_window": "1h"}, {"output_expires_after": {"seconds": 1}}]
)
def test_a_bad_request_for_a_batch_is_refused_with_its_reason(client: openai.OpenAI, changes: dict[str, Any]):
    body = {"input_file_id": "file-1", "endpoint": "/v1/chat/completions", "completion_window": "24h"} | changes
    response = httpx.post(f"{client.base_url}batches", json=body)
    assert response.status_code == 400
    assert next(iter(changes)) in response.json()["error"]["message"]


def test_batches_are_listed_in_pages_the_newest_first():
    with serving() as client:
        created = [submit(client, requests(1), metadata={"number": str(n)}).id for n in range(5)]
        page = client.batches.list(limit=2)
        assert [batch.id for batch in page.data] == created[:-3:-1]
        assert page.has_more
        assert [batch.id for batch in client.batches.list(limit=2)] == created[::-1]
        assert [batch.id for batch in client.batches.list(after=created[2])] == created[1::-1]
        assert [(batch.metadata or {})["number"] for batch in client.batches.list()] == list("43210")
        for limit in ("0", "101", "many"):
            assert httpx.get(f"{client.base_url}batches", params={"limit": limit}).status_code == 400


def test_a_batch_is_in_progress_for_its_time_and_calls_are_answered_meanwhile():
    with serving("--batch-seconds", "1.5") as client:
        started = time.monotonic()
        batch = submit(client, requests(3))
        assert in_progress(client, batch.id, executed=1).status == "in_progress"
        assert client.chat.completions.create(**requests(1)[0]["body"]).choices
        assert time.monotonic() - started < 1.5
        assert ended(client, batch.id).status == "completed"
        assert 1.5 <= time.monotonic() - started < 10


def test_a_cancelled_batch_keeps_what_is_answered_and_names_the_rest():
    with serving("--batch-seconds", "600") as client:
        lines = requests(6000, body={"model": "offline-teacher", "messages": [{"role": "user", "content": "hello"}]})
        batch = submit(client, lines)
        in_progress(client, batch.id, executed=3)
        assert client.batches.cancel(batch.id).status == "cancelling"
        batch = ended(client, batch.id)
        assert batch.status == "cancelled"
        output, errors = read(client, batch.output_file_id), read(client, batch.error_file_id)
        assert len(output) >= 3
        assert {line["error"]["code"] for line in errors} == {"batch_cancelled"}
        assert len({line["custom_id"] for line in output + errors}) == 6000
        with pytest.raises(openai.ConflictError, match="cancelled"):
            client.batches.cancel(batch.id)


def test_a_batch_expires_at_the_end_of_its_window():
    with serving("--batch-seconds", "200", "--batch-window-seconds", "2") as client:
        batch = ended(client, submit(client, requests(400)).id)
        assert batch.status == "expired"
        assert (batch.expired_at or 0) >= (batch.expires_at or 0) == batch.created_at + 2
        errors = read(client, batch.error_file_id)
        assert {line["error"]["code"] for line in errors} == {"batch_expired"}
        assert len(read(client, batch.output_file_id)) + len(errors) == 400


def test_a_server_that_was_killed_goes_on_with_its_batches_and_answers_nothing_twice(tmp_path: Path):
    log, state = tmp_path / "requests.jsonl", tmp_path / "state"
    flags = ["--state", str(state), "--log", str(log)]
    with _process(*flags, "--batch-seconds", "60") as (process, base_url), connected(base_url) as client:
        done = ended(client, submit(client, b"broken").id)
        batch = submit(client, requests(60), metadata={"run": "7"})
        in_progress(client, batch.id, executed=2)
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
    before = len(log.read_text().splitlines())
    assert 2 <= before < 60
    with _process(*flags) as (_, base_url), connected(base_url) as client:
        assert client.batches.retrieve(done.id) == done
        finished = ended(client, batch.id)
        assert finished.status == "completed"
        assert finished.metadata == {"run": "7"}
        assert finished.created_at == batch.created_at
        assert finished.request_counts is not None
        assert finished.request_counts.completed == 60
        output = read(client, finished.output_file_id)
        assert len({line["custom_id"] for line in output}) == len(output) == 60
        assert [b.id for b in client.batches.list()] == [batch.id, done.id]
    assert len(log.read_text().splitlines()) == 60


def test_a_damaged_folder_is_said_in_one_sentence(tmp_path: Path):
    (tmp_path / "batches").mkdir()
    (tmp_path / "batches" / "batch_000000.json").write_text("{")
    with refused("state_damaged", file=tmp_path):
        Batches(tmp_path, lambda body, batch: (200, body), seconds=0, window_seconds=1)


def test_without_a_folder_a_new_server_knows_nothing_of_an_old_ones_batches(client: openai.OpenAI):
    batch = submit(client, requests(1))
    with serving() as other, pytest.raises(openai.NotFoundError):
        other.batches.retrieve(batch.id)


@contextmanager
def _process(*flags: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    command = [sys.executable, "-m", "agentrefine.simulation", "--parent", str(os.getpid()), *flags]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT)
    try:
        assert process.stdout is not None
        yield process, process.stdout.readline().strip()
    finally:
        process.kill()
        process.wait()
