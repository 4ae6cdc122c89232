"""A policy behind any OpenAI-compatible endpoint: a hosted model, vLLM, `transformers serve`, llama.cpp, ..."""

import asyncio
import tempfile
import threading
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from agentrefine.errors import UserError
from agentrefine.evaluation.policy import Dialogue, Reply, turns_that_can_be_cut, without_oldest_turns
from agentrefine.files import short_hash
from agentrefine.llm.completion import FILTERED, NO_ANSWER, REFUSED, TOO_LONG, TRUNCATED, Answer, ChatMessage, Request
from agentrefine.llm.endpoint import MAX_OUTAGE_SECONDS, Endpoint, EndpointSettings
from agentrefine.llm.journal import CALL_NUMBERS, Journal, PaidCalls, Question
from agentrefine.llm.spending import SPENDING_NUMBERS, SPENT, Spending, load_prices
from agentrefine.llm.throttle import STOPPED, SharedNumbers, Throttle, throttle_numbers
from agentrefine.params.evaluation import GREEDY, EndpointParams, Sampling


class EndpointPolicy:
    """A remote model that acts. Each dialogue is a call of its own; calls of several threads share the connections.

    With a journal, a reply is on disk before it is used, and is never asked for again, unless it was cut and the limit
    is now another. A reply is raw: the thoughts that a server leaves in it are still there.

    Args:
        params: where the model is and how it is asked.
        name: the model's name in reports.
        max_new_tokens: most tokens of one reply.
        concurrency: calls in flight, where `params` names no number.
        sampling: how replies are drawn; those that are not the likeliest are asked for with a seed.
        seed: of the draws, together with the dialogue's key and turn.
        journal: the file of replies; None keeps none.
        spent: US dollars that the evaluation has cost so far.

    Raises:
        UserError: the environment variable of the key is not set, or the cost is limited and the price is not known.
    """

    batched = False

    def __init__(
        self,
        params: EndpointParams,
        *,
        name: str,
        max_new_tokens: int,
        concurrency: int = 16,
        sampling: Sampling = GREEDY,
        seed: int = 0,
        journal: Path | None = None,
        spent: float = 0.0,
    ) -> None:
        self.name = name
        self._params = params
        self._max_new_tokens = max_new_tokens
        self._sampling = sampling
        self._seed = seed
        section = f"evaluation.endpoints.{name}"
        price = load_prices(params.prices, section).known(params.model, params.max_cost, section)
        settings = EndpointSettings(
            section, params.base_url, params.model, params.api_key_env, params.timeout_seconds, params.max_retries
        )
        self._journal = Journal(journal) if journal else None
        self._folder = tempfile.TemporaryDirectory(prefix="agentrefine-")
        names = [*SPENDING_NUMBERS, STOPPED, *CALL_NUMBERS, *throttle_numbers(0)]
        self._numbers = SharedNumbers(Path(self._folder.name) / "numbers", names)
        self._numbers[SPENT] = spent
        spending = Spending(self._numbers, params.max_cost, MAX_OUTAGE_SECONDS + 2 * params.timeout_seconds, section)
        self._paid = PaidCalls(params.model, self._journal, self._numbers, spending, price)
        throttle = Throttle(
            self._numbers,
            0,
            max_in_flight=params.concurrency or concurrency,
            processes=1,
            requests_per_minute=params.requests_per_minute,
            tokens_per_minute=params.tokens_per_minute,
        )
        self._calls: set[asyncio.Task[Any]] = set()
        self._loop = asyncio.new_event_loop()
        self._endpoint = Endpoint(settings, throttle)
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()

    def act(self, dialogues: Sequence[Dialogue]) -> list[Reply]:
        """One reply per dialogue, in their order.

        Raises:
            UserError: the endpoint refuses a call for good, cannot be reached after the retries, or `max_cost` is
                spent.
        """
        return asyncio.run_coroutine_threadsafe(self._act(dialogues), self._loop).result()

    def forget(self, keys: Sequence[str]) -> None:
        """Nothing is kept between calls."""

    def close(self) -> None:
        """End the connections; calls in flight are given up, and what was answered is on disk."""
        asyncio.run_coroutine_threadsafe(self._end_calls(), self._loop).result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()
        if self._journal:
            self._journal.close()
        self._numbers.close()
        self._folder.cleanup()

    async def _end_calls(self) -> None:
        self._endpoint.stop()
        for call in self._calls:
            call.cancel()
        # Whoever waits for a call in another thread hears of its end before the loop stops.
        await asyncio.gather(*self._calls, return_exceptions=True)
        if self._journal:
            await self._journal.flush()
        await self._endpoint.close()

    async def _act(self, dialogues: Sequence[Dialogue]) -> list[Reply]:
        call = asyncio.current_task()
        assert call is not None
        self._calls.add(call)
        call.add_done_callback(self._calls.discard)
        try:
            async with asyncio.TaskGroup() as group:
                tasks = [group.create_task(self._reply(dialogue)) for dialogue in dialogues]
        except ExceptionGroup as failures:
            # The first failure has cancelled the other calls and speaks for them.
            raise failures.exceptions[0] from failures
        return [task.result() for task in tasks]

    async def _reply(self, dialogue: Dialogue) -> Reply:
        """One answer; while the endpoint says it is too long, more and more of the oldest turns are left out."""
        most = turns_that_can_be_cut(dialogue.messages)
        turns_cut = 0
        while True:
            messages = without_oldest_turns(dialogue.messages, turns_cut)
            answer = await self._answer([{"role": m.role, "content": m.content} for m in messages], dialogue)
            if answer.finish_reason == TOO_LONG:
                if turns_cut == most:
                    return Reply("", 0, 0, turns_cut, context_full=True)
                turns_cut = min(most, max(1, 2 * turns_cut))
                continue
            if answer.finish_reason in NO_ANSWER and answer.finish_reason != FILTERED:
                raise UserError(
                    "endpoint_refused" if answer.finish_reason == REFUSED else "call_unanswered",
                    f"evaluation.endpoints.{self.name}.base_url {self._params.base_url}: a call is "
                    f"{answer.finish_reason} ({answer.error}), and others are answered; correct the section, or run "
                    "again later: replies so far are kept.",
                    key=f"evaluation.endpoints.{self.name}.base_url",
                    reason=answer.error,
                )
            # A filtered dialogue has no reply, which is a format error.
            usage = answer.usage
            cut = answer.finish_reason == TRUNCATED
            return Reply(answer.text, usage.prompt_tokens, usage.completion_tokens, turns_cut, cut=cut)

    async def _answer(self, messages: list[ChatMessage], dialogue: Dialogue) -> Answer:
        """The journal's answer where there is one, else the endpoint's."""
        sampling = self._sampling
        # 31 bits, which every server takes.
        draw = int(short_hash(str(self._seed), dialogue.key, str(len(dialogue.messages))), 16) % 2**31
        seed = draw if sampling.temperature else None
        key = Question(
            endpoint=self._params.base_url,
            model=self._params.model,
            messages=messages,
            temperature=sampling.temperature,
            kind="reply",
            structured_output="text",
            sample=seed or 0,
            extra_body={"top_p": sampling.top_p} | self._params.extra_body,
        ).key()
        request = Request(
            model=self._params.model,
            messages=messages,
            temperature=sampling.temperature,
            max_tokens=self._max_new_tokens,
            seed=seed,
            extra_body=self._params.extra_body,
            top_p=None if seed is None else sampling.top_p,
        )
        known = self._paid.find(key, request)
        if known is None:
            known = await self._paid.ask(key, request, partial(self._endpoint.ask, key, request))
        return known
