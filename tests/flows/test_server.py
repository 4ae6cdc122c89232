"""Prefect's temporary server: one for all commands in a folder; what it says when it does not come."""

import json
import os
import signal
import socket
import subprocess
import sys
import textwrap
import threading
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import NamedTuple

import pytest
from prefect.settings import (
    PREFECT_API_URL,
    PREFECT_HOME,
    PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS,
    temporary_settings,
)

import flows
from flows import server
from flows.serve import the_only_one
from flows.server import prefect_server, read_record, served_api, write_record
from tasks.processes import birth
from tests.helpers.errors import refused
from tests.helpers.paths import ROOT
from tests.helpers.processes import end, runs


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    """An empty project folder with a Prefect home of its own and no server configured."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("PREFECT_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("PREFECT_API_URL", raising=False)
    changed = {PREFECT_HOME: tmp_path / "home", PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS: 1}
    with temporary_settings(changed, restore_defaults={PREFECT_API_URL}):
        yield tmp_path


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as free:
        return int(free.getsockname()[1])


def alive(folder: Path) -> bool:
    """Whether a temporary server runs in the folder."""
    return any(map(server.is_alive, folder.glob("home/server-*")))


def ends(folder: Path, seconds: float) -> bool:
    """Whether the temporary server ends in time."""
    deadline = time.monotonic() + seconds
    while alive(folder) and time.monotonic() < deadline:
        time.sleep(0.2)
    return not alive(folder)


STAGE = """
    from prefect import flow
    from prefect.settings import PREFECT_API_URL
    from flows.server import prefect_server

    @flow
    def stage():
        print("api", PREFECT_API_URL.value())

    with prefect_server() as connect:
        connect()
        stage()
"""


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_commands_after_and_beside_one_another_share_a_server_which_ends_when_none_uses_it(folder, monkeypatch):
    monkeypatch.setattr(server, "IDLE_SECONDS", 15)
    monkeypatch.setattr(server, "START_SECONDS", 400)
    with prefect_server() as connect:
        connect()
        here = PREFECT_API_URL.value()
        commands = [
            subprocess.Popen([sys.executable, "-c", textwrap.dedent(STAGE)], stdout=subprocess.PIPE, text=True)
            for _ in range(2)
        ]
        printed = [command.communicate()[0] for command in commands]
        assert [command.returncode for command in commands] == [0, 0]
        assert [line.split()[-1] for text in printed for line in text.splitlines() if line.startswith("api")] == 2 * [
            here
        ]
        time.sleep(16)
        assert alive(folder)
    with prefect_server() as connect:
        connect()
        assert PREFECT_API_URL.value() == here
    assert ends(folder, 60), "the server stays"
    with pytest.raises(OSError, match="refused"):
        urllib.request.urlopen(f"{here}/health", timeout=5)


USER = """
    import time
    from flows import server
    server.IDLE_SECONDS = 2
    with server.prefect_server() as connect:
        connect()
        print("ready", flush=True)
        time.sleep(600)
"""


@contextmanager
def using_a_server() -> Iterator["subprocess.Popen[str]"]:
    """A command that uses the folder's temporary server until it is killed."""
    command = [sys.executable, "-c", textwrap.dedent(USER)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def server_process(folder: Path) -> int:
    """The process of the folder's temporary server."""
    (place,) = folder.glob("home/server-*")
    found = read_record(place)
    assert found is not None
    return found.pid


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_a_server_does_not_outlive_a_command_that_is_killed(folder, number):
    with using_a_server() as command:
        process = server_process(folder)
        assert runs(process)
        command.send_signal(number)
        command.wait()
        assert end(process, seconds=30)
        assert ends(folder, 10)


@pytest.mark.slow
def test_a_server_that_no_longer_answers_is_ended_by_the_next_command(folder, monkeypatch):
    for name, seconds in (("ANSWER_SECONDS", 2), ("START_SECONDS", 1), ("HUNG_SECONDS", 2)):
        monkeypatch.setattr(server, name, seconds)
    with using_a_server():
        hung = server_process(folder)
        os.kill(hung, signal.SIGSTOP)
        monkeypatch.setattr(server, "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS", Value(120.0))
        monkeypatch.setattr(server, "IDLE_SECONDS", 2)
        with prefect_server() as connect:
            connect()
            assert not runs(hung)
            assert runs(server_process(folder))


def test_a_process_with_the_number_of_a_server_that_is_gone_is_left_alone(folder):
    place = folder / "place"
    place.mkdir()
    write_record(place, "http://127.0.0.1:9/api")
    record = read_record(place)
    assert record.process().pid == os.getpid()
    assert record._replace(created=birth(os.getppid())).process() is None


def test_the_record_of_an_earlier_version_names_no_process(folder):
    place = folder / "place"
    place.mkdir()
    write_record(place, "http://127.0.0.1:9/api")
    record = json.loads((place / "record.json").read_text())
    (place / "record.json").write_text(json.dumps({**record, "created": 1795852800.25}))
    assert read_record(place).process() is None


def test_commands_use_the_server_that_is_served(folder):
    with ThreadingHTTPServer(("127.0.0.1", 0), Healthy) as served:
        threading.Thread(target=served.serve_forever, daemon=True).start()
        api = f"http://127.0.0.1:{served.server_port}/api"
        with the_only_one(folder / "home/served", api), prefect_server() as connect:
            connect()
            assert PREFECT_API_URL.value() == api
        served.shutdown()
    assert served_api(folder / "home") is None


class Healthy(BaseHTTPRequestHandler):
    """Answers as a server that is well."""

    def do_GET(self):
        self.send_response(200)
        self.end_headers()

    def log_message(self, format, *args): ...


class Value(NamedTuple):
    """A setting."""

    number: float

    def value(self):
        return self.number


def test_a_home_that_cannot_be_written_is_one_sentence(folder):
    (folder / "file").touch()
    home = folder / "file" / "home"
    with temporary_settings({PREFECT_HOME: home}), refused("not_writable", file=home), prefect_server():
        pytest.fail("a server was started")


def test_a_configured_server_that_does_not_answer_is_named():
    api = f"http://127.0.0.1:{free_port()}/api"
    unreachable = refused("endpoint_unreachable", name="PREFECT_API_URL", url=api)
    with temporary_settings({PREFECT_API_URL: api}), unreachable, prefect_server():
        pytest.fail("the flow began")


@pytest.mark.parametrize(("script", "ended"), [("exec sleep 60", False), ("exit 3", True)])
def test_a_server_that_does_not_come_is_one_sentence_and_is_not_left_behind(folder, monkeypatch, script, ended):
    (folder / "python").write_text(f"#!/bin/sh\n{script}\n")
    (folder / "python").chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(folder / "python"))
    monkeypatch.setattr(server, "START_SECONDS", 3)
    with refused("server_not_started", ended=ended), prefect_server() as connect:
        connect()
        pytest.fail("the flow began")
    assert not alive(folder)


@pytest.mark.parametrize(
    ("before", "after"),
    [("", "127.0.0.1,localhost,::1"), ("a.org,localhost", "a.org,localhost,127.0.0.1,::1"), ("*", "*")],
)
def test_what_runs_on_this_machine_is_reached_without_a_proxy(before, after):
    code = "import os, flows; print(os.environ.get('no_proxy') or os.environ['NO_PROXY'])"
    environment = {"PATH": "/usr/bin", "PYTHONPATH": str(ROOT), **({"NO_PROXY": before} if before else {})}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == after
    assert flows.__doc__
