"""Calls, tokens and money, added up: for a stage, for a persona and for a kept trajectory."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import groupby
from typing import TYPE_CHECKING

from pydantic import BaseModel, ConfigDict

from agentrefine.game.counts import UNKNOWN, Calls, CallsEach, Cost, PerOne
from agentrefine.game.trajectory import Trajectory
from agentrefine.game.verdict import Attempt
from agentrefine.llm.completion import NO_ANSWER
from agentrefine.llm.spending import Prices

if TYPE_CHECKING:
    from agentrefine.synthesis.repair import Repaired


@dataclass
class Account:
    """Adds up what calls took.

    Attributes:
        prices: what tokens cost.
        batch: count every call as one through the Batch API, also those that were not.
        calls, ...: as in `Calls`.
        cost: US dollars; None as soon as the price of one call is not known.
        models_without_price: whose price is not known.
    """

    prices: Prices
    batch: bool = False
    calls: int = 0
    unanswered: int = 0
    estimated: int = 0
    prompt_tokens: int = 0
    cached_tokens: int = 0
    completion_tokens: int = 0
    cost: float | None = 0.0
    models_without_price: set[str] = field(default_factory=set)

    def add(self, attempt: Attempt) -> None:
        """Count one call."""
        usage = attempt.usage.model_copy(update={"batch": True}) if self.batch else attempt.usage
        self.calls += 1
        self.unanswered += attempt.finish_reason in NO_ANSWER
        self.estimated += usage.estimated
        self.prompt_tokens += usage.prompt_tokens
        self.cached_tokens += usage.cached_tokens
        self.completion_tokens += usage.completion_tokens
        cost = self.prices.cost(attempt.teacher, usage)
        if cost is None:
            self.models_without_price.add(attempt.teacher)
        self.cost = None if cost is None or self.cost is None else self.cost + cost

    def add_all(self, attempts: Iterable[Attempt]) -> None:
        """Count many calls."""
        for attempt in attempts:
            self.add(attempt)

    def total(self) -> Calls:
        """The sums as a record."""
        sums = vars(self) | {"calls_with_estimated_tokens": self.estimated, "cost_usd": _rounded(self.cost)}
        return Calls.model_validate(sums)

    def each(self, count: int) -> PerOne:
        """The sums divided by a count of something; empty when there is none of it."""
        if not count:
            return {}
        return CallsEach(
            calls=round(self.calls / count, 3),
            tokens=round((self.prompt_tokens + self.completion_tokens) / count, 1),
            cost_usd=_rounded(None if self.cost is None else self.cost / count),
        )


class PersonaAccount(BaseModel):
    """A line of data/repair/costs.jsonl: what one persona's samples took, from the first script to the last call.

    Example: `{"persona_id": "p1", "samples": 6, "kept": 5, "calls": 16, "prompt_tokens": 53000, ..., "cost_usd": 0.0}`

    Attributes:
        persona_id: whose.
        samples, kept: how many samples were asked for, and how many of them became a trajectory.
        calls, prompt_tokens, cached_tokens, completion_tokens: of all its samples.
        cost_usd: the same in US dollars; None when it is not known.
    """

    model_config = ConfigDict(frozen=True)

    persona_id: str
    samples: int
    kept: int
    calls: int
    prompt_tokens: int
    cached_tokens: int
    completion_tokens: int
    cost_usd: float | None


def persona_accounts(
    refined: Iterable["Repaired"], prices: Prices, *, batch: bool = False
) -> Iterator[tuple[PersonaAccount, list["Repaired"]]]:
    """What each persona took, with its samples, which stand together, in their order."""
    for persona_id, group in groupby(refined, key=lambda sample: sample.attempts[0].persona_id):
        samples = list(group)
        account = Account(prices, batch=batch)
        account.add_all(attempt for sample in samples for attempt in sample.attempts)
        kept = sum(isinstance(sample.outcome, Trajectory) for sample in samples)
        counts = {"persona_id": persona_id, "samples": len(samples), "kept": kept, "cost_usd": account.cost}
        yield PersonaAccount.model_validate(vars(account) | counts), samples


def _rounded(dollars: float | None) -> Cost:
    return UNKNOWN if dollars is None else round(dollars, 6)
