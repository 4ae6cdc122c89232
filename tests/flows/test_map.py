"""dvc.yaml names all that a stage's results depend on, and nothing else: what is stale is computed from the code."""

import ast
import json
import re
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
import yaml

from agentrefine import sources
from agentrefine.params.evaluation import EvaluationParams
from agentrefine.params.tuning import TuningParams
from agentrefine.sources import closure
from flows.map import out_of_date, rewritten
from tests.helpers.paths import ROOT

TEXT = (ROOT / "dvc.yaml").read_text()
STAGES = yaml.safe_load(TEXT)["stages"]


def definition(stage: str) -> dict[str, list[str]]:
    return STAGES[stage].get("do", STAGES[stage])


def parameters(stage: str) -> list[str]:
    """The keys of params.yaml that a stage lists, defaults included."""
    (listed,) = STAGES[stage].get("do", STAGES[stage])["params"]
    return listed["params.resolved.yaml"]


def stale(file: str) -> set[str]:
    """The stages that a change of a file makes stale."""
    assert (ROOT / file).is_file()
    return {stage for stage in STAGES if Path(file) in closure(f"tasks.{stage}")}


def test_dvc_yaml_is_what_the_code_says() -> None:
    assert rewritten(TEXT) == TEXT


def test_a_missing_and_an_idle_dependency_are_named_with_their_stage() -> None:
    viewer, idle = "      - agentrefine/report/viewer.py\n", "      - tasks/tracking.py\n"
    assert TEXT.count(viewer) == 1
    (sentence,) = out_of_date(TEXT.replace(viewer, idle))
    assert re.search(r"stage report needs .*viewer\.py and does not use .*tracking\.py", sentence)
    assert rewritten(TEXT.replace(viewer, idle)) == TEXT


@pytest.mark.parametrize(
    ("file", "stages"),
    [
        ("agentrefine/report/viewer.py", {"report"}),
        ("flows/show_mask.py", set()),
        ("agentrefine/synthesis/prompts/script.md", {"synthesis", "refinement"}),
        ("agentrefine/simulation/faults.py", {"synthesis", "refinement"}),
        ("agentrefine/llm/endpoint.py", {"synthesis", "refinement", "endpoint_evaluation"}),
        ("agentrefine/evaluation/row_cache.py", {"evaluation"}),
        ("agentrefine/evaluation/reference.py", {"reference_evaluation"}),
        ("agentrefine/tuning/trainer.py", {"tuning"}),
        ("agentrefine/benchmarks/worker.py", {"quality_gate", *(s for s in STAGES if s.endswith("evaluation"))}),
        ("tasks/tracking.py", set()),
        ("agentrefine/params/evaluation.py", set()),
    ],
)
def test_a_change_makes_stale_what_it_decides_and_nothing_else(file: str, stages: set[str]) -> None:
    assert stale(file) == stages


def test_dvc_itself_sees_the_stage_that_a_change_concerns(tmp_path: Path) -> None:
    """Real `dvc status` on the stages of data: a rule of trajectories is none of synthesis."""
    for name in ("agentrefine", "tasks"):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
    stages = {
        name: {
            "cmd": "true",
            "deps": [dep for dep in definition(name)["deps"] if dep.startswith(("agentref", "tasks"))],
        }
        for name in ("synthesis", "verification", "mix")
    }
    (tmp_path / "dvc.yaml").write_text(yaml.safe_dump({"stages": stages}))

    def dvc(*arguments: str) -> str:
        command = [sys.executable, "-m", "dvc", *arguments]
        return subprocess.run(command, cwd=tmp_path, check=True, capture_output=True, text=True).stdout

    dvc("init", "--no-scm", "-q")
    dvc("commit", "-f", "-q")
    assert json.loads(dvc("status", "--json")) == {}
    with (tmp_path / "agentrefine/verification/trajectory_rules.py").open("a") as rules:
        rules.write("# changed\n")
    assert set(json.loads(dvc("status", "--json"))) == {"verification"}


def test_types_are_not_followed_and_names_of_modules_in_strings_are(tmp_path: Path, monkeypatch) -> None:
    package = tmp_path / "agentrefine"
    (package / "texts").mkdir(parents=True)
    (package / "__init__.py").write_text('"""Holds nothing."""\n')
    for name in ("a", "typed", "lazy", "worker", "errors"):
        (package / f"{name}.py").write_text("")
    (package / "texts" / "one.md").write_text("1")
    (package / "texts" / "two.md").write_text("2")
    (package / "a.py").write_text(
        "from typing import TYPE_CHECKING\n"
        "from agentrefine.errors import UserError\n"
        "if TYPE_CHECKING:\n    from agentrefine.typed import T\n"
        "def f(name):\n    from agentrefine import lazy\n    return packaged_text('agentrefine', 'texts', name)\n"
        "COMMAND = ['-m', 'agentrefine.worker']\n"
    )
    monkeypatch.setattr(sources, "ROOT", tmp_path)
    found = {path.name for path in sources.closure.__wrapped__("agentrefine.a")}
    assert found == {"a.py", "lazy.py", "worker.py", "one.md", "two.md"}


def test_no_two_classes_of_the_project_have_one_name() -> None:
    names = Counter(
        node.name
        for folder in ("agentrefine", "tasks", "flows")
        for file in (ROOT / folder).rglob("*.py")
        for node in ast.parse(file.read_text()).body
        if isinstance(node, ast.ClassDef) and not node.name.startswith("_")
    )
    assert not [name for name, count in names.items() if count > 1]


def test_tuning_and_evaluation_depend_on_all_their_parameters_but_the_list_of_models() -> None:
    tuning = {f"tuning.{key}" for key in TuningParams.model_fields} - {
        "tuning.variants", "tuning.launcher", "tuning.checkpoint_steps", "tuning.checkpoints_kept"
    }  # fmt: skip
    assert tuning <= set(parameters("tuning"))
    evaluation = {f"evaluation.{key}" for key in EvaluationParams.model_fields}
    listed = set(parameters("evaluation"))
    who = {"evaluation.models", "evaluation.endpoints", "evaluation.references"}
    how_replies_are_drawn = {"evaluation.sampling", "evaluation.max_new_tokens", "evaluation.batch_size"}
    assert evaluation - who <= listed
    assert evaluation - who <= set(parameters("endpoint_evaluation"))
    assert evaluation - who - how_replies_are_drawn <= set(parameters("reference_evaluation"))


def test_the_quality_gate_depends_on_what_of_the_evaluation_it_reads() -> None:
    text = (ROOT / "agentrefine/quality/overlap.py").read_text()
    read = {f"evaluation.{key}" for key in re.findall(r"params\.evaluation\.(\w+)", text)}
    assert len(read) > 3
    assert read <= set(parameters("quality_gate"))
