"""Evaluation of a policy without a model: chance plays the same benchmarks, for comparison."""

from agentrefine.benchmarks.base import Benchmark
from agentrefine.evaluation.evaluate import Rules, Seat
from agentrefine.evaluation.reference import ChancePolicy
from agentrefine.params import Params
from agentrefine.sources import digest
from tasks.playing import Player


def reference_player(name: str, params: Params) -> Player:
    """Chance, which plays one episode after the other: it asks each environment what is possible."""

    def take_seat(benchmark: Benchmark, rules: Rules, _spent: float) -> Seat:
        return Seat(ChancePolicy(params.seed, rules.prompting.style), benchmark, 1)

    identity = ChancePolicy.digest(params.seed)
    return Player(name, identity, digest(__name__), take_seat, params.evaluation.max_new_tokens)
