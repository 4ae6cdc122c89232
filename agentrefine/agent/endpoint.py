"""A policy behind any OpenAI-compatible endpoint: a hosted model, vLLM, `transformers serve`, llama.cpp, ..."""

import asyncio
import json
import os
from collections.abc import Sequence

from openai import APIConnectionError, APIError, APIStatusError, AsyncOpenAI, DefaultAioHttpClient
from openai.types.chat import ChatCompletionMessageParam
from pydantic import BaseModel, ValidationError

from agentrefine.agent.policy import Dialogue, Reply, turns_that_can_be_cut, without_oldest_turns
from agentrefine.conversation import Message
from agentrefine.errors import UserError
from agentrefine.files import first_problem
from agentrefine.teacher.completion import Usage


class _Message(BaseModel):
    content: str | None = None


class _Choice(BaseModel):
    message: _Message


class _Answer(BaseModel):
    """What is read of an answer; servers differ in the rest, and some leave out a choice, a content or the usage."""

    choices: list[_Choice]
    usage: Usage | None = None


_REFUSED_DIALOGUES = ("content_filter", "content_policy_violation")
"""Error codes that concern one dialogue: the model has no reply to it, which is a format error."""


class EndpointPolicy:
    """A remote model that acts, at temperature 0, over all waiting dialogues at once.

    Args:
        base_url: the endpoint, such as `http://127.0.0.1:8000/v1`.
        model: the model's name at the endpoint.
        name: the model's name in reports; as at the endpoint if not given.
        api_key_env: the environment variable that holds the key.
        max_new_tokens: most tokens of one reply.
        concurrency: calls in flight.
        timeout_seconds: of one call.
        max_retries: of one call, on 429, 5xx and broken connections, with the waiting time that the server asks for.

    Raises:
        UserError: the environment variable is not set.
    """

    def __init__(
        self,
        *,
        base_url: str,
        model: str,
        name: str | None = None,
        api_key_env: str,
        max_new_tokens: int,
        concurrency: int = 16,
        timeout_seconds: float = 120,
        max_retries: int = 6,
    ) -> None:
        key = os.environ.get(api_key_env)
        if not key:
            raise UserError(
                f"the environment variable {api_key_env} is not set: put the key of {base_url} into it "
                "(any text for a server that asks for none)."
            )
        self.name = name or model
        self._model = model
        self._base_url = base_url
        self._key = key
        self._max_new_tokens = max_new_tokens
        self._concurrency = concurrency
        self._timeout_seconds = timeout_seconds
        self._max_retries = max_retries

    def act(self, dialogues: Sequence[Dialogue]) -> list[Reply]:
        """One reply per dialogue, in their order.

        Raises:
            UserError: the endpoint refuses a call for good, or cannot be reached after the retries.
        """
        return asyncio.run(self._act(dialogues))

    def forget(self, keys: Sequence[str]) -> None:
        """Nothing is kept between calls."""

    async def _act(self, dialogues: Sequence[Dialogue]) -> list[Reply]:
        free = asyncio.Semaphore(self._concurrency)
        # A client belongs to one event loop, and each call of `act` has its own.
        async with AsyncOpenAI(
            base_url=self._base_url,
            api_key=self._key,
            timeout=self._timeout_seconds,
            max_retries=self._max_retries,
            http_client=DefaultAioHttpClient(),
        ) as client:

            async def answer(messages: list[Message]) -> Reply:
                async with free:
                    return await self._reply(client, messages)

            try:
                async with asyncio.TaskGroup() as group:
                    tasks = [group.create_task(answer(dialogue.messages)) for dialogue in dialogues]
            except ExceptionGroup as failures:
                # The first failure has cancelled the other calls and speaks for them.
                raise failures.exceptions[0] from failures
            return [task.result() for task in tasks]

    async def _reply(self, client: AsyncOpenAI, messages: list[Message]) -> Reply:
        """One answer; while the endpoint says it is too long, more and more of the oldest turns are left out."""
        most = turns_that_can_be_cut(messages)
        turns_cut = 0
        while True:
            try:
                answer = await self._complete(client, without_oldest_turns(messages, turns_cut))
            except APIStatusError as error:
                if error.code in _REFUSED_DIALOGUES:
                    return Reply(text="", prompt_tokens=0, completion_tokens=0, turns_cut=turns_cut)
                if error.code != "context_length_exceeded":
                    raise UserError(
                        f"{self._base_url}: refused model {self._model!r} with status {error.status_code} "
                        f"({error.message[:200]}); check the address, the model's name and the key."
                    ) from error
                if turns_cut == most:
                    return Reply(text="", prompt_tokens=0, completion_tokens=0, turns_cut=most, context_full=True)
                turns_cut = min(most, max(1, 2 * turns_cut))
                continue
            return Reply(
                # No text at all is an empty reply, which is a format error.
                text=(answer.choices[0].message.content if answer.choices else None) or "",
                prompt_tokens=answer.usage.prompt_tokens if answer.usage else 0,
                completion_tokens=answer.usage.completion_tokens if answer.usage else 0,
                turns_cut=turns_cut,
            )

    async def _complete(self, client: AsyncOpenAI, messages: list[Message]) -> _Answer:
        try:
            response = await client.chat.completions.with_raw_response.create(
                model=self._model,
                messages=[_chat_message(message) for message in messages],
                temperature=0,
                max_tokens=self._max_new_tokens,
            )
            # A cut emoji is half a character, which no file can hold: it becomes a question mark.
            body = json.dumps(json.loads(response.content), ensure_ascii=False).encode(errors="replace")
            return _Answer.model_validate_json(body)
        except APIConnectionError as error:
            raise UserError(
                f"{self._base_url}: cannot be reached ({error.message}); start the server or correct the address."
            ) from error
        except APIStatusError:
            raise
        except (APIError, ValueError) as error:
            reason = first_problem(error) if isinstance(error, ValidationError) else str(error)
            raise UserError(
                f"{self._base_url}: does not answer as an OpenAI-compatible server does ({reason[:200]}); "
                "correct the address."
            ) from error


def _chat_message(message: Message) -> ChatCompletionMessageParam:
    if message.role == "user":
        return {"role": "user", "content": message.content}
    return {"role": "assistant", "content": message.content}
