"""The parts of `perf/gpu.sh`: what each runs, one process after the other, and how it gets into the record."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from agentrefine.errors import UserError
from agentrefine.params.tuning import BASE, MaskPolicy
from perf import children, gpu_agents, gpu_base, gpu_checks, gpu_speed
from perf.gpu_results import Part, Results


class Sizes(NamedTuple):
    """How large everything is.

    Attributes:
        shape: of the random model, one of `perf.tuning.SHAPES`.
        full_layers: of the random model whose weights are all trained.
        conversations: of the comparison of ways to tune.
        product: rows and columns of the matrices whose product is timed.
        settings: of `tuning` for the chat model, beyond params.yaml.
        games: of the data set that the chat model is tuned on, at most; None: all.
        benchmarks: that it plays.
        episodes, steps, new_tokens: of a benchmark, of an episode, of a reply.
    """

    shape: str
    full_layers: int
    conversations: int
    product: int
    settings: dict[str, Any]
    games: int | None
    benchmarks: tuple[str, ...]
    episodes: int
    steps: int
    new_tokens: int


CHAT_MODEL = {
    "method": "full", "muon_learning_rate": None, "activation_checkpointing": False, "packing": False,
    "gradient_accumulation_steps": 1, "cpu_processes": 1, "precision": "auto", "eval_steps": 10_000,
}  # fmt: skip
"""Settings of the chat model's tuning at every size: alone, on one GPU or core, validated at its start and its end."""

SIZES = {
    "gpu": Sizes(
        shape="8b",
        full_layers=12,
        conversations=32,
        product=8192,
        settings={
            **CHAT_MODEL, "epochs": 1, "learning_rate": 4e-4, "lr_scheduler_type": "cosine", "warmup_steps": 30,
            "batch_tokens": 16384, "max_length": 4096,
        },
        games=None,
        benchmarks=("worlds_layouts", "babyai"),
        episodes=50,
        steps=20,
        new_tokens=96,
    ),
    "tiny": Sizes(
        shape="toy",
        full_layers=1,
        conversations=8,
        product=256,
        settings={
            **CHAT_MODEL, "epochs": 1, "learning_rate": 1e-3, "warmup_steps": 2, "batch_tokens": 4096,
            "max_length": 2048,
        },
        games=16,
        benchmarks=("worlds_layouts",),
        episodes=2,
        steps=2,
        new_tokens=4,
    ),
}  # fmt: skip

VARIANTS: dict[str, MaskPolicy] = {"expert_only": "without_refinement_data", "refinement": "correct_turns"}
"""What the chat model is tuned to: expert turns alone, and the paper's method."""


class Run:
    """A run of the parts, and its record.

    Args:
        inputs: the folder of `perf/gpu_prepare.sh`: `data/`, and a model or a GGUF file.
        results: where the record and the processes' outputs go.
        scratch: for models and all else that is thrown away.
        sizes: how large everything is.
        record: what was measured so far.
        hides_gpus: whether all GPUs but the first were hidden from the processes; DistributedDataParallel sees them.
    """

    def __init__(
        self, *, inputs: Path, results: Path, scratch: Path, sizes: Sizes, record: Results, hides_gpus: bool
    ) -> None:
        self._inputs = inputs
        self._results = results
        self._scratch = scratch
        self._sizes = sizes
        self._record = record
        self._hides_gpus = hides_gpus
        self._base = scratch / "base"
        self._bodies: dict[str, Callable[[Part, float], None]] = {
            "base": self._prepare_base,
            "checks": self._check,
            "lora": lambda part, deadline: self._compare(part, deadline, "lora", None),
            "full": lambda part, deadline: self._compare(part, deadline, "full", sizes.full_layers),
            "agents": self._tune_and_play,
        }

    def part(self, name: str, seconds: float) -> Part:
        """Run a part for so many seconds at most; whatever happens to it stands in the record."""
        part = self._record.parts[name] = Part(state="running", limit=max(0.0, seconds))
        self._save()
        began = time.monotonic()
        if name != "base" and not self._base.is_dir():
            part.state, part.note = "left out", "it needs the model of the part base"
        else:
            try:
                self._bodies[name](part, began + seconds)
                part.state = "done"
            except children.OverdueError as error:
                part.state, part.note = "over its limit", str(error)
            except (children.ChildError, UserError, OSError, ValueError) as error:
                part.state, part.note = "failed", str(error)
        part.seconds = round(time.monotonic() - began, 1)
        self._save()
        return part

    def _save(self) -> None:
        self._record.write(self._results)

    def _log(self, name: str) -> Path:
        return self._results / f"{name}.log"

    def _folder(self, name: str) -> Path:
        folder = self._scratch / name
        folder.mkdir()
        return folder

    def _prepare_base(self, part: Part, deadline: float) -> None:
        facts = self._scratch / "base.json"
        children.run(gpu_base.prepare, self._inputs, self._base, facts, log=self._log("base"), deadline=deadline)
        part.facts = gpu_base.read(facts)

    def _check(self, part: Part, deadline: float) -> None:
        gpu_checks.check(
            part, self._save, deadline,
            base=self._base, data_set=self._inputs / "data", product=self._sizes.product, hides_gpus=self._hides_gpus,
            folder=self._folder("checks"), log=self._log,
        )  # fmt: skip

    def _compare(self, part: Part, deadline: float, method: str, layers: int | None) -> None:
        gpu_speed.compare(
            part, self._save, deadline,
            shape=self._sizes.shape, method=method, layers=layers, conversations=self._sizes.conversations,
            tokenizer=self._base, data_set=self._inputs / "data", folder=self._folder(method), log=self._log,
        )  # fmt: skip

    def _tune_and_play(self, part: Part, deadline: float) -> None:
        folder = self._folder("agents")
        models = {BASE: self._base}
        data_set = gpu_agents.first_games(self._inputs / "data", self._sizes.games, folder / "data")
        for variant, loss in VARIANTS.items():
            gpu_agents.tune_variant(
                part, self._save, deadline,
                variant=variant, train_on=loss, base=self._base, data_set=data_set, settings=self._sizes.settings,
                folder=folder, log=self._log,
            )  # fmt: skip
            models[variant] = folder / variant
        sizes = self._sizes
        rules = gpu_agents.Rules(sizes.episodes, sizes.steps, sizes.new_tokens)
        gpu_agents.play_all(
            part, self._save, deadline,
            models=models, benchmarks=sizes.benchmarks, rules=rules, folder=folder, log=self._log,
        )  # fmt: skip
