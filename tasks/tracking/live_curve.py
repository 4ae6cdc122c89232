"""What can be watched while a model is being tuned: the loss curve in MLflow, the share that is done in Prefect."""

import logging
import time
from typing import cast

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from agentrefine.errors import UserError
from agentrefine.params import TrackingParams
from agentrefine.tuning.results import ValidationPoint
from tasks.tracking.progress import Progress
from tasks.tracking.runs import LOSS, VALIDATION_LOSS, log_points

SECONDS_BETWEEN_BATCHES = 5.0


class LiveCurve(TrainerCallback):  # type: ignore[misc]
    """Moves a stage's progress, in percent of the steps, and sends losses to a run, a batch every few seconds.

    A tracking server that fails does not end hours of tuning: the curve is sent no further, which is logged once, and
    what is missing is added when tuning is over (`tasks.tracking.runs.log_tuning`).
    """

    def __init__(self, run_id: str, tracking: TrackingParams, progress: Progress) -> None:
        self._run_id = run_id
        self._tracking = tracking
        self._progress = progress
        self._waiting: dict[str, list[ValidationPoint]] = {LOSS: [], VALIDATION_LOSS: []}
        self._sent = time.monotonic()
        self._broken = False

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: object) -> None:
        """Move the progress."""
        self._progress.reach(100 * state.global_step // state.max_steps)

    def on_log(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: object) -> None:
        """Keep one point, and send those that wait when it is time."""
        logs = cast("dict[str, float]", kwargs["logs"])
        if not state.is_world_process_zero:
            return
        tokens = int(state.num_input_tokens_seen)
        for key, name in (("loss", LOSS), ("eval_loss", VALIDATION_LOSS)):
            if key in logs:
                point = ValidationPoint(step=state.global_step, tokens=tokens, loss=float(logs[key]))
                self._waiting[name].append(point)
        if time.monotonic() - self._sent > SECONDS_BETWEEN_BATCHES:
            self._send()

    def on_train_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: object) -> None:
        """Send what still waits."""
        self._send()

    def _send(self) -> None:
        try:
            for name, points in self._waiting.items():
                if points and not self._broken:
                    log_points(self._run_id, self._tracking, points, name)
        except UserError as error:
            self._broken = True
            logging.getLogger(__name__).warning("The loss curve is not sent to MLflow any more: %s", error)
        for points in self._waiting.values():
            points.clear()
        self._sent = time.monotonic()
