"""How fast the tiny model is tuned on a CPU: SFTTrainer as it is, our loss and padding, and both with a process a core.

    python -m perf.tuning_speed --samples 150 --rounds 3

Needs `models/base` and `data/dataset` (`make run`, or `dvc repro base_model quality_gate`). The three are measured in
turn in each round; tokens per second of the training loop, medians over the rounds, and their ratios to the first.
"""

import argparse
import tempfile
from itertools import islice
from pathlib import Path
from statistics import median
from unittest.mock import patch

from trl import SFTTrainer

from agentrefine.conversation import Sample
from agentrefine.files import read_jsonl, write_jsonl
from agentrefine.params import load_params
from agentrefine.params.tuning import TuningParams
from agentrefine.tuning import sft
from agentrefine.tuning.trainer import tune

DATA_SET = Path("data/dataset")
BASE = Path("models/base")


def tokens_per_second(params: TuningParams, samples: int, seed: int, *, plain: bool) -> float:
    """Tune once on the first samples; `plain`: by SFTTrainer itself, without padding to a multiple."""
    with tempfile.TemporaryDirectory() as folder:
        write_jsonl(
            Path(folder) / "data" / "train.jsonl", islice(read_jsonl(DATA_SET / "train.jsonl", Sample), samples)
        )
        write_jsonl(Path(folder) / "data" / "validation.jsonl", [])
        with (
            patch.object(sft, "RefinementTrainer", SFTTrainer if plain else sft.RefinementTrainer),
            patch.object(sft, "PADDED_TO", None if plain else sft.PADDED_TO),
        ):
            result = tune("refinement", Path(folder) / "data", BASE, Path(folder) / "out", params, seed)
    return result.tokens_per_second


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--samples", type=int, default=150)
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    params = load_params()
    alone = params.tuning.model_copy(update={"epochs": 1, "cpu_processes": 1})
    together = params.tuning.model_copy(update={"epochs": 1})
    ways = {
        "SFTTrainer": (alone, True),
        "our loss and padding": (alone, False),
        f"the same, {together.cpu_processes} processes": (together, False),
    }
    speeds: dict[str, list[float]] = {way: [] for way in ways}
    for _ in range(arguments.rounds):
        for way, (tuning, plain) in ways.items():
            speeds[way].append(tokens_per_second(tuning, arguments.samples, params.seed, plain=plain))
    first = median(speeds["SFTTrainer"])
    for way, measured in speeds.items():
        print(f"{way:32} {median(measured):8.0f} tokens/s  {median(measured) / first:.2f}")


if __name__ == "__main__":
    main()
