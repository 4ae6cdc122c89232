"""Callbacks of the trainer: the loss curve and the bar that a person watches."""

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


class LossCurve(TrainerCallback):  # type: ignore[misc]
    """Collects the training loss of every step."""

    def __init__(self) -> None:
        self.points: list[LossPoint] = []

    def on_log(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: object) -> None:
        """Keep one point."""
        logs = cast("dict[str, float]", kwargs["logs"])
        if "loss" in logs:
            self.points.append(
                LossPoint(
                    step=state.global_step,
                    tokens=int(state.num_input_tokens_seen),
                    loss=logs["loss"],
                    learning_rate=logs["learning_rate"],
                )
            )

    def last_tenth(self) -> float:
        """Mean loss over the last tenth of the steps."""
        tail = self.points[-max(1, len(self.points) // 10) :]
        return sum(point.loss for point in tail) / len(tail)

    def thinned(self, most: int) -> list[LossPoint]:
        """At most `most` points: each the mean loss of its stretch, at the stretch's end."""
        size = -(-len(self.points) // most)
        stretches = [self.points[i : i + size] for i in range(0, len(self.points), size)]
        return [s[-1].model_copy(update={"loss": sum(p.loss for p in s) / len(s)}) for s in stretches]


class TokenBar(TrainerCallback):  # type: ignore[misc]
    """A progress bar in tokens, with tokens per second and the loss."""

    def __init__(self, total: int, description: str) -> None:
        self._bar = tqdm(total=total, desc=description, unit="tok", unit_scale=True, mininterval=1.0)

    def on_log(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: object) -> None:
        """Move the bar."""
        logs = cast("dict[str, float]", kwargs["logs"])
        if "loss" in logs:
            self._bar.set_postfix(loss=f"{float(logs['loss']):.3f}", refresh=False)
            self._bar.update(int(state.num_input_tokens_seen) - self._bar.n)

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: object
    ) -> None:
        """Close the bar."""
        self._bar.close()
