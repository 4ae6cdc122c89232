"""The cost of a data set in calls, tokens and dollars, forecast from a pilot of a few personas."""

import heapq
import math
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from statistics import variance
from typing import NamedTuple

from scipy import stats

from agentrefine.files import short_hash
from agentrefine.game.personas import Persona
from agentrefine.game.trajectory import DroppedSample
from agentrefine.llm.completion import TRUNCATED, field_of_thoughts
from agentrefine.llm.spending import dollars
from agentrefine.synthesis.accounts import PersonaAccount
from agentrefine.synthesis.repair import Repaired

LEVEL = 0.95
"""The share of totals that a prediction interval holds."""

MAX_REASONS = 3
"""How many reasons are named why nothing was kept."""


class Expected(NamedTuple):
    """A total that is not known yet, with the ends of its 95% prediction interval."""

    value: float
    low: float
    high: float


class Forecast(NamedTuple):
    """The cost of all personas together, the pilot included.

    Attributes:
        pilot: how many personas the forecast was made from.
        personas: how many there are.
        calls, prompt_tokens, completion_tokens, kept: of all of them.
        cost: in US dollars; None when a price is not known.
    """

    pilot: int
    personas: int
    calls: Expected
    prompt_tokens: Expected
    completion_tokens: Expected
    kept: Expected
    cost: Expected | None

    def sentence(self) -> str:
        """The forecast for a reader."""
        cost = "unknown, as a price is not known" if self.cost is None else _written(self.cost, dollars)
        return (
            f"forecast for {self.personas:,} personas from a pilot of {self.pilot} (95% intervals): "
            f"cost {cost}; {_written(self.calls)} calls; {_written(self.prompt_tokens)} prompt and "
            f"{_written(self.completion_tokens)} completion tokens; {_written(self.kept)} trajectories kept"
        )


def pilot_personas(personas: Iterable[Persona], count: int) -> list[Persona]:
    """Some of the personas, drawn by a hash of their ids: the same ones in every order of the file."""
    return heapq.nsmallest(count, personas, key=lambda persona: short_hash("pilot", persona.id))


def forecast(pilot: Sequence[PersonaAccount], personas: int, paid: float | None) -> Forecast:
    """The cost of `personas` personas, from that of the first of them.

    Args:
        pilot: at least two accounts.
        personas: how many there are, those of the pilot included.
        paid: what the pilot itself cost in US dollars, which is more than its accounts say where the rest goes through
            the Batch API; None when it is not known.
    """
    costs = [account.cost_usd for account in pilot if account.cost_usd is not None]
    known = paid is not None and len(costs) == len(pilot)
    extra = paid - sum(costs) if paid is not None else 0.0
    kept = _total([account.kept for account in pilot], personas)
    return Forecast(
        pilot=len(pilot),
        personas=personas,
        calls=_total([account.calls for account in pilot], personas),
        prompt_tokens=_total([account.prompt_tokens for account in pilot], personas),
        completion_tokens=_total([account.completion_tokens for account in pilot], personas),
        kept=Expected(*(min(number, personas * pilot[0].samples) for number in kept)),
        cost=Expected(*(number + extra for number in _total(costs, personas))) if known else None,
    )


def nothing_kept(pilot: Sequence[Repaired], personas: int) -> str | None:
    """Why a pilot kept no game, and what to do; None when it kept one.

    Args:
        pilot: the end of each of its samples.
        personas: how many they are of.
    """
    dropped = [sample.outcome for sample in pilot if isinstance(sample.outcome, DroppedSample)]
    if not dropped or len(dropped) < len(pilot):
        return None
    examples = {sample.rule: sample.message for sample in reversed(dropped)}
    reasons = [
        f"{rule} in {count} of {len(dropped)} ({examples[rule]})"
        for rule, count in Counter(sample.rule for sample in dropped).most_common(MAX_REASONS)
    ]
    answers = [attempt for sample in pilot for attempt in sample.attempts]
    fields = Counter(filter(None, (field_of_thoughts(attempt.finish_reason) for attempt in answers)))
    cut = sum(attempt.finish_reason == TRUNCATED for attempt in answers)
    hints = [
        f"{count} of {len(answers)} answers have no content but stand whole in the field {field}: turn thinking off by "
        "extra_body of the roles, or start the server with the reasoning parser of this model, or with none."
        for field, count in fields.most_common(1)
    ]
    if cut:
        hints.append(f"{cut} of {len(answers)} answers were cut at max_tokens: raise it, or turn thinking down.")
    return " ".join(
        [
            f"teacher: the pilot of {personas} personas kept none of its {len(pilot)} samples; nothing more is asked.",
            f"Most often: {'; '.join(reasons)}.",
            *hints,
            "Change teacher.model or its settings, or set teacher.pilot_personas to 0 to ask for all of them anyway.",
        ]
    )


def _total(taken: Sequence[float], personas: int) -> Expected:
    """The sum over all personas: what the pilot took is known, the rest is like it (Student's t for a new sum)."""
    count, rest = len(taken), personas - len(taken)
    mean = sum(taken) / count
    spread = math.sqrt(variance(taken) * (rest**2 / count + rest)) * float(stats.t.ppf((1 + LEVEL) / 2, count - 1))
    known, expected = sum(taken), rest * mean
    return Expected(known + expected, max(known, known + expected - spread), known + expected + spread)


def _written(expected: Expected, form: Callable[[float], str] = "{:,.0f}".format) -> str:
    value, low, high = map(form, expected)
    return f"{value} [{low}, {high}]"
