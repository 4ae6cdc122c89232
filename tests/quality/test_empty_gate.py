"""The gate with no or hardly any game: one clear sentence, no crash, nothing left to be tuned on."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from tasks.quality_gate import run_gate
from tests.helpers.builders import dropped_line, make_trajectory
from tests.helpers.errors import refused
from tests.helpers.gates import HELD_OUT, Gate, params, sound
from tests.helpers.project import ProjectCopy

RULES = ["not_json"] * 4 + ["unflagged_error"] * 7 + ["cut_off"] * 2 + ["unfinished"]


def refusal_of(folder: Path, trajectories: str, rules: list[str]) -> str:
    gate = Gate(folder)
    (folder / "trajectories.jsonl").write_text(trajectories)
    dropped = "".join(dropped_line(str(n), rule) for n, rule in enumerate(rules))
    (folder / "dropped.jsonl").write_text(dropped)
    values = {"file": folder / "trajectories.jsonl", "dropped": len(rules), "rules": Counter(rules)}
    with refused("nothing_to_judge", **values) as error:
        run_gate(
            folder / "trajectories.jsonl",
            folder / "dropped.jsonl",
            gate.out,
            gate.reports,
            params(),
            count_tokens=len,
            texts=HELD_OUT,
        )
    return str(error.value)


def test_when_every_sample_was_dropped_the_sentence_says_why_and_what_to_do(tmp_path: Path) -> None:
    said = refusal_of(tmp_path, "", RULES)
    assert "all 14 samples were dropped" in said
    assert "most often by unflagged_error (7), not_json (4), cut_off (2);" in said
    assert all(knob in said for knob in ("teacher.model", "repair.call_budget", "agentrefine/synthesis/prompts"))
    assert str(tmp_path / "dropped.jsonl") in said


def test_when_there_was_no_sample_the_sentence_says_what_to_run(tmp_path: Path) -> None:
    said = refusal_of(tmp_path, "", [])
    assert "nothing to judge" in said
    assert "at least one persona" in said


def test_no_game_removes_the_data_set_and_verdict_of_an_earlier_run(tmp_path: Path) -> None:
    gate = Gate(tmp_path)
    gate.run(sound())
    refusal_of(tmp_path, "", RULES)
    assert not any(gate.out.iterdir())
    assert not (gate.reports / "result.json").exists()
    assert not (gate.reports / "summary.md").exists()


def test_a_single_game_is_judged_and_refused_by_its_number(tmp_path: Path) -> None:
    refusal = Gate(tmp_path).refused([make_trajectory(1)], dropped=0)
    assert {"data_set.trajectories", "data_set.personas", "data_set.largest_persona_share"} <= set(refusal.critical)


@pytest.mark.slow
def test_the_stage_ends_with_the_sentence_and_status_1(tmp_path: Path) -> None:
    project = ProjectCopy.make(tmp_path)
    assert project.stage("base_model").returncode == 0
    repair = project.folder / "data/repair"
    repair.mkdir(parents=True, exist_ok=True)
    (repair / "trajectories.jsonl").write_text("")
    (repair / "dropped.jsonl").write_text(dropped_line("p", "not_json"))
    done = project.stage("quality_gate")
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert "all 1 samples were dropped, most often by not_json (1)" in done.stderr
    assert not (project.folder / "data/dataset/train.jsonl").exists()
