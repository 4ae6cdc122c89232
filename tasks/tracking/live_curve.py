"""What can be watched while a model is being tuned: its curves in MLflow, the share that is done in Prefect."""

import logging
import time
from typing import cast

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from agentrefine.errors import UserError
from agentrefine.params import TrackingParams
from tasks.tracking.contents import known_steps, log_points
from tasks.tracking.measures import GRADIENT_NORM, LEARNING_RATE, LOSS, SPEED, VALIDATION_LOSS, Point
from tasks.tracking.progress import Progress

SECONDS_BETWEEN_BATCHES = 5.0

CURVES = {"loss": LOSS, "eval_loss": VALIDATION_LOSS, "learning_rate": LEARNING_RATE, "grad_norm": GRADIENT_NORM}
"""The metrics by the trainer's names."""


class LiveCurve(TrainerCallback):  # type: ignore[misc]
    """Moves a stage's progress, in percent of the steps, and sends curves to a run, a batch every few seconds.

    A tuning that resumes at a checkpoint takes some steps again; the points that the run holds are not sent again. A
    tracking server that fails does not end hours of tuning: the curves are sent no further, which is logged once, and
    the losses that are missing are added when tuning is over (`tasks.tracking.contents.log_tuning`).
    """

    def __init__(self, run_id: str, tracking: TrackingParams, progress: Progress) -> None:
        self._run_id = run_id
        self._tracking = tracking
        self._progress = progress
        self._waiting: dict[str, list[Point]] = {}
        self._known: dict[str, set[int]] = {}
        self._began = self._sent = time.monotonic()
        self._tokens = 0
        self._broken = False

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: object
    ) -> None:
        """Note where the run and the tuning are."""
        self._began, self._tokens = time.monotonic(), int(state.num_input_tokens_seen)
        try:
            self._known = known_steps(self._run_id, self._tracking, (*CURVES.values(), SPEED))
        except UserError as error:
            self._give_up(error)

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: object) -> None:
        """Move the progress."""
        self._progress.reach(100 * state.global_step // state.max_steps)

    def on_log(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: object) -> None:
        """Keep the points of a step, and send those that wait when it is time."""
        logs = cast("dict[str, float]", kwargs["logs"])
        if not state.is_world_process_zero:
            return
        values = {name: float(logs[key]) for key, name in CURVES.items() if key in logs}
        if "loss" in logs:
            read = int(state.num_input_tokens_seen) - self._tokens
            values[SPEED] = read / max(1e-9, time.monotonic() - self._began)
        for name, value in values.items():
            if state.global_step not in self._known.get(name, ()):
                self._waiting.setdefault(name, []).append(Point(state.global_step, value))
        if time.monotonic() - self._sent > SECONDS_BETWEEN_BATCHES:
            self._send()

    def on_train_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: object) -> None:
        """Send what still waits."""
        self._send()

    def _send(self) -> None:
        try:
            if self._waiting and not self._broken:
                log_points(self._run_id, self._tracking, self._waiting)
        except UserError as error:
            self._give_up(error)
        self._waiting.clear()
        self._sent = time.monotonic()

    def _give_up(self, error: UserError) -> None:
        self._broken = True
        logging.getLogger(__name__).warning("The loss curve is not sent to MLflow any more: %s", error)
