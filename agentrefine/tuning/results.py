"""What a tuning leaves in `reports/tuning/<variant>/`: its figures and its loss curves, one record for each file."""

import csv
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TypeVar

from pydantic import BaseModel, ValidationError

from agentrefine.errors import UserError
from agentrefine.files import atomic_write, write_json
from agentrefine.tuning.cards import TuningFigures


class ValidationPoint(BaseModel):
    """A line of validation_curve.csv: a look at the validation samples while training.

    Example: `100,211675,1.0132`

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

    Example: `14,37771,6.4848,0.0043`

    Attributes:
        step, tokens: as in `ValidationPoint`.
        loss: nats per trained token.
        learning_rate: of the first parameter group.
    """

    learning_rate: float


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


def points(history: Iterable[Mapping[str, float]], point: type[PointT], loss: str) -> list[PointT]:
    """The points of a trainer's log that have this loss, those before an interruption included."""
    logged = (entry for entry in history if loss in entry)
    return [point.model_validate({**e, "tokens": e["num_input_tokens_seen"], "loss": e[loss]}) for e in logged]


def last_tenth(curve: Sequence[LossPoint]) -> float:
    """Mean loss over the last tenth of the steps."""
    tail = curve[-max(1, len(curve) // 10) :]
    return sum(point.loss for point in tail) / len(tail)


def thinned(curve: Sequence[LossPoint], max_points: int) -> list[LossPoint]:
    """At most `max_points` points: each the mean loss of its stretch, at the stretch's end."""
    size = -(-len(curve) // max_points)
    stretches = [curve[i : i + size] for i in range(0, len(curve), size)]
    return [s[-1].model_copy(update={"loss": sum(p.loss for p in s) / len(s)}) for s in stretches]


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
        sentence = "no such file; run the stage that writes it (`dvc repro tuning`)."
        raise UserError("stage_not_run", f"{path}: {sentence}", file=path, stage="tuning")
    points = []
    with path.open(encoding="utf-8", newline="") as handle:
        for number, row in enumerate(csv.DictReader(handle), start=2):
            try:
                points.append(point.model_validate(row))
            except ValidationError as error:
                sentence = f"expected numbers in the columns {', '.join(point.model_fields)}; run tuning again."
                message = f"{path}, line {number}: {sentence}"
                raise UserError("stage_file_broken", message, file=path, line=number) from error
    return points


def _write_curve(path: Path, point: type[ValidationPoint], points: Sequence[ValidationPoint]) -> None:
    with atomic_write(path) as handle:
        writer = csv.DictWriter(handle, list(point.model_fields), lineterminator="\n")
        writer.writeheader()
        writer.writerows(row.model_dump() for row in points)
