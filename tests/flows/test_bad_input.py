"""Bad input gets one clear sentence, a non-zero exit status, and leaves nothing half-written.

These tests run commands, so they read the sentence as a user does; what is wrong has codes and values in other tests.
"""

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.helpers.project import ProjectCopy
from tests.helpers.small_disk import small_disk_at

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


@pytest.fixture
def project(tmp_path: Path) -> ProjectCopy:
    return ProjectCopy.make(tmp_path / "project")


def sentence(done: "subprocess.CompletedProcess[str]") -> str:
    """The sentence that a failed command printed after a blank line; there must be no traceback."""
    assert done.returncode == 1, done.stdout[-1000:] + done.stderr[-1000:]
    assert "Traceback" not in done.stdout + done.stderr, done.stderr[-3000:]
    said = done.stderr.split("\n\n")[-1].strip().splitlines()[0]
    assert (done.stdout + done.stderr).count(said) == 1
    return said


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (("tuning:", "tuning:\n  learning_speed: 1"), "tuning.learning_speed"),
        (("max_turns: 60", "max_turns: many"), "verification.max_turns"),
        (("seed: 7", "seed: [7"), "not valid YAML"),
        (("episodes: 3", "episodes: 0"), "evaluation.episodes"),
    ],
    ids=["unknown key", "wrong type", "broken YAML", "out of range"],
)
def test_bad_parameters_name_the_file_and_the_key(project: ProjectCopy, change: tuple[str, str], expected: str) -> None:
    params = project.folder / "params.yaml"
    before = params.read_text()
    assert change[0] in before
    params.write_text(before.replace(*change, 1))
    said = sentence(project.stage("pipeline"))
    assert said.startswith("params.yaml: ")
    assert expected in said


def test_missing_parameters_are_named(project: ProjectCopy) -> None:
    (project.folder / "params.yaml").unlink()
    assert sentence(project.stage("pipeline")).startswith("params.yaml: no such file")


def test_a_missing_personas_file_is_named(project: ProjectCopy) -> None:
    project.set_params(**{"personas.path": "data/nobody.jsonl"})
    assert "data/nobody.jsonl: no such file" in sentence(project.stage("pipeline"))


def test_a_broken_line_of_the_personas_file_is_named(project: ProjectCopy) -> None:
    with (project.folder / "data/personas.jsonl").open("r+") as handle:
        lines = handle.readlines()
        handle.seek(0)
        handle.truncate()
        handle.writelines([*lines[:4], '{"persona": \n', *lines[4:]])
    said = sentence(project.stage("pipeline"))
    assert "data/personas.jsonl, line 5" in said
    assert not (project.folder / "data/synthesis").exists() or not list((project.folder / "data/synthesis").iterdir())


def test_an_unreachable_teacher_is_named(project: ProjectCopy) -> None:
    project.set_params(
        **{"teacher.base_url": "'http://127.0.0.1:9/v1'", "teacher.max_retries": 1, "teacher.api_key_env": "SOME_KEY"}
    )
    project.environment["SOME_KEY"] = "sk-not-a-real-key"
    done = project.stage("pipeline")
    assert "http://127.0.0.1:9/v1" in sentence(done)
    assert "sk-not-a-real-key" not in done.stdout + done.stderr


def test_a_missing_key_names_its_variable(project: ProjectCopy) -> None:
    project.set_params(
        **{"teacher.base_url": "'https://example.invalid/v1'", "teacher.api_key_env": "A_KEY_NOBODY_SET"}
    )
    assert "A_KEY_NOBODY_SET" in sentence(project.stage("pipeline"))


def test_a_base_model_path_that_does_not_exist_is_named(project: ProjectCopy) -> None:
    project.set_params(**{"base_model.path": "models/nowhere"})
    said = sentence(project.stage("base_model"))
    assert "models/nowhere" in said
    assert "base_model.path" in said
    assert not (project.folder / "models/base").exists()


def test_an_unknown_variant_is_refused(project: ProjectCopy) -> None:
    assert "without_anything" in sentence(project.stage("tuning", "without_anything"))


def test_an_unknown_override_is_refused(project: ProjectCopy) -> None:
    code = "from flows.pipeline import agentrefine\nfrom flows.command import exit_with_sentence\n"
    code += "exit_with_sentence(lambda: agentrefine({'tuning.learning_speed': 1}))"
    assert "learning_speed" in sentence(project.run("python", "-c", code))


def test_poisoned_games_are_refused_by_the_gate_and_nothing_is_tuned(project: ProjectCopy) -> None:
    for stage in ("synthesis", "verification", "repair", "base_model"):
        assert project.stage(stage).returncode == 0
    file = project.folder / "data/repair/trajectories.jsonl"
    games = [json.loads(line) for line in file.read_text().splitlines()]
    for turn in games[0]["turns"]:
        if turn["role"] == "DM":
            turn.update(parameter_error=False, logic_error=False, place_error=False)
    file.write_text("".join(json.dumps(game) + "\n" for game in [*games, games[1], games[1]]))
    done = project.stage("quality_gate")
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert games[0]["id"] in done.stderr
    assert games[1]["id"] in done.stderr
    assert "reports/quality_gate/summary.md says more" in done.stderr
    assert "**refused**" in (project.folder / "reports/quality_gate/summary.md").read_text()
    assert json.loads((project.folder / "reports/quality_gate/result.json").read_text())["passed"] is False
    assert not (project.folder / "data/dataset").exists()
    assert "there is no data set" in sentence(project.stage("tuning", "refinement"))


@pytest.fixture
def small_disk(project: ProjectCopy) -> Iterator[ProjectCopy]:
    """The project with its `data/synthesis` on a disk of 64 KiB."""
    with small_disk_at(project.folder / "data/synthesis", "64k"):
        yield project


def test_a_full_disk_is_said_and_leaves_nothing_behind(small_disk: ProjectCopy) -> None:
    said = sentence(small_disk.stage("synthesis"))
    assert "the disk is full" in said
    assert not list((small_disk.folder / "data/synthesis").iterdir())
