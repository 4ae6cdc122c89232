"""From a trajectory to a training sample: the chat of a game, in the published form (paper, section 3.2)."""

from collections.abc import Sequence
from typing import Literal

from agentrefine.game.conversation import Message, PublishedMessage, Sample, instructions, opening, reply_text
from agentrefine.game.script import Script
from agentrefine.game.trajectory import DMTurn, Trajectory, Turn, steps


def script_instructions(script: Script) -> str:
    """The instructions of a script's game."""
    return instructions({template: spec.description for template, spec in script.available_actions.items()})


def conversation(script: Script, turns: Sequence[Turn]) -> list[Message]:
    """The chat of a finished game. The last observation is left out: nobody answers it."""
    first = turns[0]
    if not isinstance(first, DMTurn):
        raise TypeError("a game begins with the DM")
    messages = opening(script_instructions(script), script.goal, first.observation)
    for step in steps(turns):
        text = reply_text(step.player.thought, step.player.action)
        messages.append(Message(role="assistant", content=text, loss=not step.answer.error))
        messages.append(Message(role="user", content=step.answer.observation))
    return messages[:-1]


def sample(trajectory: Trajectory) -> Sample:
    """A trajectory as a training sample."""
    sender: dict[str, Literal["human", "gpt"]] = {"user": "human", "assistant": "gpt"}
    return Sample(
        id=trajectory.id,
        persona_id=trajectory.persona_id,
        conversations=[
            PublishedMessage(from_=sender[m.role], value=m.content, loss=m.loss)
            for m in conversation(trajectory.script, trajectory.turns)
        ],
    )
