"""A run whose teacher fails to answer three times out of ten, in every way in which a wire can fail."""

import json
from pathlib import Path

import pytest

from agentrefine.files import read_jsonl
from agentrefine.game.verdict import Attempt, by_sample
from tests.helpers.project import ROOT, ProjectCopy

PERSONAS = 500
FAULTS = "too_many_requests,server_error,overloaded,reset,hang,slow_body,wrong_content_type,truncated_body"


@pytest.mark.slow
def test_every_persona_is_accounted_for_though_three_of_ten_answers_fail(tmp_path: Path) -> None:
    project = ProjectCopy.make(tmp_path)
    known = (ROOT / "data/personas.jsonl").read_text().splitlines()
    texts = [json.loads(known[number % len(known)])["persona"] for number in range(PERSONAS)]
    lines = [json.dumps({"persona": f"{text} Number {number}."}) for number, text in enumerate(texts)]
    (tmp_path / "data/personas.jsonl").write_text("\n".join(lines) + "\n")
    project.set_params(
        **{
            "personas.limit": "null",
            "synthesis.samples_per_persona": 1,
            "teacher.offline.wire_faults": 0.3,
            "teacher.offline.wire_fault_kinds": f"[{FAULTS}]",
            "teacher.timeout_seconds": 2.0,
            "teacher.pilot.personas": 0,
            "teacher.concurrency": 64,
            "teacher.max_retries": 8,
        }
    )
    for stage in ("synthesis", "verification", "repair"):
        done = project.stage(stage)
        assert done.returncode == 0, done.stderr
    metrics = json.loads((tmp_path / "data/repair/metrics.json").read_text())
    assert metrics["personas"] == metrics["samples"] == PERSONAS
    assert metrics["personas_kept"] + metrics["personas_dropped"] == PERSONAS
    assert (metrics["personas_kept"], metrics["personas_dropped"]) == (metrics["kept"], metrics["dropped"])
    assert sum(metrics["dropped_by_rule"].values()) == metrics["dropped"]
    assert metrics["kept"] > 0.7 * PERSONAS
    ended = [
        json.loads(line)["persona_id"]
        for name in ("trajectories", "dropped")
        for line in (tmp_path / f"data/repair/{name}.jsonl").read_text().splitlines()
    ]
    attempts = read_jsonl(tmp_path / "data/synthesis/attempts.jsonl", Attempt)
    begun = [first[0].persona_id for first in by_sample(attempts)]
    assert len(begun) == PERSONAS
    assert sorted(ended) == sorted(begun)
