"""A model's answers, each from the journal when it is there, else paid for within the budget and kept."""

import logging
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack

from agentrefine.llm.completion import TOO_LONG, UNANSWERED, Answer, Request, Usage, field_of_thoughts
from agentrefine.llm.journal import Journal, KeptAnswer, answer_id
from agentrefine.llm.reply import complete_usage
from agentrefine.llm.spending import Price, Spending
from agentrefine.llm.throttle import SharedNumbers, check_stopped

logger = logging.getLogger(__name__)

PAID, REPLAYED = "paid", "replayed"
"""The shared numbers of calls that went to an endpoint, and of calls that the journal answered."""

_NOT_KEPT = (UNANSWERED, TOO_LONG)
"""Finish reasons of calls that the next run makes again, as are answers without content: the endpoint may be well, have
a longer context or other settings by then."""
_WORST_BYTES_PER_TOKEN = 2
"""Bytes of a prompt for each token, for the most that it may cost; texts have three to five."""


class PaidCalls:
    """Calls to one model whose answers are on disk before anyone sees them, and whose cost is reserved before they go.

    Tokens that the endpoint does not count are estimated, for fresh answers and for those of the journal alike.
    """

    def __init__(
        self, model: str, journal: Journal | None, numbers: SharedNumbers, spending: Spending, price: Price | None
    ) -> None:
        """Prepare.

        Args:
            model: its name, for warnings.
            journal: where answers are kept; None keeps none.
            numbers: made with `PAID` and `REPLAYED` among its names.
            spending: the budget.
            price: of the model; None where it is not known.
        """
        self._model = model
        self._journal = journal
        self._numbers = numbers
        self._spending = spending
        self._price = price
        self._warned = False

    def find(self, key: str, request: Request) -> KeptAnswer | None:
        """The journal's answer to a call; None when there is none yet. What it cost counts towards the budget."""
        kept = self._journal.find(key, request.max_tokens) if self._journal else None
        if kept is None:
            return None
        kept = kept._replace(answer=complete_usage(kept.answer, request))
        self._numbers.add(REPLAYED, 1)
        self.count(kept.answer.usage)
        return kept

    async def ask(self, key: str, request: Request, send: Callable[[AsyncExitStack], Awaitable[Answer]]) -> KeptAnswer:
        """A new answer.

        Args:
            key: of the call in the journal.
            request: the call.
            send: sends it; the call stays in flight until the stack is closed, which is when the answer is on disk.

        Raises:
            UserError: the endpoint refuses for good, the budget is spent, or the journal cannot be written.
        """
        check_stopped(self._numbers)
        reserved = self._price.cost(_worst(request)) if self._price else 0.0
        await self._spending.reserve(reserved)
        cost = 0.0
        try:
            async with AsyncExitStack() as in_flight:
                answer = await send(in_flight)
                counted = self._counted(answer, request)
                cost = self._price.cost(counted.usage) if self._price else 0.0
                self._numbers.add(PAID, counted.finish_reason not in _NOT_KEPT)
                if (
                    self._journal is None
                    or answer.finish_reason in _NOT_KEPT
                    or field_of_thoughts(answer.finish_reason)
                ):
                    return KeptAnswer(answer_id(key, request.max_tokens), counted)
                return await self._journal.keep(key, request.max_tokens, counted)
        finally:
            self._spending.settle(reserved, cost)

    def count(self, usage: Usage) -> None:
        """Count what was paid without a reservation: now for a probe, or earlier for an answer of the journal."""
        self._spending.settle(0.0, self._price.cost(usage) if self._price else 0.0)

    def _counted(self, answer: Answer, request: Request) -> Answer:
        """The answer with all its tokens."""
        counted = complete_usage(answer, request)
        if counted.usage.estimated and not self._warned:
            self._warned = True
            logger.warning(
                "%s: the endpoint does not count all tokens (`usage`); they, and what they cost, are estimated from "
                "the length of the texts",
                self._model,
            )
        return counted


def _worst(request: Request) -> Usage:
    """More tokens than a call takes, unless its prompt is of characters that tokenizers hardly know."""
    size = sum(len(message["content"].encode()) for message in request.messages)
    return Usage(prompt_tokens=size // _WORST_BYTES_PER_TOKEN, completion_tokens=request.max_tokens)
