"""What the data stages count: `metrics.json` of synthesis, verification, repair, mix and on_policy."""

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


class MixCounts(BaseModel):
    """What a mixed data set holds (its metrics.json).

    Example: `{"games": 2685, "chats": 671, ..., "chats_left_out": {"nothing is trained": 3}, "chat_share": 0.2, ...}`

    Attributes:
        games: training samples that are games, all of the data set's.
        chats: training samples that are chats.
        chats_available: how many of the chat file can be trained on.
        chats_left_out: the others, by the rule that excludes them.
        parts_left_out: what the chats that can be trained on lost, by key and reason.
        chat_share: chats by all training samples.
        validation: samples that validate; games alone.
    """

    model_config = ConfigDict(frozen=True)

    games: int
    chats: int
    chats_available: int
    chats_left_out: dict[str, int]
    parts_left_out: dict[str, int]
    chat_share: float
    validation: int


class OnPolicyCounts(BaseModel):
    """data/on_policy/<name>/metrics.json: what was played, and what the data set holds.

    Example: `{"played": 800, "given_up": 3, "faultless": 420, "games": 377, "turns": 2900, "faults": {"place_error":
    160, ...}, "corrections": 610, "own_turns_trained": 1600, "injected": 0, "earlier": 0, "train": 365, ...}`

    Attributes:
        played: worlds.
        given_up: games that took too long or whose goal was out of reach; not kept.
        faultless: games without a mistake of the model; not kept.
        games: the others.
        turns: of the games, by model and expert.
        faults: mistakes of the model, by kind.
        corrections: turns of the expert directly after a mistake.
        own_turns_trained: turns of the model that are trained.
        injected, earlier: training samples of data/dataset, and of the data set that the model was tuned on.
        train, validation: samples of either file.
    """

    model_config = ConfigDict(frozen=True)

    played: int
    given_up: int
    faultless: int
    games: int
    turns: int
    faults: dict[str, int]
    corrections: int
    own_turns_trained: int
    injected: int
    earlier: int
    train: int
    validation: int
