"""The teacher: OpenAI-compatible endpoints for its roles, with every answer journaled and every call accounted for."""

import asyncio
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import NamedTuple, Self

from agentrefine.errors import UserError
from agentrefine.params.teacher import Role, TeacherParams, TeacherRole
from agentrefine.teacher.batch import BatchTransport
from agentrefine.teacher.completion import REFUSED, UNANSWERED, ChatMessage, Completion, Kind, Request, Usage
from agentrefine.teacher.endpoint import LONGEST_OUTAGE_SECONDS, Endpoint, Transport
from agentrefine.teacher.journal import Journal, KeptAnswer, Question, answer_id
from agentrefine.teacher.prices import Price, Prices, load_prices
from agentrefine.teacher.prompts import prompt_version
from agentrefine.teacher.shared_numbers import SharedNumbers
from agentrefine.teacher.spending import SPENDING_NUMBERS, Spending
from agentrefine.teacher.structured import JsonForm, form_number
from agentrefine.teacher.throttle import STOPPED, Throttle, check_stopped, throttle_numbers

PAID, REPLAYED, DONE = "paid", "replayed", "done"
"""Shared numbers: calls that went to an endpoint, calls that the journal answered, samples done."""

_WORST_BYTES_PER_TOKEN = 2
"""Of a prompt, for the most that it is taken to cost; texts have three to five."""


class OfflineAddress(NamedTuple):
    """Where the offline teacher listens, and its name in the journal.

    Attributes:
        base_url: with a port that changes from run to run.
        name: all that changes its answers.
    """

    base_url: str
    name: str


def offline_name(params: TeacherParams, version: str) -> str:
    """The offline teacher's name in the journal: all that changes its answers, but not how they travel.

    Args:
        params: holds the shares of bad answers.
        version: changes when its rules do.
    """
    settings = params.offline.model_dump_json(include={"script_faults", "trajectory_faults", "mistakes"})
    return f"offline:{version}:{settings}"


def run_numbers(path: Path, params: TeacherParams) -> SharedNumbers:
    """The numbers that the processes of one run share, in a file that one of them has made room for."""
    names = [*SPENDING_NUMBERS, STOPPED, PAID, REPLAYED, DONE]
    for endpoint in range(len(_endpoints(params))):
        names += throttle_numbers(endpoint)
    names += [form_number(number) for number in range(len(params.roles))]
    return SharedNumbers(path, names)


class _Voice(NamedTuple):
    """Who answers for a role."""

    role: TeacherRole
    name: str
    transport: Transport
    form: JsonForm
    price: Price | None


class JournaledTeacher:
    """Completes chats by OpenAI-compatible endpoints. Use it as an async context manager, within one event loop.

    An answer that is in the journal is taken from there; any other call goes out when the throttle and the budget allow
    it, and its answer is on disk before anyone sees it. Calls that are out when the work is given up are waited for:
    they are paid for.
    """

    def __init__(
        self, params: TeacherParams, journal: Journal, numbers: SharedNumbers, offline: OfflineAddress | None = None
    ) -> None:
        """Prepare the clients.

        Args:
            params: the teacher's section of params.yaml.
            journal: where answers are kept.
            numbers: what this process shares with the others of the run (`run_numbers`).
            offline: where the offline teacher listens, if it has a role.

        Raises:
            UserError: the environment variable of a key is not set, or the cost is limited and a price is not known.
        """
        self._journal = journal
        self._numbers = numbers
        self._spending = Spending(numbers, params.max_cost, LONGEST_OUTAGE_SECONDS + 2 * params.timeout_seconds)
        self._asking: set[asyncio.Task[KeptAnswer]] = set()
        addresses = _endpoints(params)
        throttles = [_throttle(numbers, number, params) for number in range(len(addresses))]
        endpoints: dict[tuple[str, str, str], Endpoint] = {}
        self._transports: dict[Endpoint, Transport] = {}
        forms: dict[tuple[Endpoint, str], JsonForm] = {}
        prices = load_prices(params.prices)
        self._voices: dict[Role, _Voice] = {}
        for name, role in params.roles.items():
            base_url, known_as = offline if role.is_offline and offline else (role.base_url, role.base_url)
            who = (known_as, role.model, role.api_key_env)
            if who not in endpoints:
                throttle = throttles[addresses.index(role.base_url)]
                endpoint = endpoints[who] = Endpoint(role, base_url, params, throttle)
                by_batch = params.transport == "batch"
                transport = (
                    BatchTransport(endpoint, journal, " ".join(who), params.batch_calls) if by_batch else endpoint
                )
                self._transports[endpoint] = transport
            endpoint = endpoints[who]
            price = _price(prices, role.model, params.max_cost)
            if (endpoint, role.structured_output) not in forms:
                paid = partial(self._count, price)
                forms[endpoint, role.structured_output] = JsonForm(endpoint, role, numbers, len(forms), paid)
            form = forms[endpoint, role.structured_output]
            self._voices[name] = _Voice(role, known_as, self._transports[endpoint], form, price)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._asking:
            for endpoint in self._transports:
                endpoint.stop()
            out = {task for endpoint in self._transports for task in endpoint.calls_out}
            for task in self._asking - out:
                task.cancel()
            await asyncio.wait(self._asking)
        for transport in self._transports.values():
            await transport.close()
        await self._journal.flush()

    async def complete(self, messages: list[ChatMessage], *, kind: Kind, role: Role, sample: int) -> Completion:
        """One answer to `messages`, from the journal when it is there. See `Teacher.complete`."""
        voice = self._voices[role]
        settings = voice.role
        key = Question(
            endpoint=voice.name,
            model=settings.model,
            messages=messages,
            temperature=settings.temperature,
            kind=kind,
            structured_output=settings.structured_output,
            prompt_version=prompt_version(kind),
            sample=sample,
            extra_body=settings.extra_body,
        ).key()
        kept = self._journal.find(key, settings.max_tokens)
        if kept:
            self._numbers.add(REPLAYED, 1)
            self._count(voice.price, kept.answer.usage)
        else:
            asking = asyncio.create_task(self._ask(voice, key, messages, kind, sample))
            self._asking.add(asking)
            asking.add_done_callback(self._asking.discard)
            kept = await asyncio.shield(asking)
        answer = kept.answer
        return Completion(
            id=kept.id,
            model=settings.model,
            text=answer.text,
            usage=answer.usage,
            finish_reason=answer.finish_reason,
        )

    async def _ask(self, voice: _Voice, key: str, messages: list[ChatMessage], kind: Kind, sample: int) -> KeptAnswer:
        """Pay for an answer and keep it; one that did not come is not kept, so that the next run asks again."""
        check_stopped(self._numbers)
        role = voice.role
        request = Request(role.model, messages, role.temperature, role.max_tokens, sample, None, role.extra_body)
        reserved = voice.price.cost(_worst(request)) if voice.price else 0.0
        await self._spending.reserve(reserved)
        cost = 0.0
        try:
            request = request._replace(response_format=await voice.form.response_format(kind))
            answer = await voice.transport.ask(key, request)
            if answer.finish_reason == REFUSED and request.response_format and role.structured_output == "auto":
                # Some servers take the probe's schema and not every other one.
                answer = await voice.transport.ask(key, request._replace(response_format=None))
            cost = voice.price.cost(answer.usage) if voice.price else 0.0
            if answer.finish_reason == UNANSWERED:
                return KeptAnswer(answer_id(key, role.max_tokens), answer)
            kept = await self._journal.keep(key, role.max_tokens, answer)
            self._numbers.add(PAID, 1)
            return kept
        finally:
            self._spending.settle(reserved, cost)

    def _count(self, price: Price | None, usage: Usage) -> None:
        """Count what was paid without a reservation: now for a probe, or earlier for an answer of the journal."""
        self._spending.settle(0.0, price.cost(usage) if price else 0.0)


def _throttle(numbers: SharedNumbers, endpoint: int, params: TeacherParams) -> Throttle:
    return Throttle(
        numbers,
        endpoint,
        most_in_flight=params.concurrency,
        processes=params.processes,
        requests_per_minute=params.requests_per_minute,
        tokens_per_minute=params.tokens_per_minute,
    )


def _price(prices: Prices, model: str, max_cost: float | None) -> Price | None:
    price = prices.models.get(model)
    if max_cost is not None and price is None:
        raise UserError(
            f"teacher.max_cost: the price of model {model!r} is not known; give it in a file that teacher.prices names "
            "(see agentrefine/teacher/prices.yaml), or set teacher.max_cost to null."
        )
    return price


def _endpoints(params: TeacherParams) -> list[str]:
    """The addresses of all roles, each once."""
    return list(dict.fromkeys(role.base_url for role in params.roles.values()))


def _worst(request: Request) -> Usage:
    """More tokens than a call takes, unless its prompt is of characters that tokenizers hardly know."""
    size = sum(len(message["content"].encode()) for message in request.messages)
    return Usage(prompt_tokens=size // _WORST_BYTES_PER_TOKEN, completion_tokens=request.max_tokens)
