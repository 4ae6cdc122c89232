"""Evaluation of a model behind an endpoint: it plays the same benchmarks as the local weights."""

import json
from collections.abc import Sequence

from agentrefine.evaluation.endpoint import EndpointPolicy
from agentrefine.evaluation.episodes import Episode
from agentrefine.evaluation.evaluate import Rules
from agentrefine.files import short_hash
from agentrefine.llm.completion import Usage
from agentrefine.llm.spending import load_prices
from agentrefine.params import Params
from agentrefine.params.evaluation import EndpointParams
from agentrefine.sources import digest
from tasks.playing import JOURNAL, Player


def endpoint_player(name: str, params: Params) -> Player:
    """The endpoint `name` of params.yaml.

    Raises:
        UserError: a price that has to be known and is not.
    """
    endpoint = params.evaluation.endpoints[name]
    section = f"evaluation.endpoints.{name}"
    price = load_prices(endpoint.prices, section).known(endpoint.model, endpoint.max_cost, section)
    max_new_tokens = endpoint.max_new_tokens or params.evaluation.max_new_tokens

    def cost(episodes: Sequence[Episode]) -> float:
        used = [Usage(prompt_tokens=e.prompt_tokens, completion_tokens=e.completion_tokens) for e in episodes]
        return sum(map(price.cost, used)) if price else 0.0

    def open_policy(rules: Rules, spent: float) -> EndpointPolicy:
        return EndpointPolicy(
            endpoint,
            name=name,
            max_new_tokens=max_new_tokens,
            concurrency=rules.batch_size,
            sampling=rules.sampling,
            seed=params.seed,
            journal=JOURNAL / "replies.sqlite",
            spent=spent,
        )

    return Player(name, endpoint_identity(endpoint), digest(__name__), open_policy, max_new_tokens, cost)


def endpoint_identity(endpoint: EndpointParams) -> str:
    """What identifies an endpoint's model: all that changes its replies."""
    own = endpoint.model_dump(include={"extra_body", "max_new_tokens"}, exclude_defaults=True)
    extra = [json.dumps(own, sort_keys=True)] if own else []
    return short_hash("endpoint", endpoint.base_url, endpoint.model, *extra)
