"""Proxies of the environment: this machine is reached without one."""

import os
import subprocess
import sys
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import httpx
import pytest
import requests

from agentrefine import proxies
from tests.helpers.asking import SECRET, ask
from tests.helpers.chat_server import ChatServer, answer
from tests.helpers.endpoint_players import KEY, dialogue, player
from tests.helpers.errors import refused
from tests.helpers.project import ROOT

NAMES = ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY")


@contextmanager
def refusing_proxy():
    """A proxy that answers 503, and the requests that it got."""
    seen = []

    class Proxy(BaseHTTPRequestHandler):
        def answer(self):
            seen.append(self.path)
            self.send_response(503)
            self.send_header("Content-Length", "0")
            self.end_headers()

        do_GET = do_POST = do_CONNECT = answer

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Proxy)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", seen
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@pytest.fixture(autouse=True)
def environment(monkeypatch):
    for name in (*NAMES, proxies.SOCKS_VARIABLE):
        for form in (name, name.lower()):
            monkeypatch.setenv(form, "")  # so that it is gone afterwards too, whoever has set it
            monkeypatch.delenv(form)
    monkeypatch.setenv("OPENAI_API_KEY", SECRET)
    monkeypatch.setenv(KEY, SECRET)
    return monkeypatch


@pytest.mark.parametrize("name", ["http_proxy", "HTTP_PROXY", "ALL_PROXY", "all_proxy"])
def test_neither_client_sends_calls_to_this_machine_through_a_proxy(environment, journal, name):
    with refusing_proxy() as (proxy, seen), ChatServer(lambda number, request: answer("direct")) as server:
        environment.setenv(name, proxy)
        assert ask(server, journal).texts == ["direct"]
        assert player(server.base_url).act([dialogue("a")])[0].text == "direct"
    assert not seen


def test_every_library_reaches_this_machine_directly_beside_the_users_own_exceptions(environment):
    with refusing_proxy() as (proxy, seen), ChatServer(lambda number, request: answer()) as server:
        environment.setenv("HTTP_PROXY", proxy)
        environment.setenv("http_proxy", proxy)
        environment.setenv("NO_PROXY", "example.org")
        proxies.keep_loopback_direct()
        assert os.environ["no_proxy"] == os.environ["NO_PROXY"] == "example.org,127.0.0.1,localhost,::1"
        proxies.keep_loopback_direct()
        assert os.environ["NO_PROXY"] == "example.org,127.0.0.1,localhost,::1"
        body = {"model": "m", "messages": []}
        for address in (server.base_url, server.base_url.replace("127.0.0.1", "localhost")):
            url = f"{address}/chat/completions"
            assert httpx.post(url, json=body).status_code == 200
            assert requests.post(url, json=body, timeout=20).status_code == 200
    assert not seen


def test_a_proxy_for_nothing_stays_as_the_user_wrote_it(environment):
    environment.setenv("NO_PROXY", "*")
    proxies.keep_loopback_direct()
    assert os.environ["NO_PROXY"] == "*"


def test_a_socks_proxy_without_its_package_is_no_problem_on_this_machine_and_one_sentence_elsewhere(
    environment, journal
):
    environment.setenv("ALL_PROXY", "socks5://127.0.0.1:1")
    proxies.keep_loopback_direct()
    httpx.Client().close()
    with ChatServer(lambda number, request: answer("direct")) as server:
        assert ask(server, journal).texts == ["direct"]
        assert player(server.base_url).act([dialogue("a")])[0].text == "direct"
    for remote in (lambda: ask("https://api.example.org/v1", journal), lambda: player("https://api.example.org/v1")):
        with refused("not_installed", package="socksio"):
            remote()
    environment.setenv("NO_PROXY", f"{os.environ['NO_PROXY']},api.example.org")
    environment.setenv("no_proxy", os.environ["NO_PROXY"])
    assert proxies.check_proxy("https://api.example.org/v1", "x") is None


@pytest.mark.parametrize(
    ("url", "here"),
    [
        ("http://127.0.0.1:8000/v1", True),
        ("http://127.1.2.3/v1", True),
        ("http://localhost:8000", True),
        ("http://[::1]:8000/v1", True),
        ("http://0.0.0.0:8000/v1", True),
        ("https://localhost.example.org/v1", False),
        ("https://api.openai.com/v1", False),
        ("http://10.0.0.5:8000/v1", False),
    ],
)
def test_addresses_of_this_machine_are_known(url, here):
    assert proxies.is_loopback(url) is here


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["http", "socks"])
def test_a_flow_with_its_own_prefect_server_ignores_the_proxy(environment, tmp_path: Path, kind):
    """The temporary server of Prefect and its client are on this machine."""
    with refusing_proxy() as (proxy, seen):
        names = ("HTTP_PROXY", "http_proxy") if kind == "http" else ("ALL_PROXY",)
        for name in names:
            environment.setenv(name, proxy if kind == "http" else "socks5://127.0.0.1:1")
        environment.delenv("PREFECT_API_URL", raising=False)
        home = {**os.environ, "PREFECT_HOME": str(tmp_path), "PYTHONPATH": str(ROOT)}
        code = (
            "from prefect import flow\nfrom flows.command import run\n@flow\ndef one(): print('ran')\nrun(one, None)\n"
        )
        done = subprocess.run(
            [sys.executable, "-c", code], env=home, cwd=ROOT, capture_output=True, text=True, timeout=400, check=False
        )
        assert done.returncode == 0, done.stderr
        assert "ran" in done.stdout
    assert not seen
