"""Tuning by several processes that a launcher started: the same losses, one writer, one log."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml
from mlflow import MlflowClient

from agentrefine.tuning.data import rendered_rows
from agentrefine.tuning.models import load_tuned
from agentrefine.tuning.results import TuningResult
from agentrefine.tuning.train import tune
from tests.helpers.project import ProjectCopy
from tests.helpers.tuning_samples import job, masked_loss, write_base, write_data_set

pytestmark = [pytest.mark.slow, pytest.mark.timeout(400)]

TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", "2", "--master_addr", "127.0.0.1"]
SETTINGS = {"epochs": 2, "batch_tokens": 1000, "muon_learning_rate": None, "checkpoint_steps": 5}


def sharded_environment() -> dict[str, str]:
    """What `accelerate launch --config_file configs/fsdp.yaml` sets."""
    settings = yaml.safe_load(Path("configs/fsdp.yaml").read_text())["fsdp_config"]
    environment = {name.upper(): str(value).lower() for name, value in settings.items()}
    for name in ("FSDP_AUTO_WRAP_POLICY", "FSDP_STATE_DICT_TYPE"):
        environment[name] = environment[name].upper()
    return {**os.environ, "ACCELERATE_USE_FSDP": "true", "PYTHONPATH": str(Path.cwd()), **environment}


@pytest.mark.parametrize("method", ["full", "lora"])
def test_a_model_in_pieces_has_the_losses_of_a_whole_one_and_is_saved_whole(base, data_set, tmp_path, method):
    alone = tune(job(base, data_set, method=method, **SETTINGS), tmp_path / "alone")
    sharded = job(base, data_set, tmp_path / "checkpoints", method=method, **SETTINGS)
    (tmp_path / "job.json").write_text(sharded.model_dump_json())
    done = subprocess.run(
        [*TORCHRUN, "tests/helpers/tune_sharded.py", str(tmp_path / "job.json"), str(tmp_path / "out")],
        env=sharded_environment(), capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-4000:]
    result = TuningResult.model_validate_json((tmp_path / "out.json").read_text())
    assert [p.loss for p in result.curve] == pytest.approx([p.loss for p in alone.curve], abs=1e-4)
    model, tokenizer = load_tuned(tmp_path / "out")
    rows, _ = rendered_rows(data_set / "validation.jsonl", tokenizer, "correct_turns", 256, tmp_path / "rows")
    assert masked_loss(model, rows) == pytest.approx(result.validation_loss, abs=1e-4)
    assert result.validation_loss == pytest.approx(alone.validation_loss, abs=1e-4)


def test_the_stage_under_torchrun_writes_one_model_and_logs_once(tmp_path):
    copy = ProjectCopy.make(
        tmp_path,
        **{
            "tuning.checkpoint_steps": 5,
            "tuning.cpu_processes": 1,
            "tuning.batch_tokens": 1000,
            "tuning.max_length": 256,
        },
    )
    write_data_set(copy.folder / "data" / "dataset")
    write_base(copy.folder / "models" / "base")
    done = copy.run(*TORCHRUN, "-m", "flows.tuning", "refinement")
    assert done.returncode == 0, done.stderr[-4000:]
    assert (copy.folder / "models" / "refinement" / "model.safetensors").is_file()
    assert not list(copy.folder.glob("checkpoints/*"))
    figures = json.loads((copy.folder / "reports/tuning/refinement/metrics.json").read_text())
    assert json.loads((copy.folder / "models/refinement/card.json").read_text())["processes"] == 2
    client = MlflowClient(f"sqlite:///{copy.folder}/mlflow.db")
    experiments = [e.experiment_id for e in client.search_experiments()]
    runs = client.search_runs(experiments, "tags.role = 'tuned'")
    assert [run.info.run_name for run in runs] == ["refinement / tiny / seed 7"]
    history = client.get_metric_history(runs[0].info.run_id, "tuning/loss")
    assert [metric.step for metric in history] == list(range(1, figures["steps"] + 1))


@pytest.mark.skipif(torch.cuda.device_count() > 0, reason="here it can shard")
def test_sharding_without_a_gpu_is_refused(base, data_set, tmp_path):
    (tmp_path / "job.json").write_text(job(base, data_set, **SETTINGS).model_dump_json())
    launcher = [
        sys.executable, "-m", "accelerate.commands.launch", "--config_file", "configs/fsdp.yaml",
        "--num_processes", "2", "--main_process_port", "0",
    ]  # fmt: skip
    done = subprocess.run(
        [*launcher, "tests/helpers/tune_until_killed.py",
         str(tmp_path / "job.json"), str(tmp_path / "out"), "1000", "done"],
        env={**os.environ, "PYTHONPATH": str(Path.cwd())}, capture_output=True, text=True, check=False, timeout=200,
    )  # fmt: skip
    assert done.returncode != 0
    assert "asks to shard the model, which accelerate does on GPUs only" in done.stderr, done.stderr[-2000:]
