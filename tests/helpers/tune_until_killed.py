"""Tune, and be killed once a step is done or saved: python .../tune_until_killed.py JOB OUT STEP done|saved."""

import os
import signal
import sys
from pathlib import Path

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from agentrefine.tuning.train import TuningJob, tune


class KilledAt(TrainerCallback):
    """Kills this process, as `kill -9` does, once a step is done, or once all are done and saved."""

    def __init__(self, step: int, when: str) -> None:
        self._step, self._when = step, when

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: object
    ) -> None:
        """End at the step."""
        if state.global_step == self._step and self._when == "done":
            os.kill(os.getpid(), signal.SIGKILL)

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: object
    ) -> None:
        """End behind the last step, whose checkpoint has been saved."""
        if self._when == "saved":
            assert state.global_step == self._step
            os.kill(os.getpid(), signal.SIGKILL)


if __name__ == "__main__":
    job_file, out, step, when = sys.argv[1:]
    tune(TuningJob.model_validate_json(Path(job_file).read_text()), Path(out), [KilledAt(int(step), when)])
