"""What a teacher is asked and what it answers: the contract between the stages and any endpoint."""

from typing import Literal, Protocol, TypedDict

from pydantic import BaseModel, ConfigDict


class ChatMessage(TypedDict):
    """One message in the OpenAI chat form."""

    role: Literal["system", "user", "assistant"]
    content: str


class Usage(BaseModel):
    """Tokens that the endpoint counted for one call."""

    model_config = ConfigDict(frozen=True)

    prompt_tokens: int
    completion_tokens: int


class Completion(BaseModel):
    """One answer of the teacher.

    Attributes:
        id: the answer's key in the journal.
        text: the answer, raw.
        usage: tokens as the endpoint reports them.
        finish_reason: `stop`, `length`, `content_filter`, ... as the endpoint reports it.
    """

    model_config = ConfigDict(frozen=True)

    id: str
    text: str
    usage: Usage
    finish_reason: str


class Teacher(Protocol):
    """Whoever completes a chat: a journaled OpenAI-compatible endpoint, or a double in a test."""

    model: str

    async def complete(
        self,
        messages: list[ChatMessage],
        *,
        temperature: float,
        max_tokens: int,
        response_format: Literal["json_object", "text"],
        sample: int,
    ) -> Completion:
        """One answer to `messages`.

        `sample` tells equal prompts apart: another number is another draw, the same number the same answer.

        Raises:
            UserError: the endpoint refuses the call for good (unknown model, bad key, unreachable after the retries).
        """
        ...
