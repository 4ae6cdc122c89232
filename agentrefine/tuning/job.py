"""What is tuned on what: all that the processes of one tuning have in common."""

import json
import os
from importlib.metadata import version
from pathlib import Path
from typing import Self

import torch
from pydantic import BaseModel, model_validator

from agentrefine.files import sha256_file, short_hash
from agentrefine.params.tuning import Loss, TuningParams
from agentrefine.tuning.hardware import use_bf16
from agentrefine.tuning.models import model_digest
from agentrefine.tuning.settings import SHARDING

HOW_NOT_WHAT = {"variants", "launcher", "checkpoint_steps", "checkpoints_kept"}
"""Parameters that change no weights."""

LIBRARIES = ("accelerate", "peft", "torch", "transformers", "trl")


class TuningJob(BaseModel):
    """One tuning; every process of it holds the same.

    Attributes:
        loss: which turns are trained.
        data_set: a folder with train.jsonl and validation.jsonl.
        base: the base model's folder or hub id.
        params: the section `tuning` of params.yaml.
        seed: of the order of the rows and of adapter weights.
        checkpoints: a folder for checkpoints, shared by all processes; None: an interrupted tuning begins anew.
    """

    loss: Loss
    data_set: Path
    base: str
    params: TuningParams
    seed: int
    checkpoints: Path | None = None

    @model_validator(mode="after")
    def _processes_share_the_best_model(self) -> Self:
        if self.params.chooses_by_validation and self.checkpoints is None and self.params.cpu_processes > 1:
            raise ValueError("several processes need a folder of checkpoints that they share, to choose the best from")
        return self

    def data_digests(self) -> dict[str, str]:
        """SHA-256 of the files of the data set, by name."""
        return {name: sha256_file(self.data_set / name) for name in ("train.jsonl", "validation.jsonl")}

    def key(self, processes: int) -> str:
        """Equal for tunings that take the same steps, so that one can go on where the other stopped."""
        return short_hash(
            self.loss,
            *self.data_digests().values(),
            model_digest(self.base),
            json.dumps(self.params.model_dump(exclude=HOW_NOT_WHAT), sort_keys=True),
            str(use_bf16(self.params)),
            str(self.seed),
            str(processes),
            *sorted(SHARDING & os.environ.keys()),  # the checkpoints of sharded models are other files
            "cuda" if torch.cuda.is_available() else "cpu",
            *(version(library) for library in LIBRARIES),
            *(sha256_file(file) for file in sorted(Path(__file__).parent.glob("*.*"))),
        )
