"""Trajectories: a game as the teacher writes it, dungeon master (DM) and player in turn (paper, section 3.1)."""

from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Annotated, Literal, NamedTuple

from pydantic import BaseModel, ConfigDict, Field

from agentrefine.game.script import Script


class DMTurn(BaseModel):
    """What the dungeon master says, and how it judges the player's last action.

    Example: `{"turn": 3, "role": "DM", "thought": "...", "observation": "It is not here.", "parameter_error": false,
    "logic_error": false, "place_error": true, "task_completed": false}`

    Attributes:
        turn: position in the game, from 1.
        thought: what the player knows and what the last action leads to; never shown to the player.
        observation: what the player sees.
        parameter_error: the action is unknown or one of its values is not valid.
        logic_error: the action is well-formed but senseless now.
        place_error: the action concerns something that is elsewhere.
        task_completed: true on the last turn of a finished game only.
    """

    model_config = ConfigDict(strict=True, frozen=True, extra="forbid")

    turn: int = Field(ge=1)
    role: Literal["DM"]
    thought: str
    observation: str = Field(min_length=1)
    parameter_error: bool
    logic_error: bool
    place_error: bool
    task_completed: bool

    @property
    def error(self) -> bool:
        """Whether the player's last action was a mistake of any kind."""
        return self.parameter_error or self.logic_error or self.place_error


class PlayerTurn(BaseModel):
    """What the player thinks and does (ReAct).

    Example: `{"turn": 2, "role": "Player", "thought": "I need the lamp.", "action": "take lamp"}`
    """

    model_config = ConfigDict(strict=True, frozen=True, extra="forbid")

    turn: int = Field(ge=1)
    role: Literal["Player"]
    thought: str = Field(min_length=1)
    action: str = Field(min_length=1)


Turn = Annotated[DMTurn | PlayerTurn, Field(discriminator="role")]


class Step(NamedTuple):
    """A player turn with the DM turn that answers it."""

    player: PlayerTurn
    answer: DMTurn


def steps(turns: Sequence[Turn]) -> Iterator[Step]:
    """The player's turns with the DM's answers, in order; an unanswered last player turn is left out."""
    for player, answer in pairwise(turns):
        if isinstance(player, PlayerTurn) and isinstance(answer, DMTurn):
            yield Step(player, answer)


def error_refine_turns(turns: Sequence[Turn]) -> int:
    """How many player turns correct a mistake: an error-free step directly after an erroneous one."""
    return sum(before.answer.error and not after.answer.error for before, after in pairwise(steps(turns)))


class Trajectory(BaseModel):
    """A line of data/repair/trajectories.jsonl: a verified game with all that leads back to where it came from.

    Example: `{"id": "3c...", "persona_id": "p1", "persona": "A baker", "sample": 0, "script": {"environment": ...},
    "turns": [{"turn": 1, "role": "DM", ...}, ...], "calls": ["9f...", "a1..."], "teacher": "gpt-4o"}`

    Attributes:
        id: derived from the persona, sample number, script and turns.
        sample: which of the persona's samples, from 0.
        turns: DM and player in turn, beginning and ending with the DM.
        calls: ids of the teacher's answers (`Attempt.id`) that wrote it, in order.
    """

    model_config = ConfigDict(frozen=True)

    id: str
    persona_id: str
    persona: str
    sample: int
    script: Script
    turns: list[Turn]
    calls: list[str]
    teacher: str


class DroppedSample(BaseModel):
    """A line of data/repair/dropped.jsonl: a sample that did not pass within its calls.

    Example: `{"persona_id": "p1", "persona": "A baker", "sample": 2, "rule": "not_json", "message": "...", "calls": 4}`

    Attributes:
        rule, message: which rule its last answer broke, and what was wrong with it.
        calls: how many answers were asked for.
    """

    model_config = ConfigDict(frozen=True)

    persona_id: str
    persona: str
    sample: int
    rule: str
    message: str
    calls: int
