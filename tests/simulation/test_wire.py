"""Faults of the wire, as sockets and clients meet them."""

import json
import socket
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any, get_args
from urllib.parse import urlsplit

import httpx
import openai
import pytest

from agentrefine.params.teacher import SimulatedTeacher, WireFaultKind
from agentrefine.simulation.process import simulated_teacher
from agentrefine.simulation.wire import drawn_fault
from agentrefine.synthesis.prompts import script_messages
from agentrefine.verification.script_rules import verify_script
from tests.helpers.simulated_games import BAKER, FAULTLESS, PARAMS

KINDS: tuple[WireFaultKind, ...] = get_args(WireFaultKind)
HELLO = {"model": "offline-teacher", "messages": [{"role": "user", "content": "hello"}], "seed": 0}
CLIENT = httpx.Client(timeout=20)


def with_faults(share: float, *kinds: WireFaultKind) -> SimulatedTeacher:
    return FAULTLESS.model_copy(update={"wire_faults": share, "wire_fault_kinds": list(kinds)})


@contextmanager
def failing(kind: WireFaultKind, *flags: str) -> Iterator[str]:
    with simulated_teacher(with_faults(1.0, kind), *flags) as base_url:
        yield base_url


def ask(base_url: str, seed: int = 0) -> httpx.Response:
    return CLIENT.post(f"{base_url}/chat/completions", json=HELLO | {"seed": seed})


def spoken(base_url: str) -> bytes:
    """All that comes over a plain socket until the server closes it."""
    body = json.dumps(HELLO).encode()
    head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n".encode()
    with socket.create_connection(("127.0.0.1", urlsplit(base_url).port or 0), timeout=20) as connection:
        connection.sendall(head + body)
        return b"".join(iter(lambda: connection.recv(65536), b""))


@pytest.fixture(scope="module")
def good() -> dict[str, Any]:
    with simulated_teacher(FAULTLESS) as base_url:
        answer: dict[str, Any] = ask(base_url).json()
        return answer


@pytest.mark.parametrize(("kind", "status"), [("too_many_requests", 429), ("server_error", 500), ("overloaded", 503)])
def test_a_refusal_has_its_status_and_openais_error_form(kind: WireFaultKind, status: int):
    with failing(kind) as base_url:
        response = ask(base_url)
    assert response.status_code == status
    assert set(response.json()["error"]) == {"message", "type", "param", "code"}
    assert ("Retry-After" in response.headers) == (status == 429)
    assert float(response.headers.get("Retry-After", 0)) < 1


def test_a_reset_breaks_the_connection_without_a_byte():
    with failing("reset") as base_url, pytest.raises(ConnectionResetError):
        spoken(base_url)


def test_a_hang_answers_nothing_and_ends_after_its_time():
    with failing("hang", "--hang-seconds", "1") as base_url:
        started = time.monotonic()
        assert spoken(base_url) == b""
        assert 1 <= time.monotonic() - started < 5


def test_a_client_that_gives_up_on_a_hang_leaves_the_server_well():
    with failing("hang", "--hang-seconds", "60") as base_url:
        for _ in range(3):
            with pytest.raises(httpx.ReadTimeout):
                httpx.post(f"{base_url}/chat/completions", json=HELLO, timeout=0.3)
        assert httpx.get(f"{base_url}/models").status_code == 200


def test_a_slow_body_is_the_right_body_over_about_a_second(good: dict[str, Any]):
    with failing("slow_body") as base_url, httpx.stream("POST", f"{base_url}/chat/completions", json=HELLO) as response:
        started = time.monotonic()
        pieces = list(response.iter_raw())
        assert 0.7 < time.monotonic() - started < 5
    assert len(pieces) >= 5
    assert json.loads(b"".join(pieces)) == good


def test_a_wrong_content_type_is_a_page_with_status_200():
    with failing("wrong_content_type") as base_url:
        response = ask(base_url)
    assert response.status_code == 200
    assert response.headers["Content-Type"].startswith("text/html")
    assert response.text.startswith("<html>")


def test_a_truncated_body_is_shorter_than_its_content_length(good: dict[str, Any]):
    with failing("truncated_body") as base_url:
        head, body = spoken(base_url).split(b"\r\n\r\n", 1)
        with pytest.raises(httpx.RemoteProtocolError):
            ask(base_url)
    whole = json.dumps(good, separators=(",", ":")).encode()
    assert f"content-length: {len(whole)}".encode() in head.lower()
    assert whole.startswith(body)
    assert 0 < len(body) < len(whole)


def test_a_fault_is_a_function_of_request_and_attempt():
    drawn = {(key, attempt): drawn_fault(0.5, KINDS, key, attempt) for key in "abcdefgh" for attempt in range(40)}
    assert drawn == {(key, attempt): drawn_fault(0.5, KINDS, key, attempt) for key, attempt in drawn}
    assert set(drawn.values()) == {None, *KINDS}
    assert 0.4 < sum(fault is not None for fault in drawn.values()) / len(drawn) < 0.6
    assert all({None} < {drawn[key, attempt] for attempt in range(40)} for key in "abcdefgh")


def test_two_servers_fail_alike_and_their_good_answers_are_those_of_a_server_without_faults():
    params = with_faults(0.5, "too_many_requests", "reset", "wrong_content_type", "truncated_body")
    with (
        simulated_teacher(params) as first,
        simulated_teacher(params) as second,
        simulated_teacher(FAULTLESS) as faultless,
    ):
        for seed in range(30):
            outcomes = [_outcome(url, seed) for url in (first, second)]
            assert outcomes[0] == outcomes[1]
            if outcomes[0].startswith("{"):
                assert outcomes[0] == _outcome(faultless, seed)


def test_a_client_with_retries_gets_every_answer_though_a_third_of_them_fail():
    kinds = [kind for kind in KINDS if kind not in ("wrong_content_type", "slow_body")]

    def script(seed: int) -> str:
        completion = patient.chat.completions.create(
            model="offline-teacher", messages=script_messages(BAKER), seed=seed
        )
        return completion.choices[0].message.content or ""

    with simulated_teacher(with_faults(0.3, *kinds), "--hang-seconds", "0.2") as base_url:
        failures = {_outcome(base_url, 1000 + seed) for seed in range(60)}
        assert {"429", "500", "503", "RemoteProtocolError", "ReadError"} <= failures
        with (
            openai.OpenAI(base_url=base_url, api_key="none needed", max_retries=20, timeout=10) as patient,
            ThreadPoolExecutor(12) as pool,
        ):
            assert all(verify_script(text).problem is None for text in pool.map(script, range(24)))


def test_the_default_kinds_are_all_that_end_by_themselves_soon():
    assert set(PARAMS.teacher.offline.wire_fault_kinds) == set(KINDS) - {"hang"}


def _outcome(base_url: str, seed: int) -> str:
    """The status of a refusal, the text of a good answer, or the name of the client's error."""
    try:
        response = ask(base_url, seed)
    except httpx.TransportError as error:
        return type(error).__name__
    return response.text if response.status_code == 200 else str(response.status_code)
