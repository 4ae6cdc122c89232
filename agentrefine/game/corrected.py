"""Corrected games: a model's own play, in which an expert answers each of its mistakes (DAgger's idea).

The mistakes are on-policy: the model made them itself, at the places where it makes them (Ross et al. 2011, "A
Reduction of Imitation Learning and Structured Prediction to No-Regret Online Learning"; docs/on-policy.md).
"""

from collections.abc import Iterator
from typing import Literal

from pydantic import BaseModel, ConfigDict

from agentrefine.game.conversation import Message, PublishedMessage, Sample, opening
from agentrefine.params.on_policy import TrainOwn

Fault = Literal["parameter_error", "logic_error", "place_error", "format_error", "repetition", "no_progress"]
"""What is wrong with a model's turn. The first three are the engine's errors; a reply in the wrong form is a format
error; a `repetition` is the third time that an action of the model brings nothing; `no_progress` is a turn of a stretch
in which nothing new was seen and no condition of the goal was reached."""


class CorrectedTurn(BaseModel):
    """One turn of a corrected game, by the model or by the expert, and the answer to it.

    Example: `{"by": "model", "text": "Thought: ...\\nAction: take cup", "observation": "That does not work: ...",
    "fault": "place_error", "as_expert": false}`

    Attributes:
        text: the turn as the conversation holds it.
        observation: what the player saw next.
        fault: what was wrong with it; None where nothing was, and on every turn of the expert.
        as_expert: the action is the one that the expert would have taken; true on the expert's own turns.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    by: Literal["model", "expert"]
    text: str
    observation: str
    fault: Fault | None
    as_expert: bool


class CorrectedGame(BaseModel):
    """A line of data/on_policy/<name>/games.jsonl: one game of a model, corrected and won.

    Example: `{"id": "3c...", "world": "fetch.barn.17", "model": "refinement", "model_digest": "9f...", "goal": "...",
    "instructions": "...", "first_observation": "...", "turns": [{"by": "model", ...}, ...]}`

    Attributes:
        id: derived from the world, the model's digest and the turns.
        world: the id of the world that was played.
        model, model_digest: who played, and what identifies its weights.
        instructions: the first message of the conversation.
        turns: model and expert as they came; the last one reaches the goal.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    id: str
    world: str
    model: str
    model_digest: str
    goal: str
    instructions: str
    first_observation: str
    turns: list[CorrectedTurn]

    def corrections(self) -> Iterator[CorrectedTurn]:
        """The expert's turns directly after a fault."""
        for before, turn in zip(self.turns, self.turns[1:], strict=False):
            if before.fault and turn.by == "expert":
                yield turn


def corrected_conversation(game: CorrectedGame, train_own: TrainOwn) -> list[Message]:
    """The chat of a corrected game. The last observation is left out: nobody answers it.

    Faults are masked, the expert's turns are trained, and of the model's faultless turns those that `train_own` names.
    """
    messages = opening(game.instructions, game.goal, game.first_observation)
    for turn in game.turns:
        messages.append(Message(role="assistant", content=turn.text, loss=is_trained(turn, train_own)))
        messages.append(Message(role="user", content=turn.observation))
    return messages[:-1]


def is_trained(turn: CorrectedTurn, train_own: TrainOwn) -> bool:
    """Whether the loss is computed on a turn."""
    if turn.by == "expert":
        return True
    return turn.fault is None and (train_own == "all" or (train_own == "agreeing" and turn.as_expert))


def corrected_sample(game: CorrectedGame, train_own: TrainOwn) -> Sample:
    """A corrected game as a training sample; in the place of the persona stands the world."""
    return Sample(
        id=game.id,
        persona_id=game.world,
        conversations=[
            PublishedMessage(from_="human" if m.role == "user" else "gpt", value=m.content, loss=m.loss)
            for m in corrected_conversation(game, train_own)
        ],
    )
