"""The teacher behind an OpenAI-compatible endpoint, with every answer journaled."""

import asyncio
import json
import logging
import os
from types import TracebackType
from typing import Literal, NamedTuple, Self
from urllib.parse import urlsplit

import openai
from openai import AsyncOpenAI, DefaultAioHttpClient
from openai.types.chat import ChatCompletion

from agentrefine.errors import UserError
from agentrefine.params import TeacherParams
from agentrefine.teacher.completion import ChatMessage, Completion, Usage
from agentrefine.teacher.journal import Journal, Question

logger = logging.getLogger(__name__)

_LOOPBACK = ("127.0.0.1", "localhost", "::1")
_LONGEST_BACKOFF_SECONDS = 8.0
_PROMPT_REFUSALS = ("content_filter", "content_policy_violation", "context_length_exceeded")
"""Error codes that concern one prompt and not the endpoint: the sample gets an empty answer, the run goes on."""


class _Answer(NamedTuple):
    text: str
    usage: Usage
    finish_reason: str


def offline_endpoint(params: TeacherParams, version: str) -> str:
    """The offline teacher's name in the journal: all that changes its answers, but not its port.

    Args:
        params: holds the shares of bad answers.
        version: changes when its rules do.
    """
    return f"offline:{version}:{params.offline.model_dump_json()}"


class OpenAITeacher:
    """Completes chats by an OpenAI-compatible endpoint. Use it as an async context manager, within one event loop.

    At most `concurrency` calls are in flight. 429, 5xx and broken connections are retried with growing waits, as the
    endpoint asks by Retry-After.

    Attributes:
        model: the model that answers.
        paid: calls that went to the endpoint.
        replayed: calls that the journal answered.
    """

    def __init__(self, params: TeacherParams, journal: Journal, *, base_url: str, endpoint: str | None = None) -> None:
        """Prepare the client.

        Args:
            params: model, key variable, concurrency, timeout, retries.
            journal: where answers are kept.
            base_url: where the endpoint listens, such as `https://api.openai.com/v1`.
            endpoint: its name in the journal, when that is not `base_url` (see `offline_endpoint`).

        Raises:
            UserError: the environment variable that holds the key is not set.
        """
        self.model = params.model
        self.paid = 0
        self.replayed = 0
        self._params = params
        self._journal = journal
        self._base_url = base_url
        self._endpoint = endpoint or base_url
        self._api_key = _api_key(params, base_url)
        self._slots = asyncio.Semaphore(params.concurrency)
        self._json_mode = True
        self._client = AsyncOpenAI(
            base_url=base_url,
            api_key=self._api_key,
            timeout=params.timeout_seconds,
            max_retries=params.max_retries,
            http_client=DefaultAioHttpClient(),
        )

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._client.close()
        await self._journal.flush()

    async def complete(
        self,
        messages: list[ChatMessage],
        *,
        temperature: float,
        max_tokens: int,
        response_format: Literal["json_object", "text"],
        sample: int,
    ) -> Completion:
        """One answer to `messages`, from the journal when it is there. See `Teacher.complete`."""
        key = Question(self._endpoint, self.model, messages, temperature, response_format, sample).key()
        async with self._slots:
            known = self._journal.find(key, max_tokens)
            if known:
                self.replayed += 1
                return known
            self.paid += 1
            answer = await self._ask(messages, temperature, max_tokens, response_format, sample)
            return await self._journal.keep(key, max_tokens, *answer)

    async def _ask(
        self, messages: list[ChatMessage], temperature: float, max_tokens: int, response_format: str, sample: int
    ) -> _Answer:
        """The endpoint's answer; asked again when it has no choice: some gateways answer 200 with an error inside."""
        for attempt in range(self._params.max_retries + 1):
            if attempt:
                await asyncio.sleep(min(0.5 * 2**attempt, _LONGEST_BACKOFF_SECONDS))
            try:
                answer = await self._ask_in_form(messages, temperature, max_tokens, response_format, sample)
            except openai.OpenAIError as error:
                if isinstance(error, openai.BadRequestError) and error.code in _PROMPT_REFUSALS:
                    return _Answer("", Usage(prompt_tokens=0, completion_tokens=0), error.code)
                raise self._refused(error) from error
            if isinstance(answer, ChatCompletion) and answer.choices and answer.choices[0].message is not None:
                choice = answer.choices[0]
                content = choice.message.content
                text = _storable(content) if isinstance(content, str) else ""
                return _Answer(text, _usage(answer), choice.finish_reason or "unknown")
        raise UserError(
            f"teacher.base_url {self._base_url}: answers without any choice; "
            "is this the address of an OpenAI-compatible chat completions API (it mostly ends in /v1)?"
        )

    async def _ask_in_form(
        self, messages: list[ChatMessage], temperature: float, max_tokens: int, response_format: str, sample: int
    ) -> ChatCompletion | None:
        """One answer, asked for in JSON mode if wanted and if the endpoint has one."""
        if response_format == "text" or not self._json_mode:
            return await self._create(messages, temperature, max_tokens, sample, json_mode=False)
        try:
            return await self._create(messages, temperature, max_tokens, sample, json_mode=True)
        except openai.BadRequestError as error:
            if error.code in _PROMPT_REFUSALS:
                raise
            refusal = error
        answer = await self._create(messages, temperature, max_tokens, sample, json_mode=False)
        if self._json_mode:
            self._json_mode = False
            logger.warning("%s refuses response_format json_object (%s); asking for text.", self._base_url, refusal)
        return answer

    async def _create(
        self, messages: list[ChatMessage], temperature: float, max_tokens: int, sample: int, json_mode: bool
    ) -> ChatCompletion | None:
        """One answer; None when its body is not JSON."""
        try:
            answer: ChatCompletion = await self._client.chat.completions.create(
                model=self.model,
                messages=messages,  # type: ignore[arg-type]
                temperature=temperature,
                max_tokens=max_tokens,
                seed=sample,
                response_format={"type": "json_object"} if json_mode else openai.omit,
            )
        except json.JSONDecodeError:
            return None
        return answer

    def _refused(self, error: openai.OpenAIError) -> UserError:
        """What an error means for the user, in one sentence and without the key."""
        where = f"teacher.base_url {self._base_url}"
        reason = " ".join(str(error).split()).replace(self._api_key, "***")[:300]
        if isinstance(error, openai.APIConnectionError) and _waited_in_vain(error):
            return UserError(
                f"{where}: no answer within {self._params.timeout_seconds:g} seconds, retries included; "
                "raise teacher.timeout_seconds or lower teacher.concurrency and run again."
            )
        if isinstance(error, openai.APIConnectionError):
            return UserError(f"{where}: cannot be reached; check the address and that the server runs, then run again.")
        if isinstance(error, openai.AuthenticationError | openai.PermissionDeniedError):
            return UserError(f"{where}: refuses the key in ${self._params.api_key_env}; set it to a valid key.")
        if isinstance(error, openai.NotFoundError):
            return UserError(
                f"{where}: knows no model {self.model!r} or no such path; correct teacher.model or the URL."
            )
        if isinstance(error, openai.RateLimitError):
            return UserError(
                f"{where}: still over its rate limit or quota after {self._params.max_retries} retries; "
                "lower teacher.concurrency, and run again later: answers so far are kept."
            )
        if isinstance(error, openai.InternalServerError):
            return UserError(
                f"{where}: still fails after {self._params.max_retries} retries ({reason}); "
                "run again later: answers so far are kept."
            )
        return UserError(f"{where}: refuses the call ({reason}); correct the teacher section of params.yaml.")


def _api_key(params: TeacherParams, base_url: str) -> str:
    if params.is_offline:
        return "offline"
    key = os.environ.get(params.api_key_env, "")
    if key:
        return key
    if urlsplit(base_url).hostname in _LOOPBACK:
        return "none"
    raise UserError(
        f"teacher.api_key_env: the environment variable {params.api_key_env} is not set; set it to the key of "
        f"{base_url} (any text, if the endpoint needs none)."
    )


def _waited_in_vain(error: BaseException) -> bool:
    """Whether a time limit ended the call; the HTTP client calls refused and broken connections time-outs too."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, TimeoutError):
            return True
        cause = cause.__cause__ or cause.__context__
    return False


def _usage(answer: ChatCompletion) -> Usage:
    if answer.usage is None:
        return Usage(prompt_tokens=0, completion_tokens=0)
    return Usage(prompt_tokens=answer.usage.prompt_tokens or 0, completion_tokens=answer.usage.completion_tokens or 0)


def _storable(text: str) -> str:
    """The text with lone halves of Unicode pairs, which no file can hold, replaced by question marks."""
    return text.encode("utf-8", "replace").decode("utf-8")
