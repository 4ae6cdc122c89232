"""The data set that a model was tuned on, as an input of its run: rows, tokens, schema, mistakes, the gate's word."""

import json
from pathlib import Path

import yaml
from mlflow.entities import Dataset, DatasetInput, InputTag

from agentrefine.files import sha256_file
from agentrefine.quality.gate_result import GateResult
from agentrefine.tuning.cards import RenderingCounts

SCHEMA = {
    "mlflow_colspec": [
        {"name": "id", "type": "string", "required": True},
        {
            "name": "conversations",
            "type": "array",
            "required": True,
            "items": {
                "type": "object",
                "properties": {
                    "from": {"type": "string", "required": True},
                    "value": {"type": "string", "required": True},
                    "loss": {"type": "boolean", "required": False},
                },
            },
        },
    ]
}
"""A line of the file (`agentrefine.game.conversation.Sample`), in MLflow's words."""


def data_set_input(
    path: Path, counts: RenderingCounts | None = None, gate: GateResult | None = None, lock: Path = Path("dvc.lock")
) -> DatasetInput:
    """A data set as a run's input: its digest is DVC's hash where dvc.lock has one, else SHA-256 (its first half).

    Args:
        path: of its training file.
        counts: what tuning read of it.
        gate: what the quality gate said of it; None where the gate did not judge it, as a mix.
        lock: where DVC keeps hashes.
    """
    sha256 = sha256_file(path)
    md5 = _dvc_md5(path, lock)
    profile: dict[str, object] = {"num_rows": _lines(path)}
    if counts is not None:
        profile |= {"tokens": counts.tokens, "trained_tokens": counts.trained_tokens}
    if gate is not None:
        features = gate.data_set
        profile["error_turn_ratio"] = features.get("error_turn_ratio", features.get("fault_share"))
        profile["quality_gate"] = "passed" if gate.passed else "refused"
        profile["quality_gate_warnings"] = [finding.column for finding in gate.failures]
    data_set = Dataset(
        name=path.as_posix(),
        digest=md5 or sha256[:32],  # MLflow takes 36 characters at most
        source_type="local",
        source=json.dumps({"uri": path.as_posix()}),
        schema=json.dumps(SCHEMA),
        profile=json.dumps({**profile, "bytes": path.stat().st_size, "sha256": sha256, "dvc_md5": md5}),
    )
    return DatasetInput(data_set, tags=[InputTag("mlflow.data.context", "tuning")])


def _lines(path: Path) -> int:
    with path.open("rb") as file:
        return sum(1 for line in file if line.strip())


def _dvc_md5(path: Path, lock: Path) -> str | None:
    """The hash under which DVC keeps `path`, or the folder that holds it; None when DVC has not recorded it."""
    if not lock.is_file():
        return None
    stages = (yaml.safe_load(lock.read_text(encoding="utf-8")) or {}).get("stages", {})
    outs = {out["path"]: out["md5"] for stage in stages.values() for out in stage.get("outs", []) if "md5" in out}
    return next((outs[name.as_posix()] for name in (path, *path.parents) if name.as_posix() in outs), None)
