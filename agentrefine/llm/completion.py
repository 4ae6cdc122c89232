"""What an endpoint is asked and what it answers: the contract between the stages and any endpoint."""

from collections.abc import Mapping
from typing import Any, Literal, NamedTuple, Protocol, TypedDict

from pydantic import BaseModel, ConfigDict

from agentrefine.params.teacher import Role

Kind = Literal["script", "trajectory"]
"""What an answer must hold."""

CHARACTERS_PER_TOKEN = 4
"""Characters of a text for each token, for estimates before the endpoint has counted."""
SAMPLES_PER_CALL = 1_000_000
"""How far apart the draws (`sample`) of one sample's calls are."""


class ChatMessage(TypedDict):
    """One message in the OpenAI chat form."""

    role: Literal["system", "user", "assistant"]
    content: str


class Usage(BaseModel):
    """Tokens of one call.

    Example: `{"prompt_tokens": 900, "completion_tokens": 250, "cached_tokens": 512, ...}`

    Attributes:
        prompt_tokens, completion_tokens: as the endpoint counted them, thoughts included.
        cached_tokens: those of the prompt that the endpoint read from its cache, mostly at a lower price.
        batch: whether the call went through the Batch API, at its lower price.
        estimated: the endpoint did not count all of them, so some follow from the length of the texts.
    """

    model_config = ConfigDict(frozen=True)

    prompt_tokens: int
    completion_tokens: int
    cached_tokens: int = 0
    batch: bool = False
    estimated: bool = False


class Request(NamedTuple):
    """One call as an endpoint gets it.

    Attributes:
        model, messages, temperature, max_tokens, top_p: by OpenAI's names; None leaves one out.
        seed: another one is another draw for an equal prompt; None: no seed.
        response_format: the form demanded, as OpenAI's API writes it; None for plain text.
        extra_body: further keys of the body, before which ours yield; a key that is None is left out of the body.
    """

    model: str
    messages: list[ChatMessage]
    temperature: float
    max_tokens: int
    seed: int | None
    response_format: dict[str, Any] | None = None
    extra_body: Mapping[str, Any] = {}
    top_p: float | None = None

    def body(self) -> dict[str, Any]:
        """The JSON body of the chat completions API."""
        body = {name: value for name, value in self._asdict().items() if name != "extra_body"} | dict(self.extra_body)
        return {name: value for name, value in body.items() if value is not None}

    @property
    def prompt_tokens(self) -> int:
        """About how many tokens the prompt has."""
        return sum(len(message["content"]) for message in self.messages) // CHARACTERS_PER_TOKEN


class Answer(NamedTuple):
    """What came back for one call.

    Attributes:
        text: the answer, raw; empty when there was none.
        usage: tokens of the call.
        finish_reason: `stop`, `length` (cut at the limit), `content_filter`, ... by OpenAI's names; `only_in(field)`;
            or one of `NO_ANSWER`.
        error: why there is no answer, in the endpoint's words. Not kept in the journal.
        id: `journal.answer_id`; empty until the answer has passed the journal.
        model: who answered; the journal does not say it.
        seconds: from the request to the last byte; 0 where it was not measured, as through the Batch API.
    """

    text: str
    usage: Usage
    finish_reason: str
    error: str = ""
    id: str = ""
    model: str = ""
    seconds: float = 0.0


UNANSWERED = "unanswered"
"""The finish reason of a call that failed after all its retries though the endpoint answers others."""
REFUSED = "refused"
"""The finish reason of a call that the endpoint will not take though it takes others."""
FILTERED = "filtered"
"""The finish reason of a call whose prompt a content filter refused."""
TOO_LONG = "too long"
"""The finish reason of a call that does not fit into the model's context."""
NO_ANSWER = (UNANSWERED, REFUSED, FILTERED, TOO_LONG)
ASKED_AGAIN = (UNANSWERED, TOO_LONG)
"""Finish reasons of calls that the next run makes again, as are answers without content: the endpoint may be well, have
a longer context or other settings by then."""

TRUNCATED = "length"
"""The finish reason of an answer that was cut at `max_tokens`."""
_ONLY_IN = "only in "


def only_in(field: str) -> str:
    """The finish reason of an answer whose thoughts alone stand in a field, such as `only in reasoning_content`."""
    return _ONLY_IN + field


def field_of_thoughts(finish_reason: str) -> str | None:
    """The field that holds all of an answer, by its finish reason; None where the answer has a text."""
    return finish_reason.removeprefix(_ONLY_IN) if finish_reason.startswith(_ONLY_IN) else None


class Teacher(Protocol):
    """What completes a chat: journaled OpenAI-compatible endpoints, or a double in a test."""

    async def complete(self, messages: list[ChatMessage], *, kind: Kind, role: Role, sample: int) -> Answer:
        """One answer to a prompt.

        Args:
            messages: the prompt.
            kind: what the answer must hold.
            role: who is asked, and how the answer is sampled (`teacher` in params.yaml).
            sample: another number is another draw for an equal prompt, the same number the same answer.

        Raises:
            UserError: the endpoint refuses the call for good (unknown model, bad key, unreachable after the retries),
                or `teacher.max_cost` is spent.
        """
        ...
