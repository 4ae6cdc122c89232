"""dvc.yaml names all that a stage's results depend on, so that nothing stale is ever called up to date."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from agentrefine.params.evaluation import EvaluationParams
from agentrefine.params.tuning import TuningParams
from tests.helpers.paths import ROOT

STAGES = yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"]
ALWAYS = {
    "agentrefine/__init__.py",
    "agentrefine/errors.py",
    "agentrefine/files.py",
    "agentrefine/params/__init__.py",
    "agentrefine/params/base.py",
    "agentrefine/params/evaluation.py",
    "agentrefine/params/quality_gate.py",
    "agentrefine/params/teacher.py",
    "agentrefine/params/tuning.py",
    "agentrefine/proxies.py",
    "tasks/__init__.py",
    "tasks/caching.py",
    "tasks/progress.py",
    "tasks/simulators.py",
    "tasks/teaching.py",
}
"""Modules that decide no result of their own; params is covered by the parameters that a stage lists, and what
`tasks/simulators.py` finds by the file that it writes."""

NOT_THE_RESULT = {
    "tasks/tracking.py",
    "tasks/traces.py",
    "tasks/provenance.py",
    "tasks/live_curve.py",
    "tasks/forecast.py",
}
"""Modules that only tell what a stage has made or will."""

TYPES_ONLY = {
    "synthesis": {"agentrefine/synthesis/refinement.py"},
    "verification": {"agentrefine/synthesis/first_answers.py"},
    "refinement": set(),
    "base_model": {"agentrefine/game/script.py", "agentrefine/game/trajectory.py", "agentrefine/simulation/process.py"},
    "quality_gate": {"agentrefine/synthesis/first_answers.py", "agentrefine/llm/completion.py"},
    "mix": {"agentrefine/game/conversation.py"},
    "tuning": {"agentrefine/game/script.py", "agentrefine/game/trajectory.py"},
    "evaluation": {
        "agentrefine/game/script.py",
        "agentrefine/game/trajectory.py",
        "agentrefine/evaluation/endpoint.py",
        "agentrefine/llm/completion.py",
        "agentrefine/llm/spending.py",
    },
    "endpoint_evaluation": {
        "agentrefine/game/script.py",
        "agentrefine/game/trajectory.py",
        "agentrefine/synthesis/structured.py",
    },
    "reference_evaluation": {
        "agentrefine/game/script.py",
        "agentrefine/game/trajectory.py",
        "agentrefine/evaluation/endpoint.py",
        "agentrefine/llm/completion.py",
        "agentrefine/llm/spending.py",
        "agentrefine/tuning/models.py",
        "agentrefine/tuning/rendering.py",
    },
    "report": {"agentrefine/game/conversation.py", "agentrefine/llm/thinking.py"},
}
"""Modules that a stage reaches for their types or for code that it does not run: a change of them must not have a model
tuned or a benchmark played again."""

REPORTING = {
    f"agentrefine/{name}.py" for name in ("figures", "plots", "published", "report", "report_inputs", "report_tables")
}

LOGGING_ONLY = {
    "tuning": {"agentrefine/report/inputs.py"},
    "evaluation": REPORTING,
    "endpoint_evaluation": REPORTING,
    "reference_evaluation": REPORTING,
    "report": {"agentrefine/tuning/models.py", "tasks/evaluation.py", "tasks/tuning.py"},
}
"""Modules that a stage uses only for what it sends to MLflow."""

DATA_FOLDERS = {
    "agentrefine/game/conversation.py": "agentrefine/prompts",
    "agentrefine/synthesis/prompts.py": "agentrefine/prompts",
}
"""Modules that read data files outside their own folder."""


def definition(stage: str) -> dict[str, object]:
    return STAGES[stage].get("do", STAGES[stage])


def imported(module: Path) -> Iterator[Path]:
    """The project's modules that a module imports, in functions too."""
    for node in ast.walk(ast.parse(module.read_text())):
        names = []
        if isinstance(node, ast.ImportFrom) and node.module:
            names = [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        for name in names:
            if name.split(".")[0] in ("agentrefine", "tasks"):
                path = ROOT / Path(*name.split("."))
                yield from (p for p in (path.with_suffix(".py"), path / "__init__.py") if p.is_file())


def closure(stage: str, task: Path) -> set[str]:
    """All modules and data folders that a stage's task leads to."""
    found: set[str] = set()
    pending = [task]
    while pending:
        module = pending.pop()
        name = module.relative_to(ROOT).as_posix()
        if name in found | ALWAYS | NOT_THE_RESULT | TYPES_ONLY[stage] | LOGGING_ONLY.get(stage, set()):
            continue
        found.add(name)
        if name in DATA_FOLDERS:
            found.add(DATA_FOLDERS[name])
        pending.extend(imported(module))
    return {name for name in found if not name.endswith("__init__.py")}


@pytest.mark.parametrize("stage", sorted(STAGES))
def test_a_stage_depends_on_every_module_that_it_uses(stage: str) -> None:
    deps = [str(dep).split("$")[0] for dep in definition(stage)["deps"]]
    task = ROOT / "tasks" / f"{stage.removeprefix('endpoint_').removeprefix('reference_')}.py"
    missing = {
        name
        for name in closure(stage, task)
        if not any(name == dep or name.startswith(f"{dep}/") for dep in deps if dep)
    }
    assert not missing, f"add to dvc.yaml, stage {stage}: {sorted(missing)}"


@pytest.mark.parametrize("stage", sorted(STAGES))
def test_every_dependency_in_the_source_exists(stage: str) -> None:
    sources = [dep for dep in definition(stage)["deps"] if dep.startswith(("agentrefine/", "tasks/"))]
    assert all((ROOT / source).exists() for source in sources), sources


def test_tuning_and_evaluation_depend_on_all_their_parameters_but_the_list_of_models() -> None:
    tuning = {f"tuning.{key}" for key in TuningParams.model_fields} - {
        "tuning.variants", "tuning.launcher", "tuning.checkpoint_steps", "tuning.checkpoints_kept"
    }  # fmt: skip
    assert tuning <= set(definition("tuning")["params"])
    evaluation = {f"evaluation.{key}" for key in EvaluationParams.model_fields}
    listed = set(definition("evaluation")["params"])
    who = {"evaluation.models", "evaluation.endpoints", "evaluation.references"}
    how_replies_are_drawn = {"evaluation.sampling", "evaluation.max_new_tokens", "evaluation.batch_size"}
    assert evaluation - who <= listed
    assert evaluation - who <= set(definition("endpoint_evaluation")["params"])
    assert evaluation - who - how_replies_are_drawn <= set(definition("reference_evaluation")["params"])


def test_the_quality_gate_depends_on_what_of_the_evaluation_it_reads() -> None:
    text = (ROOT / "agentrefine/quality/benchmark_texts.py").read_text()
    read = {f"evaluation.{key}" for key in re.findall(r"params\.evaluation\.(\w+)", text)}
    assert len(read) > 3
    assert read <= set(definition("quality_gate")["params"])
