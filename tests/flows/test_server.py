"""Prefect's temporary server: one for all commands in a folder; what it says when it does not come."""

import fcntl
import socket
import subprocess
import sys
import textwrap
import time
import urllib.request
from pathlib import Path

import pytest
from prefect.settings import (
    PREFECT_API_URL,
    PREFECT_HOME,
    PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS,
    temporary_settings,
)

import flows
from flows import server
from flows.server import prefect_server
from tests.helpers.errors import refused
from tests.helpers.paths import ROOT


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
    for file in folder.glob(".prefect/server-*/alive"):
        with file.open("a") as handle:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return True
    return False


STAGE = """
    from prefect import flow
    from prefect.settings import PREFECT_API_URL
    from flows.server import prefect_server

    @flow
    def stage():
        print("api", PREFECT_API_URL.value())

    with prefect_server():
        stage()
"""


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_commands_after_and_beside_one_another_share_a_server_which_ends_when_none_uses_it(folder, monkeypatch):
    monkeypatch.setattr(server, "IDLE_SECONDS", 15)
    monkeypatch.setattr(server, "START_SECONDS", 400)
    with prefect_server():
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
    with prefect_server():
        assert PREFECT_API_URL.value() == here
    deadline = time.monotonic() + 60
    while alive(folder):
        assert time.monotonic() < deadline, "the server stays"
        time.sleep(0.5)
    with pytest.raises(OSError, match="refused"):
        urllib.request.urlopen(f"{here}/health", timeout=5)


def test_a_configured_server_that_does_not_answer_is_named():
    api = f"http://127.0.0.1:{free_port()}/api"
    unreachable = refused("endpoint_unreachable", name="PREFECT_API_URL")
    with temporary_settings({PREFECT_API_URL: api}), unreachable as caught, prefect_server():
        pytest.fail("the flow began")
    assert f" {api};" in str(caught.value)


@pytest.mark.parametrize(("script", "ended"), [("exec sleep 60", False), ("exit 3", True)])
def test_a_server_that_does_not_come_is_one_sentence_and_is_not_left_behind(folder, monkeypatch, script, ended):
    (folder / "python").write_text(f"#!/bin/sh\n{script}\n")
    (folder / "python").chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(folder / "python"))
    monkeypatch.setattr(server, "START_SECONDS", 3)
    with refused("server_not_started", ended=ended), prefect_server():
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
