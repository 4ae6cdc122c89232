"""Calls, tokens and money, added up: for a stage, for a persona and for a kept trajectory."""

from collections.abc import Iterable, Iterator
from itertools import groupby
from typing import TYPE_CHECKING

from pydantic import BaseModel, ConfigDict

from agentrefine.game.counts import UNKNOWN, Calls, CallsEach, Cost, PerOne
from agentrefine.game.trajectory import Trajectory
from agentrefine.game.verdict import Attempt
from agentrefine.llm.completion import NO_ANSWER
from agentrefine.llm.spending import Prices

if TYPE_CHECKING:
    from agentrefine.synthesis.refinement import Refined


class Account:
    """Adds up what calls took."""

    def __init__(self, prices: Prices, *, batch: bool = False) -> None:
        """Start empty.

        Args:
            prices: what tokens cost.
            batch: count every call as one through the Batch API, also those that were not.
        """
        self._prices = prices
        self._batch = batch
        self.calls = 0
        self.unanswered = 0
        self.estimated = 0
        self.prompt_tokens = 0
        self.cached_tokens = 0
        self.completion_tokens = 0
        self.cost: float | None = 0.0
        self.models_without_price: set[str] = set()

    def add(self, attempt: Attempt) -> None:
        """Count one call."""
        usage = attempt.usage.model_copy(update={"batch": True}) if self._batch else attempt.usage
        self.calls += 1
        self.unanswered += attempt.finish_reason in NO_ANSWER
        self.estimated += usage.estimated
        self.prompt_tokens += usage.prompt_tokens
        self.cached_tokens += usage.cached_tokens
        self.completion_tokens += usage.completion_tokens
        cost = self._prices.cost(attempt.teacher, usage)
        if cost is None:
            self.models_without_price.add(attempt.teacher)
        self.cost = None if cost is None or self.cost is None else self.cost + cost

    def add_all(self, attempts: Iterable[Attempt]) -> None:
        """Count many calls."""
        for attempt in attempts:
            self.add(attempt)

    def total(self) -> Calls:
        """The sums as a record."""
        return Calls(
            calls=self.calls,
            unanswered=self.unanswered,
            calls_with_estimated_tokens=self.estimated,
            prompt_tokens=self.prompt_tokens,
            cached_tokens=self.cached_tokens,
            completion_tokens=self.completion_tokens,
            cost_usd=_rounded(self.cost),
        )

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
    """A line of data/refinement/costs.jsonl: what one persona's samples took, from the first script to the last call.

    Example: `PersonaAccount(persona_id="p1", samples=6, kept=5, calls=16, prompt_tokens=53000, cached_tokens=0,
    completion_tokens=14000, cost_usd=0.0)`

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
    refined: Iterable["Refined"], prices: Prices, *, batch: bool = False
) -> Iterator[tuple[PersonaAccount, list["Refined"]]]:
    """What each persona took, with its samples, which stand together, in their order."""
    for persona_id, group in groupby(refined, key=lambda sample: sample.attempts[0].persona_id):
        samples = list(group)
        account = Account(prices, batch=batch)
        for sample in samples:
            account.add_all(sample.attempts)
        persona = PersonaAccount(
            persona_id=persona_id,
            samples=len(samples),
            kept=sum(isinstance(sample.outcome, Trajectory) for sample in samples),
            calls=account.calls,
            prompt_tokens=account.prompt_tokens,
            cached_tokens=account.cached_tokens,
            completion_tokens=account.completion_tokens,
            cost_usd=account.cost,
        )
        yield persona, samples


def _rounded(dollars: float | None) -> Cost:
    return UNKNOWN if dollars is None else round(dollars, 6)
