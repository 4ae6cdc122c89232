"""What `make run` prints at its start: the processor, and a table of what runs and about how long each stage takes.

An estimate multiplies what is to be done by what it took on one machine (two cores of an AMD EPYC, Zen 4), and by how
much faster or slower this processor takes a training step of the tiny model. It is good to about a third.
"""

import time
from collections.abc import Collection
from itertools import groupby
from textwrap import shorten
from typing import NamedTuple

import torch
from torch import nn
from torch.nn.functional import scaled_dot_product_attention, silu

from agentrefine.benchmarks.catalogue import PACKAGES, named
from agentrefine.errors import UserError
from agentrefine.params import Params
from agentrefine.params.tuning import TuningParams
from agentrefine.tuning.hardware import multiplies_bf16, processor, tunings_at_once
from tasks.checks import ROLES
from tasks.synthesis import personas

REFERENCE_TOKENS_PER_SECOND = 15_000.0
"""What `training_speed` measured on the machine whose seconds stand below."""
SECONDS_PER_STAGE = 5.0
"""The fixed cost of a stage: imports, Prefect, DVC."""
SECONDS_PER_SAMPLE = {"synthesis": 0.012, "verification": 0.002, "repair": 0.010, "quality_gate": 0.008}
"""The further cost with the simulated teacher; another teacher's answers take their own time."""
BASE_TOKENS_PER_SECOND = 7_000.0
TUNING_TOKENS_PER_SECOND = 11_000.0
"""The speeds of one process with one thread."""
TOKENS_PER_GAME = 530
KEPT_SHARE = 0.9
"""The share of the samples that become a game of the data set."""
SECONDS_PER_EPISODE = {"evaluation": 0.3, "reference_evaluation": 0.06}
MAX_EPISODES = {"pddl": 30, "hotpotqa": 12}
"""How many episodes there are of a benchmark that has few."""
SECONDS_PER_SIMULATOR_EPISODE = 6.0
"""Most of it is the simulator's own start."""
WIDTH = 60
"""Characters of the column that says what a stage does."""


class PlanRow(NamedTuple):
    """A line of the table.

    Attributes:
        stages: the addresses of the stages that it stands for, such as `tuning@expert_only`.
        what: what they do, in a few words.
        seconds: about how long they take together; None where that depends on a teacher, an endpoint or a model of
            which nothing is known.
    """

    stages: list[str]
    what: str
    seconds: float | None

    def line(self) -> str:
        """The row for a reader."""
        name = self.stages[0].partition("@")[0]
        count = f" ({len(self.stages)})" if len(self.stages) > 1 else ""
        what = shorten(self.what, WIDTH, placeholder=" ...")
        return f"  {name + count:<22}{what:<{WIDTH}}  {'not known' if self.seconds is None else duration(self.seconds)}"


def estimate(params: Params, addresses: Collection[str]) -> list[str]:
    """The lines to print before the stages `addresses` run."""
    found = processor()
    lines = [f"Processor: {found.description}.", *filter(None, [found.warning])]
    on_gpu = torch.cuda.is_available()
    if on_gpu:
        lines.append(f"GPU: {torch.cuda.get_device_name()}; tuning and playing use it.")
    known = params.base_model.is_tiny and not on_gpu
    rows = plan(params, addresses, training_speed() if known else None)
    whole = sum(row.seconds for row in rows if row.seconds is not None)
    stages = "one stage" if len(addresses) == 1 else f"{len(addresses)} stages"
    without = "" if all(row.seconds is not None for row in rows) else " without what is not known"
    return [
        *lines,
        f"{stages[0].upper()}{stages[1:]} to run, in about {duration(whole)}{without}, if nothing else runs here:",
        *(row.line() for row in rows),
    ]


def duration(seconds: float) -> str:
    """A time for a reader, to about a tenth."""
    if seconds < 90:
        return f"{max(1, round(seconds / 5)) * 5} s"
    return f"{round(seconds / 60)} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def plan(params: Params, addresses: Collection[str], speed: float | None) -> list[PlanRow]:
    """What is to run, in the order of the stages, and about how long it takes with the tiny model.

    Args:
        params: the parameters.
        addresses: the stages that are not up to date.
        speed: this processor's `training_speed`; None: nothing is known of how fast the model is tuned and plays.
    """
    try:
        count = sum(1 for _ in personas(params))
    except UserError:  # the first stage reports it
        count = 0
    grouped = groupby(addresses, key=lambda address: address.partition("@")[0])
    return [_row(stage, list(stages), params, count, speed) for stage, stages in grouped]


def _row(stage: str, stages: list[str], params: Params, count: int, speed: float | None) -> PlanRow:
    samples = count * params.synthesis.samples_per_persona
    keys = ", ".join(address.partition("@")[2] for address in stages)
    fixed = SECONDS_PER_STAGE * len(stages)
    if stage in SECONDS_PER_SAMPLE:
        paid = any(not params.teacher.role(role).is_simulated for role in ROLES.get(stage, ()))
        whats = {
            "synthesis": f"{count:,} personas, {params.synthesis.samples_per_persona} scripts and first games each",
            "verification": "the rules judge every answer",
            "repair": f"rejected games again, to {params.repair.call_budget} calls a game",
            "quality_gate": "Great Expectations judges the games",
        }
        return PlanRow(stages, whats[stage], None if paid else fixed + samples * SECONDS_PER_SAMPLE[stage])
    if stage == "base_model":
        tokens = params.base_model.tiny.pretraining_tokens
        if not params.base_model.is_tiny:
            return PlanRow(stages, f"{params.base_model.path} is checked", None)
        made = f"a tiny Llama is pretrained on {tokens:,} tokens"
        return PlanRow(
            stages, made, None if speed is None else fixed + _slower(speed) * tokens / BASE_TOKENS_PER_SECOND
        )
    if stage == "tuning":
        tuned = f"{keys}: {_amount(params.tuning)}"
        return PlanRow(stages, tuned, _tuning_seconds(params, len(stages), samples, speed))
    if stage.endswith("evaluation"):
        episodes, simulated = _episodes(params)
        played = f"{keys}: {episodes + simulated:,} episodes{' each' * (len(stages) > 1)}"
        if stage == "endpoint_evaluation" or (stage == "evaluation" and speed is None):
            return PlanRow(stages, played, None)
        each = SECONDS_PER_EPISODE[stage] * (_slower(speed) if speed else 1) * episodes
        return PlanRow(stages, played, fixed + len(stages) * (each + simulated * SECONDS_PER_SIMULATOR_EPISODE))
    if stage == "on_policy":
        return PlanRow(stages, f"{keys}: a model plays training worlds and is corrected", None)
    others = {"mix": f"{keys}: general chat among the games", "report": "tables, plots, every episode to browse"}
    return PlanRow(stages, others[stage], fixed)


def _amount(tuning: TuningParams) -> str:
    """How much a variant is tuned on."""
    if tuning.tokens is not None:
        return f"{tuning.tokens:,} tokens each"
    return f"{tuning.epochs} epoch{'s' * (tuning.epochs > 1)}"


def _slower(speed: float) -> float:
    return REFERENCE_TOKENS_PER_SECOND / speed


def _tuning_seconds(params: Params, variants: int, samples: int, speed: float | None) -> float | None:
    if speed is None:
        return None
    tokens = params.tuning.tokens or samples * KEPT_SHARE * TOKENS_PER_GAME * params.tuning.epochs
    rounds = -(-variants // tunings_at_once(params.tuning))
    return SECONDS_PER_STAGE * variants + rounds * _slower(speed) * tokens / TUNING_TOKENS_PER_SECOND


def _episodes(params: Params) -> tuple[int, int]:
    """How many episodes a player plays, and how many of them with a simulator that has to be started."""
    own, simulated = 0, 0
    for name in named(params.evaluation.benchmarks):
        if "textworld" in PACKAGES.get(name, ()) or name == "sciworld":
            simulated += params.evaluation.simulator_episodes
        else:
            own += min(params.evaluation.episodes, MAX_EPISODES.get(name, params.evaluation.episodes))
    return own * params.evaluation.attempts, simulated * params.evaluation.attempts


def training_speed() -> float:
    """Tokens that one core takes through forward and backward passes of the tiny model's layers in a second.

    By processor time, so that other programs do not count; the best of a few steps, in the precision of tuning.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        layers = nn.ModuleList([_Layer() for _ in range(2)])
        rows = torch.randn(4, 700, _Layer.WIDTH)
        best = float("inf")
        for _ in range(4):
            began = time.process_time()
            with torch.autocast("cpu", torch.bfloat16, enabled=multiplies_bf16()):
                values = rows
                for layer in layers:
                    values = layer(values)
            values.float().square().mean().backward()  # type: ignore[no-untyped-call]
            best = min(best, time.process_time() - began)
    finally:
        torch.set_num_threads(before)
    return rows.shape[0] * rows.shape[1] / best


class _Layer(nn.Module):
    """A layer of the size that params.yaml gives the tiny model."""

    WIDTH, INNER, HEADS = 128, 704, 2

    def __init__(self) -> None:
        super().__init__()
        self.attention = nn.Linear(self.WIDTH, 3 * self.WIDTH)
        self.out = nn.Linear(self.WIDTH, self.WIDTH)
        self.up = nn.Linear(self.WIDTH, 2 * self.INNER)
        self.down = nn.Linear(self.INNER, self.WIDTH)

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        """Shape (rows, length, width), in and out."""
        rows, length, width = values.shape
        heads = self.attention(values).view(rows, length, 3, self.HEADS, width // self.HEADS).permute(2, 0, 3, 1, 4)
        attended = scaled_dot_product_attention(heads[0], heads[1], heads[2], is_causal=True)
        attended = attended.transpose(1, 2).reshape(rows, length, width)
        values = values + self.out(attended)
        gate, up = self.up(values).chunk(2, dim=-1)
        result: torch.Tensor = values + self.down(silu(gate) * up)
        return result
