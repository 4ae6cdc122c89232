"""The live loss curve reaches the run, and a tracking server that fails does not end tuning."""

import logging
from pathlib import Path

import pytest
from mlflow import MlflowClient
from transformers import TrainerControl, TrainerState, TrainingArguments

from agentrefine.params import Params
from tasks.tracking import contents, runs
from tasks.tracking.live_curve import LiveCurve
from tasks.tracking.measures import GRADIENT_NORM, LEARNING_RATE, LOSS, SPEED, VALIDATION_LOSS, Point


class Shown:
    """Stands for the progress of a stage."""

    def __init__(self) -> None:
        self.percents: list[int] = []

    def reach(self, done: int) -> None:
        self.percents.append(done)


def train(curve: LiveCurve, folder: Path, steps: int) -> None:
    """What the trainer reports to a callback."""
    arguments, control = TrainingArguments(output_dir=str(folder)), TrainerControl()
    state = TrainerState(is_world_process_zero=True, max_steps=steps)
    curve.on_train_begin(arguments, state, control)
    for step in range(1, steps + 1):
        state.global_step, state.num_input_tokens_seen = step, 1024 * step
        curve.on_log(arguments, state, control, logs={"loss": 3.0 / step, "learning_rate": 0.1, "grad_norm": 2.0})
        curve.on_log(arguments, state, control, logs={"eval_loss": 4.0 / step})
        curve.on_step_end(arguments, state, control)
    curve.on_log(arguments, state, control, logs={"train_runtime": 1.0})
    curve.on_train_end(arguments, state, control)


def test_every_step_reaches_the_run_and_moves_the_progress(
    params: Params, client: MlflowClient, tmp_path: Path
) -> None:
    with runs.live_model("refinement", params, "key") as run_id:
        shown = Shown()
        train(LiveCurve(run_id, params.tracking, shown), tmp_path, steps=4)
    assert shown.percents == [25, 50, 75, 100]
    history = client.get_metric_history(run_id, LOSS)
    assert [(metric.step, metric.value) for metric in history] == [(1, 3.0), (2, 1.5), (3, 1.0), (4, 0.75)]
    looks = client.get_metric_history(run_id, VALIDATION_LOSS)
    assert [(metric.step, metric.value) for metric in looks][:2] == [(1, 4.0), (2, 2.0)]
    found = client.get_run(run_id).data.metrics
    assert (found[LEARNING_RATE], found[GRADIENT_NORM]) == (0.1, 2.0)
    assert found[SPEED] > 0


def test_steps_that_are_taken_again_after_a_checkpoint_are_sent_once(
    params: Params, client: MlflowClient, tmp_path: Path
) -> None:
    with runs.live_model("refinement", params, "key") as run_id:
        contents.log_points(run_id, params.tracking, {LOSS: [Point(1, 3.0), Point(2, 1.5)]})
        train(LiveCurve(run_id, params.tracking, Shown()), tmp_path, steps=4)
    assert [metric.step for metric in client.get_metric_history(run_id, LOSS)] == [1, 2, 3, 4]


def test_a_point_that_was_not_sent_before_a_kill_is_sent_when_its_step_is_taken_again(
    params: Params, client: MlflowClient, tmp_path: Path
) -> None:
    with runs.live_model("refinement", params, "key") as run_id:
        sent = {LOSS: [Point(1, 3.0), Point(2, 1.5)], VALIDATION_LOSS: [Point(1, 4.0)]}
        contents.log_points(run_id, params.tracking, sent)
        train(LiveCurve(run_id, params.tracking, Shown()), tmp_path, steps=4)
    for name in (LOSS, VALIDATION_LOSS):
        assert [metric.step for metric in client.get_metric_history(run_id, name)] == [1, 2, 3, 4]


def test_lost_tracking_store_does_not_end_tuning(
    params: Params, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    lost = params.tracking.model_copy(update={"uri": "carrier-pigeon://loft"})
    with caplog.at_level(logging.WARNING):
        train(LiveCurve("no run", lost, Shown()), tmp_path, steps=4)
    assert "not sent to MLflow any more" in caplog.text
