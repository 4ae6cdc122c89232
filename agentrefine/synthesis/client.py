"""The teacher: OpenAI-compatible endpoints for its roles, with every answer journaled and every call accounted for."""

import asyncio
import json
from contextlib import AsyncExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import NamedTuple, Self

from agentrefine.errors import UserError
from agentrefine.llm.batch import BatchTransport
from agentrefine.llm.completion import (
    NO_ANSWER,
    REFUSED,
    TOO_LONG,
    TRUNCATED,
    Answer,
    ChatMessage,
    Kind,
    Request,
    field_of_thoughts,
)
from agentrefine.llm.endpoint import MAX_OUTAGE_SECONDS, Endpoint, EndpointSettings, Transport
from agentrefine.llm.journal import CALL_NUMBERS, Journal, PaidCalls, Question
from agentrefine.llm.spending import SPENDING_NUMBERS, Spending, load_prices
from agentrefine.llm.thinking import without_thinking
from agentrefine.llm.throttle import STOPPED, SharedNumbers, Throttle, throttle_numbers
from agentrefine.params.teacher import Role, TeacherParams, TeacherRole
from agentrefine.synthesis.structured import JsonForm, form_number

DONE = "done"
"""The shared number of samples that are done."""

MAX_USELESS_IN_A_ROW = 20
"""Answers of a role without any text, or calls that are too long for its model, until the run ends: each is paid for,
and what they have in common is no matter of single samples."""


SIMULATED_MODULE = "agentrefine.simulation.__main__"
"""The module whose digest (`agentrefine.sources`) changes when the simulated teacher's rules do."""


class SimulatedAddress(NamedTuple):
    """Where the simulated teacher listens, with a port that changes, and its name in the journal (`simulated_name`)."""

    base_url: str
    name: str


def simulated_name(params: TeacherParams, version: str) -> str:
    """The simulated teacher's name in the journal: all that changes its answers, but not how they travel.

    `version` is the digest of `SIMULATED_MODULE`.
    """
    settings = params.offline.model_dump_json(include={"script_faults", "trajectory_faults", "mistakes"})
    return f"offline:{version}:{settings}"


def run_numbers(path: Path, params: TeacherParams) -> SharedNumbers:
    """The numbers that the processes of one run share, in a file that one of them has made room for."""
    names = [*SPENDING_NUMBERS, STOPPED, *CALL_NUMBERS, DONE]
    for endpoint in range(len(_addresses(params))):
        names += throttle_numbers(endpoint)
    names += [form_number(number) for number in range(len(params.roles))]
    return SharedNumbers(path, names)


@dataclass
class _RoleClient:
    """Who answers for a role, and how many of its last answers in a row held nothing (`useless`)."""

    settings: TeacherRole
    name_in_journal: str
    transport: Transport
    form: JsonForm
    calls: PaidCalls
    useless: int = 0


class JournaledTeacher:
    """Completes chats by OpenAI-compatible endpoints. Use it as an async context manager, within one event loop.

    An answer that is in the journal is taken from there; any other call goes out when the throttle and the budget allow
    it, and its answer is on disk before anyone sees it. Calls that are out when the work is given up are waited for:
    they are paid for.
    """

    def __init__(
        self, params: TeacherParams, journal: Journal, numbers: SharedNumbers, simulated: SimulatedAddress | None = None
    ) -> None:
        """Prepare the clients.

        Args:
            params: the teacher's section of params.yaml.
            journal: where answers are kept.
            numbers: what this process shares with the others of the run (`run_numbers`).
            simulated: where the simulated teacher listens, if it has a role.

        Raises:
            UserError: the environment variable of a key is not set, or the cost is limited and a price is not known.
        """
        self._journal = journal
        self._numbers = numbers
        spending = Spending(numbers, params.max_cost, MAX_OUTAGE_SECONDS + 2 * params.timeout_seconds)
        self._asking: set[asyncio.Task[Answer]] = set()
        throttles = {
            address: Throttle(
                numbers,
                number,
                max_in_flight=params.concurrency,
                processes=params.processes,
                requests_per_minute=params.requests_per_minute,
                tokens_per_minute=params.tokens_per_minute,
            )
            for number, address in enumerate(_addresses(params))
        }
        endpoints: dict[tuple[str, str, str], Endpoint] = {}
        self._transports: dict[Endpoint, Transport] = {}
        calls: dict[str, PaidCalls] = {}
        forms: dict[tuple[Endpoint, str, str], JsonForm] = {}
        prices = load_prices(params.prices)
        self._roles: dict[Role, _RoleClient] = {}
        for name, role in params.roles.items():
            base_url, known_as = simulated if role.is_simulated and simulated else (role.base_url, role.base_url)
            who = (known_as, role.model, role.api_key_env)
            if who not in endpoints:
                variable = None if role.is_simulated else role.api_key_env
                limits = (params.timeout_seconds, params.max_retries)
                settings = EndpointSettings("teacher", base_url, role.model, variable, *limits)
                endpoint = endpoints[who] = Endpoint(settings, throttles[role.base_url])
                batch = params.transport == "batch"
                self._transports[endpoint] = (
                    BatchTransport(endpoint, journal, " ".join(who), params.batch_calls) if batch else endpoint
                )
            endpoint = endpoints[who]
            price = prices.known(role.model, params.max_cost, "teacher")
            paid = calls.setdefault(role.model, PaidCalls(role.model, journal, numbers, spending, price))
            asked = (endpoint, role.structured_output, json.dumps(role.extra_body, sort_keys=True))
            new = JsonForm(endpoint, role, numbers, form_number(len(forms)), paid.count)
            form = forms.setdefault(asked, new)
            self._roles[name] = _RoleClient(role, known_as, self._transports[endpoint], form, paid)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
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

    async def complete(self, messages: list[ChatMessage], *, kind: Kind, role: Role, sample: int) -> Answer:
        """One answer to `messages`, from the journal when it is there. See `Teacher.complete`."""
        client = self._roles[role]
        settings = client.settings
        key = Question(
            endpoint=client.name_in_journal,
            model=settings.model,
            messages=messages,
            temperature=settings.temperature,
            kind=kind,
            structured_output=settings.structured_output,
            sample=sample,
            extra_body=settings.extra_body,
        ).key()
        request = Request(
            settings.model, messages, settings.temperature, settings.max_tokens, sample, None, settings.extra_body
        )
        kept = client.calls.find(key, request)
        if not kept:
            send = partial(self._send, client, key, request, kind)
            asking = asyncio.create_task(client.calls.ask(key, request, send))
            self._asking.add(asking)
            asking.add_done_callback(self._asking.discard)
            kept = await asyncio.shield(asking)
        return kept._replace(model=settings.model)

    async def _send(
        self, client: _RoleClient, key: str, request: Request, kind: Kind, in_flight: AsyncExitStack
    ) -> Answer:
        """Ask in the form of JSON that the endpoint honours. Raises UserError if many answers in a row hold nothing."""
        settings = client.settings
        request = request._replace(response_format=await client.form.response_format(kind))
        answer = await client.transport.ask(key, request, in_flight)
        if answer.finish_reason == REFUSED and request.response_format and settings.structured_output == "auto":
            # Some servers take the probe's schema and not every other one.
            answer = await client.transport.ask(key, request._replace(response_format=None), in_flight)
        reason = useless(answer, settings)
        client.useless = client.useless + 1 if reason else 0
        if client.useless >= MAX_USELESS_IN_A_ROW:
            message = f"teacher: the last {client.useless} calls of model {settings.model!r} {reason}"
            field = field_of_thoughts(answer.finish_reason)
            raise UserError("answers_useless", message, name=settings.model, calls=client.useless, field=field)
        return answer


def useless(answer: Answer, settings: TeacherRole) -> str | None:
    """Why an answer to a role's call holds nothing, and what to do; None when it holds a text."""
    if answer.finish_reason == TOO_LONG:
        return (
            f"do not fit into its context ({answer.error}); give the server a longer context, lower max_tokens of the "
            "roles in teacher, or take another model."
        )
    if answer.finish_reason in NO_ANSWER or without_thinking(answer.text).strip():
        return None
    field = field_of_thoughts(answer.finish_reason)
    if field:
        return (
            f"have no content: all of each answer stands in the field {field}, where a server puts thoughts; turn "
            "thinking off by extra_body of the roles (such as {chat_template_kwargs: {enable_thinking: false}}), or "
            "start the server with the reasoning parser of this model, or with none."
        )
    if answer.finish_reason == TRUNCATED:
        return (
            f"were cut at max_tokens ({settings.max_tokens}) before they had any text, as a model's thoughts count "
            "too; raise max_tokens of the roles in teacher, or turn thinking down by their extra_body."
        )
    return (
        f"are empty (finish reason {answer.finish_reason}); check the model and the settings of the roles in teacher."
    )


def _addresses(params: TeacherParams) -> list[str]:
    """The addresses of all roles, each once."""
    return list(dict.fromkeys(role.base_url for role in params.roles.values()))
