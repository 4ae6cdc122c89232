"""The benchmarks by name."""

from agentrefine.benchmarks.babyai import BabyAI
from agentrefine.benchmarks.base import Benchmark
from agentrefine.errors import UserError

NAMES = ("babyai",)


def benchmark(name: str) -> Benchmark:
    """The benchmark of this name.

    Raises:
        UserError: there is none; lists those that there are.
    """
    if name == "babyai":
        return BabyAI()
    raise UserError(f"evaluation.benchmarks: there is no benchmark {name!r}; known are {', '.join(NAMES)}.")
