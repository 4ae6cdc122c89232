"""What is seen of training: the loss curve, and the bar that a person watches."""

from typing import cast

from pydantic import BaseModel
from tqdm import tqdm
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments


class LossPoint(BaseModel):
    """A step of training.

    Attributes:
        step: optimizer steps done.
        tokens: tokens read so far, trained or not.
        loss: nats per trained token of this step.
        learning_rate: of the first parameter group.
    """

    step: int
    tokens: int
    loss: float
    learning_rate: float


class ValidationPoint(BaseModel):
    """A look at the validation samples while training.

    Attributes:
        step: optimizer steps done; 0 is the base.
        tokens: trained on so far, with and without a label.
        loss: nats per labelled token of all validation samples.
    """

    step: int
    tokens: int
    loss: float


def validation_curve_of(state: TrainerState) -> list[ValidationPoint]:
    """The looks at the validation samples, those before an interruption included."""
    return [
        ValidationPoint(step=entry["step"], tokens=int(entry["num_input_tokens_seen"]), loss=entry["eval_loss"])
        for entry in state.log_history
        if "eval_loss" in entry
    ]


def curve_of(state: TrainerState) -> list[LossPoint]:
    """The training loss of every step, those before an interruption included."""
    return [
        LossPoint(
            step=entry["step"],
            tokens=int(entry["num_input_tokens_seen"]),
            loss=entry["loss"],
            learning_rate=entry["learning_rate"],
        )
        for entry in state.log_history
        if "loss" in entry
    ]


def last_tenth(curve: list[LossPoint]) -> float:
    """Mean loss over the last tenth of the steps."""
    tail = curve[-max(1, len(curve) // 10) :]
    return sum(point.loss for point in tail) / len(tail)


def thinned(curve: list[LossPoint], most: int) -> list[LossPoint]:
    """At most `most` points: each the mean loss of its stretch, at the stretch's end."""
    size = -(-len(curve) // most)
    stretches = [curve[i : i + size] for i in range(0, len(curve), size)]
    return [s[-1].model_copy(update={"loss": sum(p.loss for p in s) / len(s)}) for s in stretches]


class TokenBar(TrainerCallback):  # type: ignore[misc]
    """A progress bar in tokens: how many a second, when it will be over, the share that is trained, the losses."""

    def __init__(self, total: int, trained_share: float, description: str) -> None:
        self._bar = tqdm(total=total, desc=description, unit="tok", unit_scale=True, mininterval=1.0)
        self._shown = {"trained": f"{trained_share:.0%}"}

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: object
    ) -> None:
        """Start where an interrupted training goes on, so that the speed is that of now."""
        self._bar.initial = self._bar.n = int(state.num_input_tokens_seen)
        self._bar.last_print_n = self._bar.n
        if state.global_step:
            self._bar.write(f"{self._bar.desc}: goes on at the checkpoint of step {state.global_step}")

    def on_log(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: object) -> None:
        """Move the bar."""
        logs = cast("dict[str, float]", kwargs["logs"])
        for key, name in (("loss", "loss"), ("eval_loss", "validation")):
            if key in logs:
                self._shown[name] = f"{float(logs[key]):.3f}"
        self._bar.set_postfix(self._shown, refresh=False)
        self._bar.update(int(state.num_input_tokens_seen) - self._bar.n)

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: object
    ) -> None:
        """Close the bar."""
        self._bar.close()
