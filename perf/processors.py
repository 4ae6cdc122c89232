"""How fast the stages that compute are on this processor, and on one that has AVX2 only, which it is made to be like.

    python -m perf.processors                       # base_model, tuning and evaluation; a few minutes
    python -m perf.processors --tokens 20000 --samples 40 --episodes 4 --rounds 1 --only tunings

Needs `models/base` and `data/dataset` (`make run`, or `dvc repro base_model quality_gate`). Every measurement is a
process of its own, native and restricted in turn. `ATEN_CPU_CAPABILITY` and `ONEDNN_MAX_CPU_ISA` restrict torch's
kernels and its matrix products. Medians over the rounds. Processor time depends less on what else runs than the clock;
both are of the computation alone, without imports and loading. `--busy` starts a program beside it that never waits.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from itertools import islice
from pathlib import Path
from resource import RUSAGE_CHILDREN, RUSAGE_SELF, getrusage
from typing import NamedTuple

import flows  # noqa: F401  (sets how threads wait, as for the stages; before torch is loaded)
from agentrefine.files import read_jsonl, write_jsonl
from agentrefine.params import load_params
from agentrefine.tuning.hardware import processor, usable_cores

ROOT = Path(__file__).resolve().parent.parent
RESTRICTED = {"ATEN_CPU_CAPABILITY": "avx2", "ONEDNN_MAX_CPU_ISA": "AVX2"}
SETTINGS: dict[str, dict[str, str]] = {"native": {}, "AVX2 only": RESTRICTED}


class Size(NamedTuple):
    """How much is done: tokens of pretraining, samples that are tuned on, episodes of a benchmark."""

    tokens: int
    samples: int
    episodes: int


class Figures(NamedTuple):
    """What one process came to: tokens (of evaluation: episodes), seconds by the clock and of processors."""

    units: float
    seconds: float
    processor_seconds: float


def processor_seconds() -> float:
    """Of this process and of those that it has waited for."""
    own, others = getrusage(RUSAGE_SELF), getrusage(RUSAGE_CHILDREN)
    return own.ru_utime + own.ru_stime + others.ru_utime + others.ru_stime


def base_model(size: Size, folder: Path) -> Figures:
    """Pretrain the tiny model."""
    from agentrefine.simulation.tiny_base import make_tiny_base

    params = load_params(ROOT / "params.yaml")
    tiny = params.base_model.tiny.model_copy(update={"pretraining_tokens": size.tokens})
    marks: list[tuple[int, float, float]] = []
    make_tiny_base(
        tiny, params.seed, folder / "base", lambda done, _: marks.append((done, time.monotonic(), processor_seconds()))
    )
    (first, clock, used), (last, end, used_then) = marks[0], marks[-1]
    return Figures(last - first, end - clock, used_then - used)


def tune_with(processes: int) -> Callable[[Size, Path], Figures]:
    """Tuning by so many processes that share the steps."""

    def run(size: Size, folder: Path) -> Figures:
        from transformers import TrainerCallback

        from agentrefine.game.conversation import Sample
        from agentrefine.tuning.train import TuningJob, tune

        used: list[float] = []

        class Clock(TrainerCallback):  # type: ignore[misc]
            def on_train_begin(self, *_: object, **__: object) -> None:
                used.append(processor_seconds())

            def on_train_end(self, *_: object, **__: object) -> None:
                used.append(processor_seconds())

        params = load_params(ROOT / "params.yaml")
        samples = islice(read_jsonl(ROOT / "data/dataset/train.jsonl", Sample), size.samples)
        write_jsonl(folder / "data/train.jsonl", samples)
        write_jsonl(folder / "data/validation.jsonl", [])
        job = TuningJob(
            train_on="correct_turns",
            data_set=folder / "data",
            base=str(ROOT / "models/base"),
            params=params.tuning.model_copy(update={"cpu_processes": processes, "epochs": 1}),
            seed=params.seed,
        )
        result = tune(job, folder / "model", [Clock()])
        # What a replica took is known once it has ended, and it does as much as this process.
        return Figures(result.tokens, result.seconds, (used[1] - used[0]) * processes)

    return run


def evaluation(size: Size, folder: Path) -> Figures:
    """Let the base play the worlds and BabyAI."""
    from agentrefine.benchmarks.catalogue import benchmark
    from agentrefine.evaluation.local import LocalPolicy
    from agentrefine.evaluation.rollout import play
    from agentrefine.tuning.models import load_tuned

    params = load_params(ROOT / "params.yaml")
    loaded = load_tuned(ROOT / "models/base")
    began, used = time.monotonic(), processor_seconds()
    played = 0
    for name in ("worlds_layouts", "babyai"):
        new_tokens = params.evaluation.max_new_tokens
        with closing(LocalPolicy(loaded.model, loaded.tokenizer, name="base", max_new_tokens=new_tokens)) as policy:
            episodes = benchmark(name).episodes(size.episodes, params.seed)
            steps, at_once = params.evaluation.max_steps, params.evaluation.batch_size
            played += sum(1 for _ in play(policy, benchmark(name), episodes, max_steps=steps, batch_size=at_once))
    return Figures(played, time.monotonic() - began, processor_seconds() - used)


class Way(NamedTuple):
    """What is measured.

    Attributes:
        run: in a process of its own.
        unit: of its figures.
        copies: such processes side by side.
    """

    run: Callable[[Size, Path], Figures]
    unit: str
    copies: int = 1


WAYS = {
    "base_model": Way(base_model, "tokens"),
    "tuning": Way(tune_with(1), "tokens"),
    "tunings side by side": Way(tune_with(1), "tokens", copies=2),
    "tuning by two processes": Way(tune_with(2), "tokens"),
    "evaluation": Way(evaluation, "episodes"),
    "evaluations side by side": Way(evaluation, "episodes", copies=2),
}


def measure(name: str, variables: dict[str, str], size: Size) -> Figures:
    """Run a way, all copies at once.

    Raises:
        SystemExit: one failed; the end of its output is shown.
    """
    environment = {key: value for key, value in os.environ.items() if key not in RESTRICTED} | variables
    command = [sys.executable, "-m", "perf.processors", "--run", name, *map(str, size)]
    with tempfile.TemporaryFile("w+") as log:
        started = [
            subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=log, text=True)
            for _ in range(WAYS[name].copies)
        ]
        printed = [process.communicate()[0].splitlines() for process in started]
        if any(process.returncode for process in started):
            log.seek(0)
            raise SystemExit(f"{name} failed ({[p.returncode for p in started]}):\n{log.read()[-3000:]}")
    found = [Figures(*json.loads(lines[-1])) for lines in printed]
    return Figures(sum(f.units for f in found), max(f.seconds for f in found), sum(f.processor_seconds for f in found))


@contextmanager
def busy_program(wanted: bool) -> Iterator[None]:
    """A program beside the measurement that takes a core for itself, as far as it is given one."""
    if not wanted:
        yield
        return
    program = subprocess.Popen([sys.executable, "-c", "while True: pass"])
    try:
        yield
    finally:
        program.kill()
        program.wait()


def main() -> None:
    """Print each measurement as it ends, and a table of medians."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokens", type=int, default=100_000, help="of base_model")
    parser.add_argument("--samples", type=int, default=200, help="that are tuned on, one epoch")
    parser.add_argument("--episodes", type=int, default=10, help="of each of two benchmarks")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--busy", action="store_true", help="a busy program beside it")
    parser.add_argument("--only", nargs="+", choices=WAYS, default=list(WAYS), metavar="WAY")
    parser.add_argument("--run", nargs=4, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.run:
        name, *size = arguments.run
        with tempfile.TemporaryDirectory() as folder:
            figures = WAYS[name].run(Size(*map(int, size)), Path(folder))
        print(json.dumps(figures))
        return
    size = Size(arguments.tokens, arguments.samples, arguments.episodes)
    print(f"{processor().description}; load {os.getloadavg()[0]:.1f} on {usable_cores()} cores", flush=True)
    measured: dict[tuple[str, str], list[Figures]] = {}
    with busy_program(arguments.busy):
        for _ in range(arguments.rounds):
            for name in arguments.only:
                for setting, variables in SETTINGS.items():
                    figures = measure(name, variables, size)
                    measured.setdefault((name, setting), []).append(figures)
                    print(f"{name:25} {setting:10} {cells(WAYS[name].unit, [figures])}", flush=True)
    print(f"\n| stage | {' | '.join(f'{s}, units/s | per processor second | seconds' for s in SETTINGS)} | ratio |")
    print(f"|---{'|--:' * (3 * len(SETTINGS) + 1)}|")
    for name in arguments.only:
        columns = " | ".join(cells(WAYS[name].unit, measured[name, setting]) for setting in SETTINGS)
        native, restricted = (speed(measured[name, setting]) for setting in SETTINGS)
        print(f"| {name} | {columns} | {restricted / native:.2f} |")


def speed(runs: list[Figures]) -> float:
    """Units a second by the clock, the median."""
    return statistics.median(run.units / run.seconds for run in runs)


def cells(unit: str, runs: list[Figures]) -> str:
    """Medians: units a second, units per second of a processor, seconds."""
    digits = 0 if unit == "tokens" else 2
    by_processor = statistics.median(run.units / run.processor_seconds for run in runs)
    seconds = statistics.median(run.seconds for run in runs)
    return f"{speed(runs):,.{digits}f} {unit} | {by_processor:,.{digits}f} | {seconds:.1f}"


if __name__ == "__main__":
    main()
