"""The section `evaluation` of params.yaml: who plays what, by which rules, and what the user has of the benchmarks."""

from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, Field, model_validator

from agentrefine.params.base import KeyName, Section, UserPath, bare_address, extra_keys
from agentrefine.params.tuning import Name

CHANCE = "chance"
"""The name of the policy that draws from the possible actions, among those that are evaluated."""

INSTALLED = "installed"
"""In place of a list of benchmarks: all of which everything is there."""


class EndpointParams(Section):
    """A model behind an OpenAI-compatible endpoint, evaluated for comparison.

    Attributes:
        base_url, model, api_key_env: where it is, its name there, and the environment variable that holds the key.
        extra_body: further keys of each request's body, such as `{reasoning_effort: low}`; one that is null leaves a
            key of ours out.
        max_new_tokens: most tokens of one reply, thoughts included; None: `evaluation.max_new_tokens`.
        timeout_seconds: of one try, from the request to the last byte.
        max_retries: of one call, on 429, 5xx, time-outs and broken connections.
        concurrency: calls in flight at the most; None: as many as `evaluation.batch_size`.
        requests_per_minute, tokens_per_minute: ceilings, if known.
        max_cost: US dollars that one evaluation may cost; None: no limit.
        prices: a file in the form of agentrefine/llm/prices.yaml; None: that one.
    """

    base_url: Annotated[str, AfterValidator(bare_address)]
    model: str
    api_key_env: KeyName
    extra_body: Annotated[dict[str, Any], AfterValidator(extra_keys)] = Field(default_factory=dict)
    max_new_tokens: Annotated[int, Field(gt=0)] | None = None
    timeout_seconds: Annotated[float, Field(gt=0)] = 120.0
    max_retries: Annotated[int, Field(ge=0)] = 6
    concurrency: Annotated[int, Field(gt=0)] | None = None
    requests_per_minute: Annotated[int, Field(gt=0)] | None = None
    tokens_per_minute: Annotated[int, Field(gt=0)] | None = None
    max_cost: Annotated[float, Field(gt=0)] | None = None
    prices: UserPath | None = None


class BenchmarkData(Section):
    """Files of the published benchmarks that a user has; where there is none, games of ours or made here are played.

    Attributes:
        agentboard: AgentBoard's data folder, with `<task>/test.jsonl`: its labels decide which episodes are played,
            their goals, sub-goals and difficulty.
        alfworld: the folder that `alfworld-download` wrote (ALFWORLD_DATA).
        jericho: a folder of story files.
        pddl: a folder of domains and problems.
        hotpotqa: the official distractor JSON.
    """

    agentboard: UserPath | None = None
    alfworld: UserPath | None = None
    jericho: UserPath | None = None
    pddl: UserPath | None = None
    hotpotqa: UserPath | None = None


class Prompting(Section):
    """What an agent is asked for.

    Attributes:
        style: `react`, a thought and an action; or `act`, an action only.
        shots: how many played examples stand in the instructions.
    """

    style: Literal["react", "act"] = "react"
    shots: Annotated[int, Field(ge=0, le=1)] = 0


class Sampling(Section):
    """How replies are drawn.

    Attributes:
        temperature: 0 takes the likeliest token each time (AgentBoard's setting).
        top_p: only the likeliest tokens that together have this probability.
    """

    temperature: Annotated[float, Field(ge=0)] = 0.0
    top_p: Annotated[float, Field(gt=0, le=1)] = 1.0


GREEDY = Sampling()
"""The likeliest token each time."""


class EvaluationParams(Section):
    """Who plays what, and by which rules.

    `references` are policies without a model: `chance` draws uniformly from the actions that are possible.
    """

    references: list[Literal["chance"]]
    endpoints: dict[Name, EndpointParams]
    models: Annotated[list[Name], Field(min_length=1)]
    benchmarks: Literal["installed"] | Annotated[list[str], Field(min_length=1)]
    data: BenchmarkData
    episodes: Annotated[int, Field(gt=0)]
    simulator_episodes: Annotated[int, Field(gt=0)]
    attempts: Annotated[int, Field(gt=0)]
    max_steps: Annotated[int, Field(gt=0)]
    stop_on_repeats: Annotated[int, Field(gt=1)] | None
    prompting: Prompting
    sampling: Sampling
    max_new_tokens: Annotated[int, Field(gt=0)]
    batch_size: Annotated[int, Field(gt=0)]

    @model_validator(mode="after")
    def _attempts_differ(self) -> Self:
        if self.attempts > 1 and self.sampling.temperature == 0:
            raise ValueError(
                "attempts: at temperature 0 every attempt is the same; set sampling.temperature, or attempts to 1"
            )
        return self

    @model_validator(mode="after")
    def _names_differ(self) -> Self:
        if CHANCE in self.models:
            raise ValueError("models names chance, which has no model; move it to references")
        if clash := [name for name in self.endpoints if name in (*self.models, CHANCE)]:
            raise ValueError(f"endpoints.{clash[0]} has the name of another model that is evaluated; rename it")
        return self

    @property
    def players(self) -> list[str]:
        """All that are evaluated, in the order in which they are shown: references, models, endpoints."""
        return [*self.references, *self.models, *self.endpoints]
