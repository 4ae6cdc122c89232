"""Trajectories: a game as the teacher writes it, dungeon master (DM) and player in turn (paper, section 3.1)."""

from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Annotated, Any, Literal, NamedTuple

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from agentrefine.files import first_problem
from agentrefine.llm_json import check_values, load_list
from agentrefine.rules import Problem, Rule, RuleBrokenError, legible, quoted
from agentrefine.script import Script


class DMTurn(BaseModel):
    """What the dungeon master says, and how it judges the player's last action.

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
    """What the player thinks and does (ReAct)."""

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


def steps(turns: Sequence[DMTurn | PlayerTurn]) -> Iterator[Step]:
    """The player's turns with the DM's answers, in order; an unanswered last player turn is left out."""
    for player, answer in pairwise(turns):
        if isinstance(player, PlayerTurn) and isinstance(answer, DMTurn):
            yield Step(player, answer)


def error_refine_turns(turns: Sequence[DMTurn | PlayerTurn]) -> int:
    """How many player turns correct a mistake: an error-free step directly after an erroneous one."""
    return sum(before.answer.error and not after.answer.error for before, after in pairwise(steps(turns)))


class ParsedTurns(NamedTuple):
    """What could be read of a game.

    Attributes:
        turns: the leading turns whose keys and types are sound.
        problem: why the next one is not; None when all are. Its `turn` counts from the first turn of the answer.
    """

    turns: list[DMTurn | PlayerTurn]
    problem: Problem | None


def parse_turns(text: str) -> ParsedTurns:
    """The turns in a teacher's answer, whatever it holds; never raises.

    Fences, prose around the JSON, trailing commas, single quotes and an object that wraps the list are accepted. Of
    JSON that is cut off, the complete turns before the cut are read.
    """
    values, problem = load_list(text)
    escapes = "\\u" in text
    turns: list[DMTurn | PlayerTurn] = []
    for number, value in enumerate(values, start=1):
        turn = _turn(value, number, escapes)
        if isinstance(turn, Problem):
            return ParsedTurns(turns, turn)
        turns.append(turn)
    if not values and problem is None:
        problem = Problem(Rule.EMPTY_ANSWER, "The list of turns is empty; write the turns.")
    return ParsedTurns(turns, problem)


def _turn(value: Any, number: int, escapes: bool) -> DMTurn | PlayerTurn | Problem:  # noqa: ANN401
    role = value.get("role") if isinstance(value, dict) else None
    if role not in ("DM", "Player"):
        return _unsound(value, number) or Problem(
            Rule.TURN_KEYS,
            f'Element {number} of the list is no turn: it needs a key "role" that is "DM" or "Player"; '
            f"found {quoted(value)}.",
            number,
        )
    try:
        if escapes:  # only they can bring what is not Unicode
            check_values(value)
        return DMTurn.model_validate(value) if role == "DM" else PlayerTurn.model_validate(value)
    except RuleBrokenError as error:
        return error.problem._replace(turn=number)
    except ValidationError as error:
        message = f"Element {number} of the list, a {role} turn, does not have exactly the required keys: "
        return _unsound(value, number) or Problem(
            Rule.TURN_KEYS, f"{message}{legible(first_problem(error))} Write the keys as asked.", number
        )


def _unsound(value: Any, number: int) -> Problem | None:  # noqa: ANN401
    """Why a value cannot even be shown in a message: its depth, its numbers, its characters."""
    try:
        check_values(value)
    except RuleBrokenError as error:
        return error.problem._replace(turn=number)
    return None


class Trajectory(BaseModel):
    """A verified game with all that leads back to where it came from.

    Attributes:
        id: derived from the persona, sample number, script and turns.
        persona_id, persona: who the script was written for.
        sample: which of the persona's samples, from 0.
        script: the game's script.
        turns: DM and player in turn, beginning and ending with the DM.
        calls: ids of the teacher's answers (`Attempt.id`) that wrote it, in order.
        teacher: the model that wrote it.
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
