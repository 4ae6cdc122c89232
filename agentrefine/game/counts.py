"""What the data stages count: `metrics.json` of synthesis, verification and repair."""

from typing import Literal

from pydantic import BaseModel, ConfigDict

UNKNOWN: Literal["unknown"] = "unknown"
"""The cost where a model's price is not known: never 0, which is the cost of something free."""

Cost = float | Literal["unknown"]
"""US dollars, or `UNKNOWN`."""


class Counts(BaseModel):
    """Counts that are written once; files of later versions may hold more."""

    model_config = ConfigDict(frozen=True)


class Calls(Counts):
    """Calls of the teacher, all together.

    Example: `{"calls": 5446, "unanswered": 0, "calls_with_estimated_tokens": 0, "prompt_tokens": 17686538,
    "cached_tokens": 0, "completion_tokens": 4447623, "cost_usd": 0.0}`

    Attributes:
        unanswered: those that the endpoint gave no answer to.
        calls_with_estimated_tokens: those whose tokens the endpoint did not count.
        cost_usd: `unknown` as soon as the price of one call is.
    """

    calls: int
    unanswered: int
    calls_with_estimated_tokens: int
    prompt_tokens: int
    cached_tokens: int
    completion_tokens: int
    cost_usd: Cost


class CallsEach(Counts):
    """Calls for each one of something: `CallsEach(calls=15.916, tokens=67030.4, cost_usd=0.0)`."""

    calls: float
    tokens: float
    cost_usd: Cost


PerOne = CallsEach | dict[str, float]
"""Empty where there is nothing to divide by."""


class WholeCost(Calls):
    """What synthesis and repair took together: their `Calls`, for each persona and for each kept trajectory."""

    per_persona: PerOne
    per_kept_trajectory: PerOne


class _Asked(Counts):
    personas: int
    samples: int
    scripts: int
    trajectories: int


class SynthesisCounts(Calls, _Asked):
    """data/synthesis/metrics.json: what was asked at first, and what it cost.

    Example: `{"personas": 498, "samples": 2988, "scripts": 2988, "trajectories": 2458, "calls": 5446, ...}`
    """


class VerificationCounts(Counts):
    """data/verification/metrics.json: how the rules judged the first answers.

    Example: `{"judged": 5446, "passed": 4046, "rejected": 1400, "by_rule": {"not_json": 141, "unfinished": 78}}`
    """

    judged: int
    passed: int
    rejected: int
    by_rule: dict[str, int]


class _Ended(Counts):
    personas: int
    personas_kept: int
    personas_dropped: int
    samples: int
    kept: int
    dropped: int


class RepairCounts(Calls, _Ended):
    """data/repair/metrics.json: what became of every sample, and the calls that synthesis had not made.

    Example: `{"personas": 498, "personas_kept": 498, ..., "kept": 2767, "dropped": 221, "calls": 2480, ...,
    "with_synthesis": {"calls": 7926, ...}, "dropped_by_rule": {"not_json": 22}}`
    """

    with_synthesis: WholeCost
    dropped_by_rule: dict[str, int]
