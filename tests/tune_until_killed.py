"""Tune, and be killed at a step: python tests/tune_until_killed.py JOB OUT STEP, for tests of what comes after."""

import os
import signal
import sys
from pathlib import Path

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from agentrefine.tuning.job import TuningJob
from agentrefine.tuning.trainer import tune


class KilledAt(TrainerCallback):
    """Kills this process, as `kill -9` does, once a step is done."""

    def __init__(self, step: int) -> None:
        self._step = step

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: object
    ) -> None:
        """End at the step."""
        if state.global_step == self._step:
            os.kill(os.getpid(), signal.SIGKILL)


if __name__ == "__main__":
    job_file, out, step = sys.argv[1:]
    tune(TuningJob.model_validate_json(Path(job_file).read_text()), Path(out), [KilledAt(int(step))])
