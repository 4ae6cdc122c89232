"""A teacher that is not ours: `transformers serve` with a tiny model that writes nonsense."""

import json
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from agentrefine.simulation.tokenizer import build_tokenizer
from tests.helpers.project import ProjectCopy
from tests.helpers.tiny_model import tiny_model

PERSONAS = 6
SECONDS_TO_START = 120


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    tokenizer = build_tokenizer(
        ["player", "turn"], ["The player goes to the kitchen and takes the cup.", '{"turn": 1, "role": "DM"}']
    )
    tiny_model(tokenizer, 3, max_position_embeddings=32_768).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def served(model: Path) -> Iterator[str]:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    command = [Path(sys.executable).with_name("transformers"), "serve", model, "--device", "cpu"]
    with (model / "serve.log").open("w") as log:
        process = subprocess.Popen([*command, "--host", "127.0.0.1", "--port", str(port)], stdout=log, stderr=log)
        try:
            wait_for(f"http://127.0.0.1:{port}/health", process)
            yield f"http://127.0.0.1:{port}/v1"
        finally:
            process.terminate()
            process.wait(30)


def wait_for(address: str, process: "subprocess.Popen[bytes]") -> None:
    for _ in range(2 * SECONDS_TO_START):
        assert process.poll() is None, "the server has ended"
        try:
            urllib.request.urlopen(address, timeout=5).close()
        except OSError:
            time.sleep(0.5)
        else:
            return
    raise AssertionError("the server does not answer")


@pytest.mark.slow
def test_nonsense_from_a_real_server_is_dropped_with_reasons_and_refused_by_the_gate(
    tmp_path: Path, model: Path, served: str
) -> None:
    project = ProjectCopy.make(tmp_path)
    asked = {"temperature": 1.0, "max_tokens": 40}
    roles = {f"teacher.{role}": json.dumps(asked).replace('"', "") for role in ("script", "trajectory", "repair")}
    project.set_params(
        **{
            "personas.limit": PERSONAS,
            "synthesis.samples_per_persona": 1,
            "teacher.base_url": served,
            "teacher.model": str(model),
            "teacher.pilot.personas": 0,  # a pilot that keeps nothing would end the run
            "teacher.concurrency": 4,
        },
        **roles,
    )
    done = project.stage("pipeline")
    output = done.stdout + done.stderr
    assert done.returncode == 1, output
    assert "json_schema is not used, it is accepted and ignored" in output
    assert "cost unknown" in output
    dropped = [json.loads(line) for line in (tmp_path / "data/repair/dropped.jsonl").read_text().splitlines()]
    assert len(dropped) == PERSONAS
    assert all(record["rule"] and record["message"] for record in dropped)
    metrics = json.loads((tmp_path / "data/repair/metrics.json").read_text())
    assert (metrics["personas_kept"], metrics["personas_dropped"], metrics["kept"]) == (0, PERSONAS, 0)
    assert metrics["with_synthesis"]["cost_usd"] == "unknown"
    (sentence,) = (line for line in done.stderr.splitlines() if line.startswith("data/repair/trajectories.jsonl: "))
    assert f"all {PERSONAS} samples were dropped, most often by" in sentence
    assert "change teacher.model" in sentence
    assert not (tmp_path / "data/dataset").exists()
    assert not (tmp_path / "models/refinement").exists()
