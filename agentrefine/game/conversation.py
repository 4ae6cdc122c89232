"""Conversations: chats as messages and as published samples, how one opens, and the reply formats of an agent.

A reply is `Thought: ...` newline `Action: ...` (ReAct, Yao et al. 2023; paper, section 3.2), or the action alone.
"""

from collections.abc import Mapping
from string import Template
from typing import Literal, NamedTuple

from pydantic import BaseModel, ConfigDict, Field

from agentrefine.files import packaged_text

_THOUGHT = "Thought:"
_ACTION = "Action:"


class Message(BaseModel):
    """One message of a chat.

    Attributes:
        role: who speaks.
        content: the text.
        loss: whether an assistant message is trained on; False on a mistaken turn and on the acknowledgement, None
            where the question does not arise (user messages, play).
    """

    model_config = ConfigDict(frozen=True)

    role: Literal["user", "assistant"]
    content: str
    loss: bool | None = None


class PublishedMessage(BaseModel):
    """A message in the form of the published data sets: `{"from": "human", "value": "...", "loss": null}`."""

    model_config = ConfigDict(frozen=True, populate_by_name=True)

    from_: Literal["human", "gpt"] = Field(alias="from")
    value: str
    loss: bool | None


class Sample(BaseModel):
    """A training sample in the published format, with the ids of its trajectory and persona.

    The second message is the acknowledgement (loss False).

    Example: `{"id": "3c...", "persona_id": "p1", "conversations": [{"from": "human", "value": "You play ..."}, ...]}`
    """

    model_config = ConfigDict(frozen=True)

    id: str
    persona_id: str
    conversations: list[PublishedMessage]

    def messages(self) -> list[Message]:
        """The same conversation in roles."""
        role: dict[str, Literal["user", "assistant"]] = {"human": "user", "gpt": "assistant"}
        return [Message(role=role[m.from_], content=m.value, loss=m.loss) for m in self.conversations]


def instructions(actions: Mapping[str, str]) -> str:
    """The first message of every conversation: the game, the reply format, each action template and what it does."""
    return Template(prompt("instructions.md")).substitute(actions=listed_actions(actions)).rstrip("\n")


def listed_actions(actions: Mapping[str, str]) -> str:
    """Each action template with what it does, one a line."""
    return "\n".join(f"{template}: {description}" for template, description in actions.items())


def opening(game_instructions: str, goal: str, observation: str) -> list[Message]:
    """The messages before the agent's first turn: instructions, acknowledgement, goal with the first observation."""
    return [
        Message(role="user", content=game_instructions),
        Message(role="assistant", content=prompt("acknowledgement.md"), loss=False),
        Message(role="user", content=f"Goal: {goal}\n{observation}"),
    ]


def reply_text(thought: str, action: str) -> str:
    """An agent's turn in the form that it is trained to write."""
    return f"Thought: {thought}\nAction: {action}"


def prompt(name: str) -> str:
    """A prompt file's text."""
    return packaged_text("agentrefine.game", "prompts", name)


class ParsedReply(NamedTuple):
    """The two parts of a well-formed reply."""

    thought: str
    action: str


def parse_reply(text: str) -> ParsedReply | None:
    """The parts of a reply, or None for a format error.

    A reply is well-formed when it begins with `Thought:`, ends with the one line that begins with `Action:`, and
    neither part is empty. A thought may span several lines; white space around the parts does not matter.
    """
    lines = text.strip().split("\n")
    actions = [line for line in lines if line.lstrip().startswith(_ACTION)]
    if len(actions) != 1 or not lines[-1].lstrip().startswith(_ACTION) or not lines[0].startswith(_THOUGHT):
        return None
    thought = "\n".join(lines[:-1]).removeprefix(_THOUGHT).strip()
    action = lines[-1].lstrip().removeprefix(_ACTION).strip()
    return ParsedReply(thought, action) if thought and action else None


def parse_action(text: str) -> ParsedReply | None:
    """The action of a reply that is one line, `Action: ...`; None for a format error. The thought is empty."""
    line = text.strip()
    action = line.removeprefix(_ACTION).strip()
    return ParsedReply("", action) if line.startswith(_ACTION) and action and "\n" not in line else None
