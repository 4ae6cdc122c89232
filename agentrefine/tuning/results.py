"""What a tuning leaves in `reports/tuning/<variant>/`: its figures and its loss curves, one record for each file."""

import csv
from collections.abc import Sequence
from pathlib import Path
from typing import TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError, computed_field

from agentrefine.errors import UserError
from agentrefine.files import atomic_write, write_json
from agentrefine.params.tuning import MaskPolicy


class RenderingCounts(BaseModel):
    """What rendering made of a data set.

    Example: `RenderingCounts(samples=2685, tokens=1437600, whole_tokens=1437600, trained_tokens=314742, longest=976)`

    Attributes:
        samples: rows that train something.
        samples_with_special_tokens: conversations left out because a text holds a special token of the tokenizer, such
            as the end of a turn, which the model would learn to write in mid-sentence.
        samples_dropped: conversations of which no trained turn fits into the length limit.
        turns_dropped: assistant turns left out at the ends of conversations that are too long.
        tokens: of all rows.
        whole_tokens: of the same games before a loss cuts anything out of them.
        trained_tokens: of these, those with a label.
        longest: tokens of the longest row.
    """

    samples: int = 0
    samples_with_special_tokens: int = 0
    samples_dropped: int = 0
    turns_dropped: int = 0
    tokens: int = 0
    whole_tokens: int = 0
    trained_tokens: int = 0
    longest: int = 0

    @property
    def trained_token_share(self) -> float:
        """Trained tokens by all tokens."""
        return self.trained_tokens / self.tokens if self.tokens else 0.0


class ValidationPoint(BaseModel):
    """A line of validation_curve.csv: a look at the validation samples while training.

    Example: `ValidationPoint(step=100, tokens=211675, loss=1.0132)`

    Attributes:
        step: optimizer steps done; 0 is the base.
        tokens: read so far, with and without a label.
        loss: nats per labelled token of all validation samples.
    """

    step: int
    tokens: int
    loss: float


class LossPoint(ValidationPoint):
    """A line of loss_curve.csv: a step of training, or the mean of some that follow each other.

    Example: `LossPoint(step=14, tokens=37771, loss=6.4848, learning_rate=0.0043)`

    Attributes:
        step, tokens: as in `ValidationPoint`.
        loss: nats per trained token.
        learning_rate: of the first parameter group.
    """

    learning_rate: float


class TuningFigures(BaseModel):
    """metrics.json: what tuning did, as far as it is the same when tuning is repeated.

    Example: `{"train_on": "refinement", "parameters": 872064, ..., "tokens": 2875200, "train_loss": 0.16}`

    Attributes:
        train_on: which turns were trained (the mask policy).
        parameters, trainable_parameters: of the model.
        rendering: samples, turns and tokens of the training file.
        steps: optimizer steps.
        tokens: read in all epochs.
        trained_tokens: of these, those with a label (by their share, where training stopped early).
        train_loss: mean over the last tenth of the steps, nats per trained token.
        validation_loss_before, validation_loss: of the base and of the tuned model, nats per trained token; None
            without validation samples.
    """

    model_config = ConfigDict(extra="ignore")

    train_on: MaskPolicy
    parameters: int
    trainable_parameters: int
    rendering: RenderingCounts
    steps: int
    tokens: int
    trained_tokens: int
    train_loss: float
    validation_loss_before: float | None
    validation_loss: float | None

    @computed_field  # type: ignore[prop-decorator]
    @property
    def trained_token_share(self) -> float:
        """Share of the tokens read that are trained on, in [0, 1]."""
        return self.trained_tokens / self.tokens if self.tokens else 0.0


class TuningResult(TuningFigures):
    """What tuning did, with what differs between equal tunings, and the loss curves.

    Attributes:
        resumed_at: the step at which an interrupted tuning resumed; 0 if it was not interrupted.
        seconds: of the training loop alone, since it began or resumed.
        tokens_per_second: over these seconds.
        curve: the training loss over steps and tokens.
        validation_curve: the validation loss of the base and after every `eval_steps`.
    """

    resumed_at: int
    seconds: float
    tokens_per_second: float
    curve: list[LossPoint]
    validation_curve: list[ValidationPoint]

    def figures(self) -> TuningFigures:
        """What is the same when tuning is repeated."""
        return TuningFigures.model_validate(self.model_dump(include=set(TuningFigures.model_fields)))


PointT = TypeVar("PointT", bound=ValidationPoint)


def write_results(folder: Path, result: TuningResult) -> None:
    """Write `metrics.json`, `loss_curve.csv` and `validation_curve.csv`.

    Raises:
        UserError: the disk is full or the folder cannot be written.
    """
    write_json(folder / "metrics.json", result.figures().model_dump())
    _write_curve(folder / "loss_curve.csv", LossPoint, result.curve)
    _write_curve(folder / "validation_curve.csv", ValidationPoint, result.validation_curve)


def read_curve(path: Path, point: type[PointT]) -> list[PointT]:
    """A loss curve from its CSV file.

    Raises:
        UserError: the file is missing or is not such a table; names the line.
    """
    if not path.is_file():
        raise UserError(
            "stage_not_run",
            f"{path}: no such file; run the stage that writes it (`dvc repro tuning`).",
            file=path,
            stage="tuning",
        )
    points = []
    with path.open(encoding="utf-8", newline="") as handle:
        for number, row in enumerate(csv.DictReader(handle), start=2):
            try:
                points.append(point.model_validate(row))
            except ValidationError as error:
                columns = ", ".join(point.model_fields)
                raise UserError(
                    "stage_file_broken",
                    f"{path}, line {number}: expected numbers in the columns {columns}; run tuning again.",
                    file=path,
                    line=number,
                ) from error
    return points


def _write_curve(path: Path, point: type[ValidationPoint], points: Sequence[ValidationPoint]) -> None:
    with atomic_write(path) as handle:
        writer = csv.DictWriter(handle, list(point.model_fields), lineterminator="\n")
        writer.writeheader()
        writer.writerows(row.model_dump() for row in points)
