"""Evaluation of a policy without a model: chance plays the same benchmarks, for comparison."""

from agentrefine.evaluation.evaluate import Rules
from agentrefine.evaluation.reference import ChancePolicy
from agentrefine.params import Params
from agentrefine.sources import digest
from tasks.playing import Player


def reference_player(name: str, params: Params) -> Player:
    """Chance, which plays one episode after the other: it asks each environment what is possible."""

    def open_policy(rules: Rules, _spent: float) -> ChancePolicy:
        return ChancePolicy(params.seed, rules.prompting.style)

    identity, limit = ChancePolicy.digest(params.seed), params.evaluation.max_new_tokens
    return Player(name, identity, digest(__name__), open_policy, limit, one_at_a_time=True)
