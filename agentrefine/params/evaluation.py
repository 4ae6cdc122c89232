"""The section `evaluation` of params.yaml: who plays what, by which rules, and what the user has of the benchmarks."""

from typing import Annotated, Final, Literal, Self

from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt, model_validator

from agentrefine.params.base import Address, ExtraBody, KeyName, Section, UserPath, misfit, param
from agentrefine.params.tuning import BASE, Name

CHANCE: Final = "chance"
"""The name of the policy that draws from the possible actions, among those that are evaluated."""

INSTALLED: Final = "installed"
"""In place of a list of benchmarks: all of which everything is there."""

WHO_PLAYS: Final = ("models", "endpoints", "references")
"""Keys of the section that say who is evaluated; all others are rules of how."""

PLAYED_BY_DEFAULT: Final = ["worlds_layouts", "worlds_families", "worlds_perturbed", "babyai", "pddl", "hotpotqa"]
"""Benchmarks that the plain installation can play. They are listed, so that a simulator that is installed later
makes no evaluation run again."""


class EndpointParams(Section):
    """A model behind an OpenAI-compatible endpoint, evaluated for comparison."""

    base_url: Address
    model: str
    api_key_env: KeyName
    extra_body: ExtraBody = param(
        {}, "keys of each request, such as {reasoning_effort: low}; null leaves a key of ours out"
    )
    max_new_tokens: PositiveInt | None = param(None, "of one reply, thoughts included; null: evaluation.max_new_tokens")
    timeout_seconds: PositiveFloat = param(120.0, "of one try, from the request to the last byte")
    max_retries: NonNegativeInt = param(6, "of one call, on 429, 5xx, time-outs and broken connections")
    concurrency: PositiveInt | None = param(None, "calls in flight at most; null: evaluation.batch_size")
    requests_per_minute: PositiveInt | None = param(None, "the provider's limit, if known")
    tokens_per_minute: PositiveInt | None = param(None, "the provider's limit, if known")
    max_cost: PositiveFloat | None = param(None, "US dollars that one evaluation may cost")
    prices: UserPath | None = param(None, "your own file in the form of agentrefine/llm/prices.yaml")


class BenchmarkData(Section):
    """Files of the published benchmarks that a user has; where there is none, games of ours or made here are played."""

    agentboard: UserPath | None = param(
        None, "AgentBoard's data folder (<task>/test.jsonl): its episodes, goals, sub-goals and difficulty"
    )
    alfworld: UserPath | None = param(None, "the folder that alfworld-download wrote; else games are made here")
    jericho: UserPath | None = param(None, "a folder of story files; else TextWorld's games")
    pddl: UserPath | None = param(None, "a folder of domains and problems; else ours")
    hotpotqa: UserPath | None = param(None, "the official distractor JSON; else questions of ours")


class Prompting(Section):
    """What an agent is asked for: a thought and an action (react) or an action only (act), after so many examples."""

    style: Literal["react", "act"] = "react"
    shots: Annotated[int, Field(ge=0, le=1)] = 0


class Sampling(Section):
    """How replies are sampled: temperature 0 takes the likeliest token each time (AgentBoard's setting)."""

    temperature: NonNegativeFloat = 0.0
    top_p: Annotated[float, Field(gt=0, le=1)] = 1.0


GREEDY = Sampling()
"""The likeliest token each time."""


class EvaluationParams(Section):
    """Who plays what, and by which rules."""

    references: list[Literal["chance"]] = param(
        [CHANCE], "without a model: chance draws uniformly from the possible actions; []: none"
    )
    models: Annotated[list[Name], Field(min_length=1)] = param(
        [BASE, "expert_only", "refinement"], "base and any of tuning.variants"
    )
    endpoints: dict[Name, EndpointParams] = param(
        {},
        "to compare with: gpt-4o: {base_url: ..., model: gpt-4o, api_key_env: OPENAI_API_KEY}; further "
        'keys in docs/teacher.md, "Players"',
    )
    benchmarks: Literal["installed"] | Annotated[list[str], Field(min_length=1)] = param(
        PLAYED_BY_DEFAULT,
        "further ones need `make simulators`: alfworld, alfworld_perturbed, sciworld, jericho, textworld; installed: "
        "all that are installed",
    )
    data: BenchmarkData = param(BenchmarkData(), "files of published benchmarks, if you have them; docs/benchmarks.md")
    episodes: PositiveInt = param(50, "of a benchmark")
    simulator_episodes: PositiveInt = param(5, "of one whose simulator takes seconds to start an episode")
    attempts: PositiveInt = param(1, 'at each episode; with more, "any success" is reported too (needs a temperature)')
    max_steps: PositiveInt = param(20, "of an episode")
    stop_on_repeats: Annotated[int, Field(gt=1)] | None = param(
        None, "3 ends an episode at the third identical failing action"
    )
    prompting: Prompting = param(Prompting(), "style react or act; shots 0 or 1 played examples in the instructions")
    sampling: Sampling = param(GREEDY, "temperature 0: the likeliest token each time")
    max_new_tokens: PositiveInt = param(48, "of a reply", "the longest of the tiny model's games has 38")
    batch_size: PositiveInt = param(50, "episodes played side by side")

    @model_validator(mode="after")
    def _attempts_and_names_differ(self) -> Self:
        if self.attempts > 1 and self.sampling.temperature == 0:
            sentence = (
                "attempts: at temperature 0 every attempt is the same; set sampling.temperature, or attempts to 1"
            )
            raise misfit(sentence, key="evaluation.attempts", value=self.attempts)
        if CHANCE in self.models:
            sentence = "models names chance, which has no model; move it to references"
            raise misfit(sentence, key="evaluation.models", name=CHANCE)
        if clash := [name for name in self.endpoints if name in (*self.models, CHANCE)]:
            sentence = f"endpoints.{clash[0]} has the name of another model that is evaluated; rename it"
            raise misfit(sentence, key=f"evaluation.endpoints.{clash[0]}", name=clash[0])
        return self

    @property
    def players(self) -> list[str]:
        """All that are evaluated, in the order in which they are shown: references, models, endpoints."""
        return [*self.references, *self.models, *self.endpoints]
