"""The money of a run: what models cost, what calls have cost, and a limit that no call may take it beyond."""

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from agentrefine.errors import UserError
from agentrefine.files import invalid_value, packaged_path, read_yaml
from agentrefine.llm.completion import Usage
from agentrefine.llm.throttle import SharedNumbers

SPENT = "spent"
"""The shared number of US dollars that calls have cost."""
SPENDING_NUMBERS = (SPENT, "reserved", "settled_at")
"""The names of all shared numbers of a budget; times are seconds of the machine's monotonic clock."""
_SECONDS_BETWEEN_LOOKS = 0.2
_DOLLARS = Annotated[float, Field(ge=0, allow_inf_nan=False)]


class Price(BaseModel):
    """One model's prices.

    Example: `{input: 2.5, output: 10.0, cached_input: 1.25, batch: 0.5}`

    Attributes:
        input, output: US dollars per million tokens of prompts and of answers.
        cached_input: the same for tokens that the provider reads from its cache; None: as `input`.
        batch: the share of these prices that the Batch API costs; None: it has no such API.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    input: _DOLLARS
    output: _DOLLARS
    cached_input: _DOLLARS | None = None
    batch: Annotated[float, Field(ge=0, le=1)] | None = None

    def cost(self, usage: Usage) -> float:
        """US dollars of one call. A call through a Batch API without a price of its own counts in full."""
        cached = self.input if self.cached_input is None else self.cached_input
        fresh = max(0, usage.prompt_tokens - usage.cached_tokens)
        dollars = fresh * self.input + usage.cached_tokens * cached + usage.completion_tokens * self.output
        share = self.batch if usage.batch and self.batch is not None else 1.0
        return dollars * share / 1_000_000


class Prices(BaseModel):
    """A table of prices: when they were listed, and each model's, by the name that calls give it.

    Example: `{listed: "2026-10", models: {gpt-4o: {input: 2.5, output: 10.0}}}`
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    listed: str
    models: dict[str, Price]

    def cost(self, model: str, usage: Usage) -> float | None:
        """US dollars of one call; None where the model's price is not known."""
        price = self.models.get(model)
        return None if price is None else price.cost(usage)

    def known(self, model: str, max_cost: float | None, section: str) -> Price | None:
        """A model's price; None where it is not known. `section` of params.yaml holds the limit `max_cost`.

        Raises:
            UserError: there is a limit, and no price to keep it by.
        """
        price = self.models.get(model)
        if max_cost is not None and price is None:
            message = (
                f"{section}.max_cost: the price of model {model!r} is not known; give it in a file that "
                f"{section}.prices names (see agentrefine/llm/prices.yaml), or set {section}.max_cost to null."
            )
            raise UserError("price_unknown", message, key=f"{section}.max_cost", name=model)
        return price


def dollars(amount: float) -> str:
    """A cost for a reader. What is paid for never shows as $0.00."""
    return f"${amount:,.2f}" if amount >= 0.01 or not amount else f"${amount:.2g}"


def load_prices(path: str | None, section: str = "teacher") -> Prices:
    """The table at `path`, named in `section` of params.yaml, or ours. Raises UserError if it cannot be read."""
    ours = "agentrefine/llm/prices.yaml"
    file = Path(path) if path else packaged_path("agentrefine.llm", "prices.yaml")
    try:
        return Prices.model_validate(read_yaml(file, f"correct {section}.prices in params.yaml or set it to null"))
    except ValidationError as error:
        raise invalid_value(error, path or ours, f"Write it in the form of {ours}.", file=file) from error


class BudgetSpentError(UserError):
    """The next call could cost more than is left of `max_cost`."""


@dataclass
class Spending:
    """What the calls of all processes have cost, in US dollars, kept below a limit.

    Before a call goes out, the most that it can cost is reserved; its real cost takes that place when it is answered.
    So the limit is not passed as long as the endpoint bills no more than it counts, or than is estimated where it does
    not count, and bills no call that timed out or broke.
    Answers from the journal count too: the limit is one for the data set, and a rerun does not begin at zero.

    Attributes:
        numbers: made with `SPENDING_NUMBERS` among its names.
        max_cost: the limit; None for no limit.
        patience: seconds in which some call ends as long as any is in flight.
        section: of params.yaml, whose `max_cost` it is.
    """

    numbers: SharedNumbers
    max_cost: float | None
    patience: float
    section: str = "teacher"

    async def reserve(self, most: float) -> None:
        """Wait until `most` US dollars are free, which calls in flight may set free.

        Raises:
            BudgetSpentError: they are not, and no call is in flight any more; or none has ended for so long that what
                is reserved must be that of a process that died.
            StoppedError: the run is ending.
        """
        while True:
            with self.numbers.locked() as numbers:
                spent, reserved = numbers["spent"], numbers["reserved"]
                if self.max_cost is None or spent + reserved + most <= self.max_cost:
                    numbers["reserved"] = reserved + most
                    return
                idle = time.monotonic() - (numbers["settled_at"] or time.monotonic())
            if reserved <= 1e-9 or idle >= self.patience:  # what rounding leaves is no call
                break
            await self.numbers.sleep(_SECONDS_BETWEEN_LOOKS)
        setting = f"{self.section}.max_cost"
        raise BudgetSpentError(
            "budget_spent",
            f"{setting}: {spent:.2f} of {self.max_cost:.2f} US dollars are spent, and the next call could cost "
            f"{most:.2f}; raise {setting} and run the same command again: no answer is paid for twice.",
            key=setting,
            spent=spent,
            limit=self.max_cost,
        )

    def settle(self, reserved: float, cost: float) -> None:
        """Count a call's `cost` in place of what was reserved for it."""
        with self.numbers.locked() as numbers:
            numbers["reserved"] = max(0.0, numbers["reserved"] - reserved)
            numbers["spent"] += cost
            numbers["settled_at"] = time.monotonic()
