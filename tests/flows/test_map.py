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
from flows.map import code_of, out_of_date, rewritten
from tests.helpers.errors import refused
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
    return {stage for stage in STAGES if any(Path(file).is_relative_to(path) for path in code_of(stage))}


def test_dvc_yaml_is_what_the_code_says() -> None:
    assert rewritten(TEXT) == TEXT


def test_a_missing_and_an_idle_dependency_are_named_with_their_stage() -> None:
    viewer, idle = "      - agentrefine/report/viewer.py\n", "      - tasks/mix.py\n"
    assert TEXT.count(viewer) == 1
    (sentence,) = out_of_date(TEXT.replace(viewer, idle))
    assert re.search(r"stage report needs .*viewer\.py and does not use .*mix\.py", sentence)
    assert rewritten(TEXT.replace(viewer, idle)) == TEXT


@pytest.mark.parametrize(
    ("file", "stages"),
    [
        ("agentrefine/report/viewer.py", {"report"}),
        ("flows/show_mask.py", set()),
        ("agentrefine/synthesis/prompts/script.md", {"synthesis", "repair"}),
        ("agentrefine/synthesis/prompts/script_retry.md", {"repair"}),
        ("agentrefine/synthesis/prompts/continuation.md", {"repair"}),
        ("agentrefine/simulation/faults.py", {"synthesis", "repair"}),
        ("agentrefine/llm/endpoint.py", {"synthesis", "repair", "endpoint_evaluation"}),
        ("agentrefine/evaluation/row_cache.py", {"evaluation", "on_policy"}),
        ("agentrefine/evaluation/reference.py", {"reference_evaluation"}),
        ("agentrefine/tuning/trainer.py", {"tuning"}),
        ("agentrefine/benchmarks/worker.py", {"quality_gate", *(s for s in STAGES if s.endswith("evaluation"))}),
        ("agentrefine/files.py", set(STAGES)),
        ("agentrefine/params/evaluation.py", {"params"}),
        ("agentrefine/llm/prices.yaml", {"synthesis", "repair", "endpoint_evaluation", "report"}),
        ("tasks/teaching.py", {"synthesis", "repair"}),
        ("tasks/playing.py", {stage for stage in STAGES if stage.endswith("evaluation")}),
        ("tasks/forecast.py", set()),
        ("tasks/checks.py", set()),
        ("tasks/tracking/runs.py", set()),
        ("tasks/tracking/progress.py", set()),
    ],
)
def test_a_change_makes_stale_what_it_decides_and_nothing_else(file: str, stages: set[str]) -> None:
    assert stale(file) == stages


def test_the_report_depends_on_the_card_of_the_base_which_it_shows() -> None:
    assert "models/base/card.json" in definition("report")["deps"]


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


def test_dependencies_in_one_line_are_understood_and_those_over_several_refused() -> None:
    block = yaml.safe_load(rewritten(TEXT))
    others = "agentrefine/old.py, tasks/params.py, params.yaml"
    line = f"stages:\n  params:\n    deps: [{others}]  # all\n    outs: [params.resolved.yaml]\n"
    (sentence,) = out_of_date(line)
    assert "does not use agentrefine/old.py" in sentence
    assert "deps:  # all\n" in rewritten(line)
    assert yaml.safe_load(rewritten(line))["stages"]["params"]["deps"] == block["stages"]["params"]["deps"]
    with refused("dvc_yaml_refused", file=Path("dvc.yaml")):
        rewritten(line.replace("params.py, ", "params.py,\n      "))


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A package of modules that hold nothing, two texts, and a module of `tasks`."""
    package = tmp_path / "agentrefine"
    (package / "texts").mkdir(parents=True)
    (package / "inner").mkdir()
    (tmp_path / "tasks/tracking").mkdir(parents=True)
    (package / "__init__.py").write_text('"""Holds nothing."""\n')
    for name in ("typed", "lazy", "worker", "errors", "inner/b", "inner/c", "../tasks/one", "../tasks/tracking/runs"):
        (package / f"{name}.py").write_text("")
    (package / "texts" / "one.md").write_text("1")
    (package / "texts" / "two.md").write_text("2")
    monkeypatch.setattr(sources, "ROOT", tmp_path)
    return package


def names_in_closure(package: Path, text: str, module: str = "a") -> set[str]:
    """The names of the files in the closure of a module with a text, its own left out."""
    file = package / f"{module}.py"
    file.write_text(text)
    found = sources.closure.__wrapped__(f"agentrefine.{module.replace('/', '.')}")
    sources._reached.cache_clear()
    return {path.name for path in found} - {file.name}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from agentrefine.typed import T\n", set()),
        ("import typing as t\nif t.TYPE_CHECKING:\n    from agentrefine.typed import T\nelse:\n    T = 1\n", set()),
        ("def f():\n    from agentrefine import lazy\n", {"lazy.py"}),
        ("from . import lazy\nfrom .inner import b\nfrom .inner.c import C\n", {"lazy.py", "b.py", "c.py"}),
        ("COMMAND = ['-m', 'agentrefine.worker']\n", {"worker.py"}),
        ("import tasks.one\n", {"one.py"}),
        ("from agentrefine.errors import UserError\nfrom tasks.tracking.runs import store\n", set()),
        ("packaged_text('agentrefine', 'texts', 'one.md')\n", {"one.md"}),
        ("from agentrefine import files\nfiles.packaged_text('agentrefine', 'texts', NAME)\n", {"one.md", "two.md"}),
        ("def packaged_text(package):\n    return packaged_path(package)\n", set()),
    ],
)
def test_a_closure_follows_what_runs(package: Path, text: str, expected: set[str]) -> None:
    assert names_in_closure(package, text) == expected


def test_relative_imports_are_followed_from_the_modules_own_package(package: Path) -> None:
    assert names_in_closure(package, "from .. import lazy\nfrom .c import C\n", "inner/b") == {"lazy.py", "c.py"}


def test_a_module_that_is_left_out_has_a_closure_of_its_own(package: Path) -> None:
    assert names_in_closure(package, "from agentrefine import lazy\n", "errors") == {"lazy.py"}


@pytest.mark.parametrize(
    "text",
    [
        "from agentrefine.files import packaged_text as read\n",
        "TEXTS = map(packaged_text, NAMES)\n",
        "read = files.packaged_path\n",
        "packaged_text(PACKAGE, 'one.md')\n",
        "packaged_text(package='agentrefine')\n",
    ],
)
def test_a_way_to_read_data_that_cannot_be_followed_is_refused(package: Path, text: str) -> None:
    with pytest.raises(ValueError, match=r"a\.py, line 1: packaged_"):
        names_in_closure(package, text)


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
