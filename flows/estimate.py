"""What `make run` prints at its start: which processor it found, and about how long the stages will take on it.

The estimate multiplies what is to be done by what it took on one machine (two cores of an AMD EPYC, Zen 4), and by how
much faster or slower this processor takes a training step of the tiny model. It is good to about a third.
"""

import time
from collections.abc import Collection

import torch
from torch import nn
from torch.nn.functional import scaled_dot_product_attention, silu

from agentrefine.errors import UserError
from agentrefine.params import Params
from agentrefine.tuning.hardware import multiplies_bf16, processor, tunings_at_once
from tasks.synthesis import personas

REFERENCE_TOKENS_PER_SECOND = 15_000.0
"""What `training_speed` measured on the machine whose seconds stand below."""
SECONDS_PER_STAGE = 8.0
"""The fixed cost of a stage: imports, Prefect, DVC."""
SECONDS_PER_SAMPLE = {"synthesis": 0.012, "verification": 0.003, "repair": 0.010, "quality_gate": 0.015}
"""The further cost with the simulated teacher; another teacher's answers take their own time."""
BASE_TOKENS_PER_SECOND = 10_000.0
TUNING_TOKENS_PER_SECOND = 11_000.0
"""The speeds of one process with one thread."""
TOKENS_PER_GAME = 530
KEPT_SHARE = 0.9
"""The share of the samples that become a game of the data set."""
SECONDS_PER_EPISODE = 0.3
BENCHMARKS = 5
"""About how many are played by default without a simulator."""


def estimate(params: Params, addresses: Collection[str]) -> list[str]:
    """The lines to print before the stages `addresses` run."""
    found = processor()
    lines = [f"Processor: {found.description}.", *filter(None, [found.warning])]
    if torch.cuda.is_available():
        return [*lines, f"GPU: {torch.cuda.get_device_name()}; tuning and playing use it."]
    if not params.base_model.is_tiny:
        return [*lines, f"The time that tuning and playing take depends on {params.base_model.path}."]
    minutes = max(1, round(seconds(params, addresses, training_speed()) / 60))
    teacher = "" if params.teacher.uses_simulated_teacher else ", the teacher's answers left out"
    stages = "one stage" if len(addresses) == 1 else f"{len(addresses)} stages"
    return [
        *lines,
        f"About {minutes} min for {stages} if nothing else runs here{teacher}: by a second's measurement of this "
        "processor and by what the stages took on another.",
    ]


def seconds(params: Params, addresses: Collection[str], speed: float) -> float:
    """About how long the stages that are not up to date take with the tiny model on a CPU of this `training_speed`."""
    try:
        count = sum(1 for _ in personas(params))
    except UserError:  # the first stage reports it
        count = 0
    samples = count * params.synthesis.samples_per_persona
    slower = REFERENCE_TOKENS_PER_SECOND / speed
    total = 0.0
    tunings = 0
    for address in addresses:
        stage = address.partition("@")[0]
        total += SECONDS_PER_STAGE + samples * SECONDS_PER_SAMPLE.get(stage, 0.0)
        if stage == "base_model":
            total += slower * params.base_model.tiny.pretraining_tokens / BASE_TOKENS_PER_SECOND
        elif stage == "evaluation":
            played = params.evaluation.benchmarks
            benchmarks = BENCHMARKS if isinstance(played, str) else len(played)
            total += slower * benchmarks * params.evaluation.episodes * params.evaluation.attempts * SECONDS_PER_EPISODE
        elif stage == "tuning":
            tunings += 1
    tokens = samples * KEPT_SHARE * TOKENS_PER_GAME * params.tuning.epochs
    rounds = -(-tunings // tunings_at_once(params.tuning))
    return total + rounds * slower * tokens / TUNING_TOKENS_PER_SECOND


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
