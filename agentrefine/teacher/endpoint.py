"""One OpenAI-compatible endpoint over HTTP: tries, retries, waits, and what cannot be mended in one sentence."""

import asyncio
import logging
import os
import random
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any, Protocol
from urllib.parse import urlsplit

import openai
from openai import AsyncOpenAI, DefaultAioHttpClient, HttpxBinaryResponseContent

from agentrefine.errors import UserError
from agentrefine.params.teacher import TeacherParams, TeacherRole
from agentrefine.teacher.completion import REFUSED, UNANSWERED, Answer, ChatMessage, Request, Usage
from agentrefine.teacher.reply import read_reply
from agentrefine.teacher.throttle import StoppedError, Throttle

logger = logging.getLogger(__name__)

LONGEST_WAIT_SECONDS = 900.0
"""An endpoint that asks for a longer pause is out of its quota rather than busy."""

LONGEST_OUTAGE_SECONDS = 600.0
"""How long an endpoint that has answered is waited for when it is down."""

MOST_REFUSED_IN_A_ROW = 20
"""Calls that an endpoint refuses one after the other until that is no matter of single prompts any more."""

SECONDS_BETWEEN_GREETINGS = 5.0
_GREETING_TOKENS = 16
_LOOPBACK = ("127.0.0.1", "localhost", "::1")
_FIRST_BACKOFF_SECONDS = 0.5
_LONGEST_BACKOFF_SECONDS = 8.0
_Failure = openai.OpenAIError | TimeoutError
_NO_USAGE = Usage(prompt_tokens=0, completion_tokens=0)


class Transport(Protocol):
    """A way to an endpoint: call by call, or through its Batch API."""

    async def ask(self, key: str, request: Request) -> Answer:
        """The endpoint's answer.

        Args:
            key: names the call, also after a crash.
            request: the call.

        Raises:
            UserError: the endpoint refuses for good.
        """
        ...

    async def close(self) -> None:
        """Let go of what is held open."""
        ...


class Endpoint:
    """Sends calls one by one, as many at once as its throttle allows. Use it within one event loop.

    429, 5xx, time-outs, broken connections and bodies that are no completion are tried again with growing waits, or
    after the pause that the endpoint asks for. When a call still fails, a greeting tells whether the endpoint is up: if
    so, the call is tried a last time and comes back as `UNANSWERED`. An endpoint that has answered before is waited for
    (`LONGEST_OUTAGE_SECONDS`); one that stays down is an error. A call that is refused as it is comes back as `REFUSED`
    when the endpoint takes a greeting; when it takes none, or refuses many calls in a row, that is an error.

    Attributes:
        client: the HTTP client, also for the rest of the API.
        calls_out: the tasks whose call is at the endpoint now.
    """

    def __init__(self, role: TeacherRole, base_url: str, params: TeacherParams, throttle: Throttle) -> None:
        """Prepare the client.

        Args:
            role: model and key variable.
            base_url: where the endpoint listens; that of the role, or of the offline teacher that was started.
            params: time limit and retries.
            throttle: when a call may go out.

        Raises:
            UserError: the environment variable that holds the key is not set.
        """
        self._role = role
        self._base_url = base_url
        self._url = f"{base_url.rstrip('/')}/chat/completions"  # whole: the client need not join it for each call
        self._timeout = params.timeout_seconds
        self._max_retries = params.max_retries
        self._throttle = throttle
        self._answered = 0
        self._tokens_per_answer = 0.0
        self._refused_in_a_row = 0
        self._greeting = asyncio.Lock()
        self._limit_name = "max_tokens"
        self._closing = False
        self.calls_out: set[asyncio.Task[Any]] = set()
        self._api_key = api_key(role, base_url)
        self.client = AsyncOpenAI(
            base_url=base_url,
            api_key=self._api_key,
            timeout=params.timeout_seconds,
            max_retries=0,  # ours know the throttle
            http_client=DefaultAioHttpClient(),
        )

    def stop(self) -> None:
        """Let the calls that are at the endpoint come back, and no other go out."""
        self._closing = True

    async def close(self) -> None:
        """Close the connections."""
        await self.client.close()

    async def ask(self, key: str, request: Request) -> Answer:
        """The endpoint's answer. See `Transport.ask`."""
        answered = self._answered
        failures = 0
        last_try = False
        while True:
            limit_name = self._limit_name
            try:
                answer = await self._try(request)
            except (openai.OpenAIError, TimeoutError) as error:
                refused = isinstance(error, openai.BadRequestError)
                if refused and limit_name == "max_tokens" and "max_completion_tokens" in str(error):
                    self._limit_name = "max_completion_tokens"  # what OpenAI calls it for its reasoning models
                    continue
                if not _may_pass(error):
                    return await self._refused(request, error)
                # A busy endpoint that goes on answering others will come to this call too.
                failures += not (isinstance(error, openai.RateLimitError) and self._answered > answered)
                answered = self._answered
                problem: _Failure | None = error
            else:
                if answer is not None:
                    self._answered += 1
                    self._refused_in_a_row = 0
                    return answer
                failures, problem = failures + 1, None
            if last_try:
                return Answer("", _NO_USAGE, UNANSWERED)
            if failures > self._max_retries:
                if not await self._comes_back(request):
                    raise self.meaning(problem) from problem
                last_try = True
            else:
                await self._throttle.sleep(_backoff(failures))

    async def _refused(self, request: Request, error: _Failure) -> Answer:
        """No answer, where it is this call that the endpoint will not take; else the error is raised."""
        own = isinstance(error, openai.APIStatusError) and error.status_code in (400, 413, 422)
        self._refused_in_a_row += 1
        if not own or self._refused_in_a_row > MOST_REFUSED_IN_A_ROW or not await self._is_up(request):
            raise self.meaning(error) from error
        logger.warning("%s refuses a call: %s", self._base_url, self._told(error))
        return Answer("", _NO_USAGE, REFUSED)

    async def _comes_back(self, request: Request) -> bool:
        """Whether the endpoint is up, or, when it has answered before, comes back soon enough."""
        deadline = time.monotonic() + (LONGEST_OUTAGE_SECONDS if self._answered else 0.0)
        answered = self._answered
        async with self._greeting:  # one call waits for all
            while self._answered == answered and not await self._is_up(request):
                if time.monotonic() >= deadline:
                    return False
                await self._throttle.sleep(SECONDS_BETWEEN_GREETINGS)
        return True

    async def _is_up(self, request: Request) -> bool:
        """Whether the endpoint answers a greeting."""
        greeting: list[ChatMessage] = [{"role": "user", "content": "Hello!"}]
        small = request._replace(messages=greeting, response_format=None, max_tokens=_GREETING_TOKENS, seed=0)
        try:
            if await self._try(small) is None:
                return False
        except (openai.OpenAIError, TimeoutError):
            return False
        self._answered += 1
        return True

    async def _try(self, request: Request) -> Answer | None:
        """One try; None when what came back is no completion."""
        expected = request.prompt_tokens + (self._tokens_per_answer or request.max_tokens / 4)
        async with self._throttle.slot(expected) as sent:
            if self._closing:
                raise StoppedError("The calls of this shard were given up.")
            try:
                raw_answer = await self._send(request)
            except (TimeoutError, openai.APITimeoutError):
                self._throttle.overloaded(sent)
                raise
            except openai.APIStatusError as error:
                if error.status_code in (402, 429) or "retry-after" in error.response.headers:
                    self._throttle.overloaded(sent, self._pause_asked_for(error))
                raise
            answer = read_reply(raw_answer)
            if answer is not None:
                self._throttle.answered()
                self._throttle.used(answer.usage.prompt_tokens + answer.usage.completion_tokens - expected)
                weight = 0.05 if self._tokens_per_answer else 1.0
                self._tokens_per_answer += weight * (answer.usage.completion_tokens - self._tokens_per_answer)
            return answer

    async def _send(self, request: Request) -> bytes:
        task = asyncio.current_task()
        if task is None:
            raise RuntimeError("a call goes out from a task")
        self.calls_out.add(task)
        try:
            async with asyncio.timeout(self._timeout):  # the client's own limit is one for each read
                # Not chat.completions.create: it walks through its arguments for a sixth of a call's processor time.
                raw = await self.client.post(
                    self._url,
                    body=self.body(request),
                    options={"security": {"bearer_auth": True}},
                    cast_to=HttpxBinaryResponseContent,
                )
                return raw.content
        finally:
            self.calls_out.discard(task)

    def body(self, request: Request) -> dict[str, Any]:
        """The JSON body of a call, with the limit under the name that the endpoint gives it."""
        body = request.body()
        body[self._limit_name] = body.pop("max_tokens")
        return body

    def _pause_asked_for(self, error: openai.APIStatusError) -> float:
        seconds = _retry_after(error.response.headers)
        if seconds > LONGEST_WAIT_SECONDS or error.code == "insufficient_quota" or error.status_code == 402:
            raise UserError(
                f"{self._where}: its quota is spent ({self._told(error)}); add to it, or wait, and run again: "
                "answers so far are kept."
            ) from error
        return seconds

    @property
    def _where(self) -> str:
        return f"teacher.base_url {self._base_url}"

    def _told(self, error: _Failure) -> str:
        return " ".join(str(error).split()).replace(self._api_key, "***")[:300]

    def meaning(self, error: _Failure | None) -> UserError:
        """What an error means for the user, in one sentence and without the key; None: an answer that is none."""
        return UserError(f"{self._where}: {self._advice(error)}")

    async def sleep(self, seconds: float) -> None:
        """Wait; raise `StoppedError` as soon as the run is ending."""
        await self._throttle.sleep(seconds)

    def _advice(self, error: _Failure | None) -> str:
        if error is None:
            return (
                "answers without any choice; is this the address of an OpenAI-compatible chat completions API "
                "(it mostly ends in /v1)?"
            )
        if _waited_in_vain(error):
            return (
                f"no answer within {self._timeout:g} seconds, retries included; "
                "raise teacher.timeout_seconds or lower teacher.concurrency and run again."
            )
        if isinstance(error, openai.APIConnectionError):
            return "cannot be reached; check the address and that the server runs, then run again."
        if isinstance(error, openai.AuthenticationError | openai.PermissionDeniedError):
            return f"refuses the key in ${self._role.api_key_env}; set it to a valid key."
        if isinstance(error, openai.NotFoundError):
            return f"knows no model {self._role.model!r} or no such path; correct teacher.model or the URL."
        if isinstance(error, openai.RateLimitError):
            return (
                f"still over its rate limit or quota after {self._max_retries} retries; lower teacher.concurrency, "
                "and run again later: answers so far are kept."
            )
        if isinstance(error, openai.InternalServerError):
            return (
                f"still fails after {self._max_retries} retries ({self._told(error)}); "
                "run again later: answers so far are kept."
            )
        return f"refuses the call ({self._told(error)}); correct the teacher section of params.yaml."


def api_key(role: TeacherRole, base_url: str) -> str:
    """The key for an endpoint, from the environment.

    Raises:
        UserError: the variable is not set, and the endpoint is not on this machine.
    """
    if role.is_offline:
        return "offline"
    key = os.environ.get(role.api_key_env, "")
    if key:
        return key
    if urlsplit(base_url).hostname in _LOOPBACK:
        return "none"
    raise UserError(
        f"teacher.api_key_env: the environment variable {role.api_key_env} is not set; set it to the key of "
        f"{base_url} (any text, if the endpoint needs none)."
    )


def _may_pass(error: _Failure) -> bool:
    """Whether the same call may be answered a little later."""
    if isinstance(error, openai.APIStatusError):
        return error.status_code in (408, 409, 429) or error.status_code >= 500
    return isinstance(error, openai.APIConnectionError | TimeoutError)


def _retry_after(headers: Mapping[str, str]) -> float:
    """The pause that an answer asks for, in seconds; 0 when it names none."""
    value = headers.get("retry-after", "")
    try:
        if "retry-after-ms" in headers:
            return max(0.0, float(headers["retry-after-ms"]) / 1000)
        return max(0.0, float(value))
    except ValueError:
        pass
    try:
        date = parsedate_to_datetime(value)
    except (ValueError, OverflowError):  # neither seconds nor a date
        return 0.0
    # "-0000" stands for UTC without a zone (RFC 5322).
    return max(0.0, (date.replace(tzinfo=date.tzinfo or UTC) - datetime.now(UTC)).total_seconds())


def _backoff(failures: int) -> float:
    """Seconds, doubled with each failure and spread, so that calls that failed together do not return together."""
    longest = min(_FIRST_BACKOFF_SECONDS * 2.0**failures, _LONGEST_BACKOFF_SECONDS)
    return longest * random.uniform(0.5, 1.0)


def _waited_in_vain(error: _Failure | None) -> bool:
    """Whether a time limit ended the call; the HTTP client calls refused and broken connections time-outs too."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, TimeoutError):
            return True
        cause = cause.__cause__ or cause.__context__
    return False
