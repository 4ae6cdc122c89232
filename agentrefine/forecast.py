"""What a data set will take, forecast from a pilot of a few personas."""

import heapq
import math
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from scipy import stats

from agentrefine.accounts import PersonaAccount
from agentrefine.files import short_hash
from agentrefine.personas import Persona

LEVEL = 0.95


class Expected(NamedTuple):
    """A total that is not known yet, with the ends of its 95% prediction interval."""

    value: float
    low: float
    high: float


class Forecast(NamedTuple):
    """What all personas together will take, the pilot included.

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
        cost = "unknown, as a price is not known" if self.cost is None else _told(self.cost, "${:,.2f}")
        return (
            f"forecast for {self.personas:,} personas from a pilot of {self.pilot} (95% intervals): "
            f"cost {cost}; {_told(self.calls)} calls; {_told(self.prompt_tokens)} prompt and "
            f"{_told(self.completion_tokens)} completion tokens; {_told(self.kept)} trajectories kept"
        )


def pilot_personas(personas: Iterable[Persona], count: int) -> list[Persona]:
    """Some of the personas, drawn by a hash of their ids: the same ones in every order of the file."""
    return heapq.nsmallest(count, personas, key=lambda persona: short_hash("pilot", persona.id))


def forecast(pilot: Sequence[PersonaAccount], personas: int, paid: float | None) -> Forecast:
    """What `personas` personas will take, from what the first of them took.

    Args:
        pilot: at least two accounts.
        personas: how many there are, those of the pilot included.
        paid: what the pilot itself cost in US dollars, which is more than its accounts say where the rest goes through
            the Batch API; None when it is not known.
    """
    costs = [account.cost_usd for account in pilot if account.cost_usd is not None]
    known = paid is not None and len(costs) == len(pilot)
    extra = paid - sum(costs) if paid is not None else 0.0
    return Forecast(
        pilot=len(pilot),
        personas=personas,
        calls=_total([account.calls for account in pilot], personas),
        prompt_tokens=_total([account.prompt_tokens for account in pilot], personas),
        completion_tokens=_total([account.completion_tokens for account in pilot], personas),
        kept=_at_most(_total([account.kept for account in pilot], personas), personas * pilot[0].samples),
        cost=Expected(*(number + extra for number in _total(costs, personas))) if known else None,
    )


def _total(taken: Sequence[float], personas: int) -> Expected:
    """The sum over all personas: what the pilot took is known, the rest is like it (Student's t for a new sum)."""
    count, rest = len(taken), personas - len(taken)
    mean = sum(taken) / count
    variance = sum((value - mean) ** 2 for value in taken) / (count - 1)
    spread = math.sqrt(variance * (rest**2 / count + rest)) * float(stats.t.ppf((1 + LEVEL) / 2, count - 1))
    known, expected = sum(taken), rest * mean
    return Expected(known + expected, max(known, known + expected - spread), known + expected + spread)


def _at_most(expected: Expected, most: float) -> Expected:
    return Expected(*(min(number, most) for number in expected))


def _told(expected: Expected, form: str = "{:,.0f}") -> str:
    value, low, high = (form.format(number) for number in expected)
    return f"{value} [{low}, {high}]"
