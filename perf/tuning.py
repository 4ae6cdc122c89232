"""How fast models are tuned: the stage against transformers' Trainer and TRL's SFTTrainer (`perf/tuning_ways.py`).

    python -m perf.tuning                                     # the tiny model and data set of `make run`, on a CPU
    python -m perf.tuning --shape 8b --method lora            # Llama 3 8B with random weights, on a GPU
    python -m perf.tuning --shape 8b --method full --layers 12

Needs `models/base` and `data/dataset` (`make run`, or `dvc repro base_model quality_gate`). Every way runs in turn in
each round, in a process of its own; the table has medians over the rounds.

Tokens are counted without padding, and time from the end of the first step. Memory is the largest sum of the resident
sets (RSS) of a way's processes, sampled twice a second, libraries included, so that two processes count them twice; on
a GPU, the most that torch had allocated there. Model FLOPs are PaLM's (`perf/model_flops.py`).
"""

import argparse
import os
import statistics
import tempfile
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import torch
from transformers import AutoConfig, AutoModelForCausalLM, LlamaConfig

from agentrefine.files import read_jsonl, write_jsonl
from agentrefine.game.conversation import Sample
from agentrefine.params import load_params
from agentrefine.params.tuning import TuningParams
from agentrefine.tuning.chat_template import Rendered, render
from agentrefine.tuning.models import load_tokenizer
from perf import children
from perf.model_flops import flops_per_token, mean_context, multiplied_parameters, peak_flops
from perf.tuning_ways import PADDED, PER_CORE, TRAIN_ON, TRL_ON_LABELS, WAYS, Figures, Work, run_way

ROOT = Path(__file__).resolve().parent.parent
BASE = ROOT / "models/base"
DATA_SET = ROOT / "data/dataset"
MIB = 2**20

REFERENCES = [PADDED, TRL_ON_LABELS]
"""The peers whose speed is the measure of the others'."""

COLUMNS = [
    "way", "tokens/s", "tokens per processor second", "trained tokens/s", "padding", "tokens a step",
    "peak memory, MiB", "model GFLOP/s", "MFU", *(f"speed by that of {way}" for way in REFERENCES),
]  # fmt: skip


class Shape(NamedTuple):
    """A model and the data that it is tuned on.

    Attributes:
        config: of a Llama with random weights; empty for `models/base`.
        tuning: what differs from params.yaml's section `tuning`, besides AdamW on all parameters and one epoch.
        games: a conversation is 1 to so many of the data set's games, one after the other.
        samples: conversations.
    """

    config: dict[str, Any]
    tuning: dict[str, Any]
    games: int
    samples: int


LARGE = {"activation_checkpointing": True, "learning_rate": 1e-5}

SHAPES = {
    "tiny": Shape(config={}, tuning={}, games=1, samples=100),
    "toy": Shape(
        config={
            "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4,
            "num_key_value_heads": 2, "vocab_size": 2048, "max_position_embeddings": 4096,
        },
        tuning={**LARGE, "max_length": 4096, "batch_tokens": 4096, "gradient_accumulation_steps": 2},
        games=2,
        samples=12,
    ),
    "8b": Shape(
        config={
            "hidden_size": 4096, "intermediate_size": 14336, "num_hidden_layers": 32, "num_attention_heads": 32,
            "num_key_value_heads": 8, "vocab_size": 128256, "max_position_embeddings": 8192, "rms_norm_eps": 1e-5,
            "rope_parameters": {"rope_type": "default", "rope_theta": 500000.0},
        },
        tuning={**LARGE, "max_length": 8192, "batch_tokens": 32768, "gradient_accumulation_steps": 4},
        games=11,
        samples=80,
    ),
}  # fmt: skip


class Run(NamedTuple):
    """What one way came to: its own figures, and the peak of its processes' memory in bytes."""

    figures: Figures
    memory: int


def prepare(
    shape: Shape,
    samples: int,
    tuning: dict[str, Any],
    layers: int | None,
    folder: Path,
    *,
    tokenizer: Path | None = None,
    data_set: Path | None = None,
) -> Work:
    """Write the data set, and the model if it is not `models/base`, to a folder.

    Args:
        shape: of the model and the data.
        samples: conversations.
        tuning: what differs from the shape's own settings.
        layers: of a random model; None: as many as the shape has.
        folder: where all is written.
        tokenizer: folder of a random model's tokenizer; None: that of `models/base`.
        data_set: folder of the games; None: `data/dataset`.
    """
    params = load_params(ROOT / "params.yaml")
    base = BASE
    if shape.config:
        base = folder / "base"
        config = LlamaConfig(**{**shape.config, **({"num_hidden_layers": layers} if layers else {})})
        config.vocab_size = max(config.vocab_size, len(load_tokenizer(tokenizer or BASE)))
        write_random_base(config, tokenizer or BASE, base)
    games = read_jsonl((data_set or DATA_SET) / "train.jsonl", Sample)
    write_jsonl(folder / "data" / "train.jsonl", islice(joined(games, shape.games), samples))
    write_jsonl(folder / "data" / "validation.jsonl", [])
    changes = {"muon_learning_rate": None, "epochs": 1, "padding_free": False, **shape.tuning, **tuning}
    section = TuningParams.model_validate({**params.tuning.model_dump(), **changes})
    return Work(base=base, data_set=folder / "data", params=section, seed=params.seed)


def write_random_base(config: LlamaConfig, tokenizer_folder: Path, folder: Path) -> None:
    """A model that knows nothing, in bf16, with a tokenizer that has no more ids than the model.

    It is drawn on the GPU where there is one: billions of random numbers take a CPU a minute.
    """
    tokenizer = load_tokenizer(tokenizer_folder)
    tokenizer.model_max_length = config.max_position_embeddings
    if tokenizer.pad_token_id == tokenizer.eos_token_id:  # padding and the ends of turns differ by their ids only
        tokenizer.pad_token = tokenizer.unk_token
    config.pad_token_id, config.eos_token_id, config.bos_token_id = tokenizer.pad_token_id, tokenizer.eos_token_id, None
    torch.manual_seed(0)
    with torch.device("cuda" if torch.cuda.is_available() else "cpu"):
        model = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def joined(games: Iterator[Sample], most: int) -> Iterator[Sample]:
    """Conversations of 1, 2, ... `most`, 1, ... games: long ones, and of very different lengths."""
    while True:
        for count in range(1, most + 1):
            several = list(islice(games, count))
            if len(several) < count:
                return
            messages = [message for game in several for message in game.conversations]
            yield several[0].model_copy(update={"conversations": messages})


def measure(way: str, work: Work, folder: Path, deadline: float | None = None) -> Run | None:
    """Train once, in a process of its own; None where the GPU's memory does not suffice.

    Args:
        way: one of `WAYS`.
        work: what is trained.
        folder: for its figures and its output.
        deadline: of the process, by `time.monotonic`; None: it takes as long as it takes.

    Raises:
        children.ChildError: it failed; the end of its output is shown.
        children.OverdueError: it was not done by the deadline.
    """
    out = folder / "figures.json"
    try:
        memory = children.run(run_way, way, work, out, log=folder / "output.txt", deadline=deadline)
    except children.ChildError as error:
        if "CUDA out of memory" in str(error):
            return None
        raise
    return Run(Figures.model_validate_json(out.read_text(encoding="utf-8")), memory)


def rendered(work: Work) -> list[Rendered]:
    """Every conversation as tokens."""
    tokenizer = load_tokenizer(work.base)
    samples = read_jsonl(work.data_set / "train.jsonl", Sample)
    return [render(tokenizer, sample.messages(), TRAIN_ON, work.params.max_length) for sample in samples]


def lengths(work: Work) -> list[int]:
    """Tokens of every conversation."""
    return [len(row.ids) for row in rendered(work)]


def compare(work: Work, ways: list[str], rounds: int, folder: Path) -> None:
    """Measure the ways in turn, and print the conversations' lengths, each run as it ends, and a table of medians."""
    config = AutoConfig.from_pretrained(work.base)
    tokens = lengths(work)
    flops = flops_per_token(
        multiplied_parameters(config),
        config.num_hidden_layers,
        config.num_attention_heads * config.head_dim,
        mean_context(tokens),
        frozen=work.params.method != "full",
    )
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else f"CPU, {os.cpu_count()} cores"
    print(
        f"{device}; {len(tokens)} conversations of {min(tokens)} to {max(tokens)} tokens "
        f"(median {statistics.median(tokens):.0f}), {flops / 1e6:,.2f} MFLOP a token"
    )
    runs: dict[str, list[Run]] = {way: [] for way in ways}
    for _ in range(rounds):
        for way in ways:
            run = measure(way, work, folder)
            if run is not None:
                runs[way].append(run)
                by_clock, by_processor = run.figures.tokens_per_second, run.figures.tokens_per_processor_second
                print(f"{way:28} {by_clock:8,.0f} tokens/s, {by_processor:8,.0f} per processor second", flush=True)
    print(f"| {' | '.join(COLUMNS)} |")
    print(f"|---{'|--:' * (len(COLUMNS) - 1)}|")
    for way, measured in runs.items():
        if measured:
            ratios = [f"{speed(measured) / speed(runs[peer]):.2f}" if runs.get(peer) else "-" for peer in REFERENCES]
            print(row(way, measured, flops, peak_flops(device), ratios))
        else:
            print(f"| {way} | out of memory |")


def speed(runs: list[Run]) -> float:
    """Tokens a second, the median of the runs."""
    return statistics.median(run.figures.tokens_per_second for run in runs)


def row(way: str, runs: list[Run], flops: float, peak: float | None, ratios: list[str]) -> str:
    """A line of the table: medians, lowest and highest speed in brackets."""
    speeds = [run.figures.tokens_per_second for run in runs]
    middle = speed(runs)
    figures = runs[0].figures
    memory = statistics.median(run.figures.gpu_bytes or run.memory for run in runs) / MIB
    mfu = f"{middle * flops / peak:.1%}" if peak else "-"
    cells = [
        way,
        f"{middle:,.0f} [{min(speeds):,.0f}, {max(speeds):,.0f}]",
        f"{statistics.median(run.figures.tokens_per_processor_second for run in runs):,.0f}",
        f"{middle * figures.trained_tokens_share:,.0f}",
        f"{figures.padding:.0%}",
        f"{figures.tokens / (figures.steps - 1):,.0f}",
        f"{memory:,.0f}",
        f"{middle * flops / 1e9:,.1f}",
        mfu,
        *ratios,
    ]
    return f"| {' | '.join(cells)} |"


def main() -> None:
    """Print the lengths, each run as it ends, and a table of medians."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", choices=SHAPES, default="tiny")
    parser.add_argument("--method", choices=["full", "lora"], default="full")
    parser.add_argument("--precision", choices=["auto", "fp32", "bf16"], default="auto")
    parser.add_argument("--layers", type=int, help="of a random model, fewer than the shape has")
    parser.add_argument("--samples", type=int, help="conversations; each shape has a number of its own")
    parser.add_argument("--rounds", type=int, default=5)
    # On a GPU one process has it to itself.
    ways = [way for way in WAYS if way != PER_CORE or not torch.cuda.is_available()]
    parser.add_argument("--only", nargs="+", choices=ways, default=ways, metavar="WAY")
    arguments = parser.parse_args()
    shape = SHAPES[arguments.shape]
    tuning = {name: getattr(arguments, name) for name in ("method", "precision")}
    # As the flows set it (flows/__init__.py); read when the libraries are loaded.
    os.environ.update(OMP_WAIT_POLICY="PASSIVE", TOKENIZERS_PARALLELISM="false", HF_HUB_OFFLINE="1")
    children.preload("perf.tuning_ways")
    with tempfile.TemporaryDirectory() as folder:
        work = prepare(shape, arguments.samples or shape.samples, tuning, arguments.layers, Path(folder))
        compare(work, arguments.only, arguments.rounds, Path(folder))


if __name__ == "__main__":
    main()
