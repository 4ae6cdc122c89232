"""The contract of a policy: dialogues in, replies out, batched."""

from collections.abc import Sequence
from typing import NamedTuple, Protocol

from agentrefine.conversation import Message


class Dialogue(NamedTuple):
    """What an agent has seen and said in one episode.

    Attributes:
        key: tells the episodes of a batch apart; a policy may keep state (a KV cache) under it between calls.
        messages: user and assistant in turn, ending with the user.
    """

    key: str
    messages: list[Message]


class Reply(NamedTuple):
    """One answer of a policy.

    Attributes:
        text: the answer, raw: what the policy wrote before the end of its turn.
        prompt_tokens, completion_tokens: as the policy counts them.
    """

    text: str
    prompt_tokens: int
    completion_tokens: int


class Policy(Protocol):
    """A model that acts.

    Attributes:
        name: the model's name in reports.
    """

    name: str

    def act(self, dialogues: Sequence[Dialogue]) -> list[Reply]:
        """One reply per dialogue, in their order."""
        ...

    def forget(self, keys: Sequence[str]) -> None:
        """These episodes are over: free what is kept for them."""
        ...
