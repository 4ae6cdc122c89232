"""How success grows with the number of games that a model is tuned on: a study whose points are kept in a file.

    python -m perf.learning_curve                                # 120, 500, 2,000 and all games of `make run`
    python -m perf.learning_curve --sizes 0 120 --train-on correct_turns without_refinement_data --epochs 2
    python -m perf.learning_curve --sizes 8 --episodes 2 --steps 3 --out points.jsonl      # tries the script itself

A point is a model, tuned on so many games, that plays a benchmark; size 0 is the base. Each is added to the file when
it is finished, under a key of all that decides it, and one that is there already is skipped; so the study can be
stopped, and sizes, policies and benchmarks can be added later. Smaller sets of games are parts of the larger ones. An
interrupted tuning resumes at its last checkpoint. Needs a data set, by default that of `make run`, and a base and
settings, by default those of `make smollm`.
"""

import argparse
import math
import shutil
import time
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import NamedTuple, get_args

from pydantic import BaseModel

from agentrefine.benchmarks.catalogue import benchmark
from agentrefine.errors import UserError
from agentrefine.evaluation.local import LocalPolicy
from agentrefine.evaluation.metrics import summarise
from agentrefine.evaluation.metrics.rates import Rate
from agentrefine.evaluation.rollout import play
from agentrefine.files import read_jsonl, sha256_file, short_hash, write_json, write_jsonl
from agentrefine.game.conversation import Sample
from agentrefine.params import Params, load_params
from agentrefine.params.tuning import MaskPolicy
from agentrefine.report.tables import percent
from agentrefine.tuning.cards import quantisation_of, read_card
from agentrefine.tuning.models import load_tuned, model_digest
from agentrefine.tuning.results import TuningResult
from agentrefine.tuning.train import PARAMS_WITHOUT_EFFECT, TuningJob, tune

RUN = Path("runs/smollm")
"""Where `make smollm` works."""

ALL = "all"
RULES = {"episodes", "max_steps", "max_new_tokens", "stop_on_repeats", "prompting", "sampling", "data"}
"""Settings of `evaluation` that decide how a benchmark is played."""

WORK = Path("runs/learning_curve")
"""Models and checkpoints, until all their points are finished."""


class Point(BaseModel):
    """A model on a benchmark, for example 500 games, `refinement`, worlds_layouts.

    Attributes:
        key: of all that decides it.
        games: that it was tuned on; 0 is the base.
        train_on: which turns were trained; empty for the base.
        base, quantisation: its path, and what its weights were dequantised from.
        epochs, learning_rate, seed: of the tuning.
        tokens, steps, tuning_seconds: read, taken and spent in it, in this run; 0 for the base.
        validation_loss: nats per trained token; None without validation games.
        benchmark, episodes, playing_seconds: what was played, and how long.
        success, progress, grounding, format_errors, stuck, recovery: with 95% intervals.
    """

    key: str
    games: int
    train_on: str
    base: str
    quantisation: str | None
    epochs: int
    learning_rate: float
    seed: int
    tokens: int
    steps: int
    tuning_seconds: float
    validation_loss: float | None
    benchmark: str
    episodes: int
    playing_seconds: float
    success: Rate
    progress: Rate
    grounding: Rate
    format_errors: Rate
    stuck: Rate
    recovery: Rate


class Study(NamedTuple):
    """What all points of a run have in common.

    Attributes:
        params: of the run, with the options of the command line.
        base: the base model's folder.
        data_set: a folder with train.jsonl and validation.jsonl.
        benchmarks: that each model plays.
    """

    params: Params
    base: Path
    data_set: Path
    benchmarks: Sequence[str]


class Model(NamedTuple):
    """A model of the study.

    Attributes:
        games: that it is tuned on, 0 for the base; `math.inf` for all.
        train_on: which turns are trained.
    """

    games: float
    train_on: MaskPolicy


def main() -> None:
    """Finish the points that are missing, and print the table of all."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--params", type=Path, default=RUN / "params.yaml", help="settings of tuning and play")
    parser.add_argument("--base", type=Path, default=RUN / "models/base")
    parser.add_argument("--data-set", type=Path, default=Path("data/dataset"))
    parser.add_argument(
        "--train-on", nargs="+", choices=get_args(MaskPolicy), default=["correct_turns"], metavar="POLICY"
    )
    parser.add_argument("--sizes", nargs="+", type=_size, default=[120, 500, 2000, math.inf], help="games; all: all")
    parser.add_argument("--epochs", type=int, help="instead of that of the settings; so the next ones")
    parser.add_argument("--learning-rate", type=float)
    parser.add_argument("--benchmarks", nargs="+", default=["worlds_layouts", "worlds_families"])
    parser.add_argument("--episodes", type=int)
    parser.add_argument("--steps", type=int, help="most steps of an episode")
    parser.add_argument("--out", type=Path, default=Path("perf/learning_curve.jsonl"))
    arguments = parser.parse_args()
    params = _with_options(load_params(arguments.params), arguments)
    study = Study(params, arguments.base, arguments.data_set, arguments.benchmarks)
    policies: list[MaskPolicy] = arguments.train_on
    models = [Model(size, policy) for size in arguments.sizes for policy in (policies if size else policies[:1])]
    for model in models:
        finish(study, model, arguments.out)
    print(table(list(read_jsonl(arguments.out, Point))))


def finish(study: Study, model: Model, out: Path) -> None:
    """Tune a model, unless all its points are in the file, and add those that are not."""
    games = chosen_games(study, model.games)
    keys = {name: key(study, model, games, name) for name in study.benchmarks}
    known = {point.key for point in read_jsonl(out, Point)} if out.is_file() else set()
    missing = [name for name in study.benchmarks if keys[name] not in known]
    if not missing:
        print(f"{_named(model, games)}: all points are known")
        return
    folder = WORK / short_hash(*keys.values())
    result = tuned(study, model, games, folder) if games else None
    weights = folder / "model" if games else study.base
    for name in missing:
        point = played(study, model, len(games), name, weights, keys[name], result)
        with out.open("a", encoding="utf-8") as handle:
            handle.write(f"{point.model_dump_json()}\n")
        print(f"{_named(model, games)} on {name}: success {percent(point.success)}", flush=True)
    shutil.rmtree(folder, ignore_errors=True)


def chosen_games(study: Study, count: float) -> list[Sample]:
    """The first so many games in an order that the seed gives, so that smaller sets are parts of larger ones.

    Raises:
        UserError: there are fewer.
    """
    games = list(read_jsonl(study.data_set / "train.jsonl", Sample))
    if math.isfinite(count) and count > len(games):
        raise UserError(
            "too_few_games",
            f"{study.data_set}: holds {len(games)} training games and not {count}; ask for `all`.",
            file=study.data_set,
            found=len(games),
            expected=count,
        )
    games.sort(key=lambda game: short_hash("learning curve", str(study.params.seed), game.id))
    return games[: int(min(count, len(games)))]


def key(study: Study, model: Model, games: Sequence[Sample], name: str) -> str:
    """Equal for points that are the same but for the code and the machine."""
    params = study.params
    tuning = (
        model.train_on,
        *(game.model_dump_json() for game in games),
        sha256_file(study.data_set / "validation.jsonl"),
        params.tuning.model_dump_json(exclude=PARAMS_WITHOUT_EFFECT),
    )
    return short_hash(
        model_digest(study.base),
        *(tuning if games else ()),
        str(params.seed),
        name,
        params.evaluation.model_dump_json(include=RULES),
    )


def tuned(study: Study, model: Model, games: Sequence[Sample], folder: Path) -> TuningResult:
    """Tune on the games and write the model to `folder`; what an earlier run has finished there is taken."""
    finished = folder / "result.json"
    if finished.is_file():
        return TuningResult.model_validate_json(finished.read_text(encoding="utf-8"))
    data = folder / "data"
    write_jsonl(data / "train.jsonl", games)
    shutil.copyfile(study.data_set / "validation.jsonl", data / "validation.jsonl")
    job = TuningJob(
        train_on=model.train_on,
        data_set=data,
        base=str(study.base),
        params=study.params.tuning,
        seed=study.params.seed,
        checkpoints=folder / "checkpoints",
    )
    result = tune(job, folder / "model")
    write_json(finished, result.model_dump())
    return result


def played(
    study: Study, model: Model, games: int, name: str, weights: Path, key: str, result: TuningResult | None
) -> Point:
    """Let a model play a benchmark."""
    evaluation, seed = study.params.evaluation, study.params.seed
    loaded = load_tuned(weights)
    policy = LocalPolicy(
        loaded.model,
        loaded.tokenizer,
        name=weights.name,
        max_new_tokens=evaluation.max_new_tokens,
        sampling=evaluation.sampling,
        seed=seed,
    )
    chosen = benchmark(name, evaluation.data)
    began = time.monotonic()
    with closing(policy):
        episodes = list(
            play(
                policy,
                chosen,
                chosen.episodes(evaluation.episodes, seed),
                max_steps=evaluation.max_steps,
                batch_size=evaluation.batch_size,
                stop_on_repeats=evaluation.stop_on_repeats,
                prompting=evaluation.prompting,
            )
        )
    summary = summarise(episodes)[name]
    return Point(
        key=key,
        games=games,
        train_on=model.train_on if games else "",
        base=study.base.as_posix(),
        quantisation=quantisation_of(read_card(Path(study.base))),
        epochs=study.params.tuning.epochs if games else 0,
        learning_rate=study.params.tuning.learning_rate if games else 0.0,
        seed=seed,
        tokens=result.tokens if result else 0,
        steps=result.steps if result else 0,
        tuning_seconds=round(result.seconds, 1) if result else 0.0,
        validation_loss=result.validation_loss if result else None,
        benchmark=name,
        episodes=len(episodes),
        playing_seconds=round(time.monotonic() - began, 1),
        success=summary.success_rate,
        progress=summary.progress_rate,
        grounding=summary.grounding,
        format_errors=summary.format_error_rate,
        stuck=summary.stuck_rate,
        recovery=summary.recovery_rate,
    )


def table(points: Sequence[Point]) -> str:
    """All points as Markdown, by benchmark and size."""
    heads = [
        "benchmark",
        "games",
        "trained turns",
        "epochs",
        "tokens",
        "validation loss",
        "success",
        "progress",
        "stuck",
        "n",
    ]
    rows = [
        [
            point.benchmark,
            f"{point.games:,}",
            point.train_on or "(base)",
            str(point.epochs),
            f"{point.tokens:,}",
            "-" if point.validation_loss is None else f"{point.validation_loss:.3f}",
            percent(point.success),
            percent(point.progress),
            percent(point.stuck),
            str(point.episodes),
        ]
        for point in sorted(points, key=lambda point: (point.benchmark, point.games, point.train_on))
    ]
    return "\n".join(f"| {' | '.join(row)} |" for row in [heads, ["---"] * len(heads), *rows])


def _with_options(params: Params, arguments: argparse.Namespace) -> Params:
    tuning = {"epochs": arguments.epochs, "learning_rate": arguments.learning_rate}
    evaluation = {"episodes": arguments.episodes, "max_steps": arguments.steps}
    return params.model_copy(
        update={
            "tuning": params.tuning.model_copy(update=_given(tuning)),
            "evaluation": params.evaluation.model_copy(update=_given(evaluation)),
        }
    )


def _given(options: dict[str, object]) -> dict[str, object]:
    return {name: value for name, value in options.items() if value is not None}


def _size(text: str) -> float:
    return math.inf if text == ALL else int(text)


def _named(model: Model, games: Sequence[Sample]) -> str:
    return f"{len(games)} games, {model.train_on}" if games else "the base"


if __name__ == "__main__":
    main()
