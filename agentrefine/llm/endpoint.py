"""One OpenAI-compatible endpoint over HTTP: tries, retries, waits, and what cannot be fixed in one sentence."""

import asyncio
import logging
import os
import random
import time
from contextlib import AsyncExitStack
from typing import Any, NamedTuple, Protocol

import openai
from openai import HttpxBinaryResponseContent

from agentrefine.errors import UserError
from agentrefine.llm.completion import FILTERED, REFUSED, TOO_LONG, UNANSWERED, Answer, ChatMessage, Request
from agentrefine.llm.quirks import LIMIT, OPTIONAL, OTHER_LIMIT, OUT_OF_RANGE, make_client, refused_parameter
from agentrefine.llm.reply import NO_USAGE, CallError, read_failure, read_reply
from agentrefine.llm.throttle import StoppedError, Throttle
from agentrefine.proxies import is_loopback

logger = logging.getLogger(__name__)

MAX_WAIT_SECONDS = 900.0
"""Seconds; an endpoint that asks for a longer pause is out of its quota rather than busy."""
MAX_OUTAGE_SECONDS = 600.0
"""Seconds for which an endpoint that has answered is waited for when it is down."""
PROBE = "probe"
"""The key of a call that finds out what the endpoint honours; who asks it reports a refusal."""
MAX_REFUSED_IN_A_ROW = 20
"""Calls that an endpoint refuses one after the other until that is no matter of single prompts any more."""
SECONDS_BETWEEN_CHECKS = 5.0
"""Seconds between two health checks of an endpoint that is down."""
LONG_PAUSE_SECONDS = 30.0
"""Seconds of a pause from which on a warning states why nothing happens."""
MAX_QUOTED = 300
"""Characters of a server's words that are repeated to the user."""
_CHECK_TOKENS = 16
_FIRST_BACKOFF_SECONDS = 0.5
_MAX_BACKOFF_SECONDS = 8.0


_SENTENCES = {
    "answer_too_late": "no answer within {seconds:g} seconds, retries included; "
    "raise {section}.timeout_seconds or lower {section}.concurrency and run again.",
    "not_chat_api": "answers without any choice; "
    "is this the address of an OpenAI-compatible chat completions API (it mostly ends in /v1)?",
    "endpoint_unreachable": "cannot be reached; check the address and that the server runs, then run again.",
    "key_refused": "refuses the key in ${variable} ({quoted}); set it to a valid key that may use this model.",
    "unknown_model_or_path": "knows no model {name!r} or no such path ({quoted}); correct {section}.model or the URL.",
    "rate_limited": "still over its rate limit or quota after {retries} retries ({quoted}); "
    "lower {section}.concurrency, and run again later: answers so far are kept.",
    "quota_spent": "its quota is spent ({quoted}); add to it, or wait, and run again: answers so far are kept.",
    "endpoint_failing": "still fails after {retries} retries ({quoted}); run again later: answers so far are kept.",
    "endpoint_refused": "refuses the call ({quoted}); correct the section {section} of params.yaml.",
}
"""What a user reads of a failure, by its code."""


class EndpointSettings(NamedTuple):
    """How one model is reached.

    Attributes:
        section: of params.yaml, which errors name: `teacher`, or `evaluation.endpoints.<name>`.
        base_url: where the endpoint listens, such as `http://127.0.0.1:8000/v1`.
        model: by the endpoint's name.
        api_key_env: the environment variable that holds the key; None where none is needed.
        timeout_seconds: of one try, from the request to the last byte.
        max_retries: of one call.
    """

    section: str
    base_url: str
    model: str
    api_key_env: str | None
    timeout_seconds: float
    max_retries: int


class Transport(Protocol):
    """A path to an endpoint: call by call, or through its Batch API."""

    async def ask(self, key: str, request: Request, held: AsyncExitStack | None = None) -> Answer:
        """The endpoint's answer.

        Args:
            key: names the call, also after a crash.
            request: the call.
            held: where an answered call's slot stays in flight, such as until the answer is on disk; None: the slot is
                given back at once.

        Raises:
            UserError: the endpoint refuses for good.
        """

    async def close(self) -> None:
        """Close what is held open."""


class Parameters:
    """What a model takes of the parameters that this program sends.

    A limit that has another name gets it; a temperature, seed or `top_p` that the model refuses is left out, and so its
    own holds. What the user has set by `extra_body` is never changed.
    """

    def __init__(self, model: str) -> None:
        self._model = model
        self._limit = LIMIT
        self._left_out: set[str] = set()

    def body(self, request: Request) -> dict[str, Any]:
        """The JSON body of a call as the model takes it."""
        body = request.body()
        body[self._limit] = body.pop(LIMIT)
        for name in self._left_out - request.extra_body.keys():
            body.pop(name, None)
        return body

    def learn(self, error: CallError, sent: dict[str, Any], request: Request) -> bool:
        """Whether a refusal of the body `sent` is for a parameter, so that the call may be sent again without it."""
        if error.status not in (400, 422) or error.is_too_long:
            return False
        if LIMIT in sent and OTHER_LIMIT in error.message:
            if self._limit == LIMIT:
                self._warn(f"{OTHER_LIMIT} takes the place of {LIMIT}", error)
            self._limit = OTHER_LIMIT
            return True
        names = [name for name in OPTIONAL if name in sent and name not in request.extra_body]
        name = error.parameter if error.parameter in names else refused_parameter(error.message, names)
        if name is None:
            return False
        if name == "temperature" and sent[name] > 0 and OUT_OF_RANGE.search(error.message):
            return False  # another value is taken, and the user has to say which
        if name not in self._left_out:
            self._warn(f"{name} is left out of its calls, so the model's own holds", error)
        self._left_out.add(name)
        return True

    def _warn(self, consequence: str, error: CallError) -> None:
        logger.warning("%s: %s (%s)", self._model, consequence, error.message[:200])


class Endpoint:
    """Sends calls one by one, as many at once as its throttle allows. Use it within one event loop.

    429, 5xx, time-outs, broken connections and bodies that are no completion are tried again with growing waits, or
    after the pause that the endpoint asks for. When a call still fails, a health check shows whether the endpoint is
    up: if so, the call is tried a last time and comes back as `UNANSWERED`. An endpoint that has answered before is
    waited for (`MAX_OUTAGE_SECONDS`); one that stays down is an error.

    A call that does not fit into the model's context comes back as `TOO_LONG`, one whose prompt is filtered as
    `FILTERED`, and one that is refused otherwise as `REFUSED`, when the endpoint takes others. When it takes none, or
    refuses many calls in a row, that is an error.

    Attributes:
        client: the HTTP client, also for the rest of the API.
        parameters: which parameters the model takes.
        throttle: when its calls may go out.
        calls_out: the tasks whose call is at the endpoint now.
    """

    def __init__(self, settings: EndpointSettings, throttle: Throttle) -> None:
        """Prepare the client.

        Raises:
            UserError: the environment variable that holds the key is not set, or the endpoint is behind a SOCKS proxy
                and the package for it is missing.
        """
        self._settings = settings
        self._url = f"{settings.base_url.rstrip('/')}/chat/completions"  # whole: not to be joined for each call
        self.throttle = throttle
        self.parameters = Parameters(settings.model)
        self._answered = 0
        self._tokens_per_answer = 0.0
        self._refused_in_a_row = 0
        self._checking = asyncio.Lock()
        self._pause_ends = 0.0
        self._closing = False
        self.calls_out: set[asyncio.Task[Any]] = set()
        self._api_key = _api_key(settings)
        self.client = make_client(settings.base_url, self._api_key, settings.timeout_seconds, settings.section)

    def stop(self) -> None:
        """Let the calls that are at the endpoint come back, and no other go out."""
        self._closing = True

    async def close(self) -> None:
        """Close the connections."""
        await self.client.close()

    async def ask(self, key: str, request: Request, held: AsyncExitStack | None = None) -> Answer:
        """The endpoint's answer. See `Transport.ask`."""
        answered = self._answered
        failures = 0
        last_try = False
        while True:
            try:
                answer = await self._try(request, held)
            except CallError as error:
                if error.is_too_long:
                    return Answer("", NO_USAGE, TOO_LONG, self._quoted(error))
                if not error.is_transient:
                    return await self._refused(key, request, error)
                # A busy endpoint that still answers others will come to this call too.
                failures += not (error.status == 429 and self._answered > answered)
                answered = self._answered
                problem = error
            else:
                self._answered += 1
                self._refused_in_a_row = 0
                return answer
            if last_try:
                return Answer("", NO_USAGE, UNANSWERED, self._quoted(problem))
            if failures > self._settings.max_retries:
                if not await self._is_up_again(request):
                    raise self.to_user_error(problem) from problem
                last_try = True
            else:
                await self.throttle.numbers.sleep(_backoff(failures))

    async def _check(self, request: Request) -> CallError | None:
        """A health check: a short call with the settings of another. Why it is not answered, None when it is.

        Any refusal shows that the endpoint is up, as some take no limit as small as this call's.
        """
        short: list[ChatMessage] = [{"role": "user", "content": "Hello!"}]
        small = request._replace(messages=short, response_format=None, max_tokens=_CHECK_TOKENS)
        try:
            await self._try(small if request.seed is None else small._replace(seed=0))
        except CallError as error:
            return error
        self._answered += 1
        return None

    async def _refused(self, key: str, request: Request, error: CallError) -> Answer:
        """No answer, where it is this call that the endpoint will not take; else the error is raised."""
        self._refused_in_a_row += 1
        own = error.status in (400, 413, 422, 451) or error.is_filtered  # 401 and the like concern all calls
        if not own or self._refused_in_a_row > MAX_REFUSED_IN_A_ROW:
            raise self.to_user_error(error) from error
        if not error.is_filtered:
            check = await self._check(request)
            for failures in range(self._settings.max_retries):
                if check is None or not check.is_transient:
                    break
                await self.throttle.numbers.sleep(_backoff(failures))
                check = await self._check(request)
            if check is not None and (check.is_transient or (not self._answered and check.message == error.message)):
                raise self.to_user_error(error) from error
        if key != PROBE:
            logger.warning("%s refuses a call: %s", self._settings.base_url, self._quoted(error))
        return Answer("", NO_USAGE, FILTERED if error.is_filtered else REFUSED, self._quoted(error))

    async def _is_up_again(self, request: Request) -> bool:
        """Whether the endpoint is up, or, when it has answered before, comes back soon enough."""
        deadline = time.monotonic() + (MAX_OUTAGE_SECONDS if self._answered else 0.0)
        answered = self._answered
        async with self._checking:  # one call waits for all
            while self._answered == answered:
                check = await self._check(request)
                if check is None or not check.is_transient:
                    return True
                if time.monotonic() >= deadline:
                    return False
                await self.throttle.numbers.sleep(SECONDS_BETWEEN_CHECKS)
        return True

    async def _try(self, request: Request, held: AsyncExitStack | None = None) -> Answer:
        """One try, repeated for each parameter that is none of the model's. Raises CallError if there is no answer."""
        while True:
            expected = request.prompt_tokens + (self._tokens_per_answer or request.max_tokens / 4)
            async with AsyncExitStack() as slot:
                sent = await slot.enter_async_context(self.throttle.slot(expected))
                if self._closing:
                    raise StoppedError("stopped", "The calls of this shard were given up.")
                body = self.parameters.body(request)
                try:
                    answer = read_reply(await self._send(body))._replace(seconds=time.monotonic() - sent)
                except CallError as error:
                    if self.parameters.learn(error, body, request):
                        continue
                    self._slow_down(error, sent)
                    raise
                self.throttle.answered()
                self.throttle.used(answer.usage.prompt_tokens + answer.usage.completion_tokens - expected)
                weight = 0.05 if self._tokens_per_answer else 1.0
                self._tokens_per_answer += weight * (answer.usage.completion_tokens - self._tokens_per_answer)
                if held:
                    held.push_async_exit(slot.pop_all())
                return answer

    async def _send(self, body: dict[str, Any]) -> bytes:
        """The bytes that come back. Raises CallError if the status is an error, or there is no answer at all."""
        task = asyncio.current_task()
        assert task is not None
        self.calls_out.add(task)
        try:
            async with asyncio.timeout(self._settings.timeout_seconds):  # the client's own limit is one for each read
                # Not chat.completions.create: it walks through its arguments for a sixth of a call's processor time.
                raw = await self.client.post(
                    self._url,
                    body=body,
                    options={"security": {"bearer_auth": True}},
                    cast_to=HttpxBinaryResponseContent,
                )
                return raw.content
        except (openai.OpenAIError, TimeoutError) as error:
            raise read_failure(error) from error
        finally:
            self.calls_out.discard(task)

    def _slow_down(self, error: CallError, sent: float) -> None:
        """Fewer calls after a sign of overload, and none in a pause that the endpoint asks for."""
        if error.timed_out:
            self.throttle.overloaded(sent)
        elif error.status == 429 or error.is_spent_quota or error.pause is not None:
            pause = error.pause or 0.0
            if pause > MAX_WAIT_SECONDS or error.is_spent_quota:
                raise self._user_error("quota_spent", error) from error
            if error.is_too_long:
                return
            ends = time.monotonic() + pause
            if pause >= LONG_PAUSE_SECONDS and ends > self._pause_ends + LONG_PAUSE_SECONDS:
                self._pause_ends = ends
                where = f"{self._settings.section}.base_url {self._settings.base_url}"
                logger.warning("%s asks for a pause of %.0f seconds; calls go out again after it", where, pause)
            self.throttle.overloaded(sent, pause)

    def _quoted(self, error: CallError) -> str:
        status = f"{error.status}: " if error.status is not None and error.message else str(error.status or "")
        return f"{status}{error.message}".replace(self._api_key, "***")[:MAX_QUOTED]

    def to_user_error(self, error: CallError | openai.OpenAIError) -> UserError:
        """An error as one sentence with what to do, without the key."""
        failure = error if isinstance(error, CallError) else read_failure(error)
        return self._user_error(_code(failure), failure)

    def _user_error(self, code: str, error: CallError) -> UserError:
        section, base_url, name, variable, seconds, retries = self._settings
        values = {"name": name, "variable": variable, "seconds": seconds, "retries": retries, "status": error.status}
        values |= {"quoted": self._quoted(error)}
        sentence = _SENTENCES[code].format(section=section, **values)
        return UserError(code, f"{section}.base_url {base_url}: {sentence}", key=f"{section}.base_url", **values)


def _code(error: CallError) -> str:
    if error.timed_out:
        return "answer_too_late"
    if error.status is None:
        return "endpoint_unreachable" if error.message else "not_chat_api"
    if error.status in (401, 403):
        return "key_refused"
    if error.status in (404, 405):
        return "unknown_model_or_path"
    if error.status == 429:
        return "rate_limited"
    return "endpoint_failing" if error.is_transient else "endpoint_refused"


def _api_key(settings: EndpointSettings) -> str:
    """The key from the environment; a placeholder on this machine. Raises UserError if the variable is not set."""
    name = settings.api_key_env
    key = os.environ.get(name) if name else None
    if name and not key and not is_loopback(settings.base_url):
        message = (
            f"{settings.section}.api_key_env: the environment variable {name} is not set; set it to the key of "
            f"{settings.base_url} (any text, if the endpoint needs none)."
        )
        raise UserError("key_missing", message, key=f"{settings.section}.api_key_env", variable=name)
    return key or "none"


def _backoff(failures: int) -> float:
    """Seconds, doubled with each failure and spread, so that calls that failed together do not return together."""
    return min(_FIRST_BACKOFF_SECONDS * 2.0**failures, _MAX_BACKOFF_SECONDS) * random.uniform(0.5, 1.0)
