"""What the stages log, called by hand: for the tests of tracking."""

import shutil
from pathlib import Path

from agentrefine.params import Params
from agentrefine.report.inputs import Project
from tasks.tracking import contents, runs
from tests.helpers.results_tree import episodes, write_evaluation, write_model, write_tuning


def tuned(params: Params, root: Path, digest: str, weights: bytes = b"w") -> str:
    """What the tuning stage does; returns the id of the model's run."""
    shutil.rmtree(root / "models", ignore_errors=True)
    write_model(root / "models/refinement", weights)
    write_tuning(root / "reports/tuning/refinement", "refinement")
    with runs.live_model("refinement", params, f"key of {digest}") as live:
        run_id = runs.adopt(live, "refinement", digest, params)
    contents.log_tuning("refinement", run_id, params)
    return run_id


def evaluated(params: Params, root: Path, model: str, digest: str, solved: int) -> Path:
    """What the evaluation stage does; returns the episodes' file."""
    folder = write_evaluation(root / digest, model, episodes(model, solved))
    with runs.live_evaluation(model, digest, params) as into:
        contents.log_evaluation(model, into, params, Project(root / digest))
    return folder / "episodes.jsonl"
