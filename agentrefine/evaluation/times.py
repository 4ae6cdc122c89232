"""How long the turns of an episode took: kept apart from episodes, so that equal plays leave equal bytes."""

from typing import NamedTuple

from pydantic import BaseModel


class TurnTime(NamedTuple):
    """Wall-clock seconds of one turn: `TurnTime(reply=0.812, step=0.0004)`.

    Attributes:
        reply: from the question to the agent's answer; where a batch is shared, waiting for it counts.
        step: from there until the environment has answered; next to nothing for a reply in the wrong form.
    """

    reply: float
    step: float


class EpisodeTimes(BaseModel, frozen=True):
    """When an episode began, and how long its parts took; a line of `turn_times.jsonl`.

    Example: `{"benchmark": "babyai", "id": "babyai.GoToRedBall.1234", "attempt": 0, "began": 1790000000.125,
    "before": 0.02, "turns": [[0.812, 0.0004], [0.79, 0.0003]], "after": 0.0001}`

    Attributes:
        benchmark, id, attempt: the episode.
        began: seconds since 1970.
        before: seconds until the agent was first asked: to make and start the environment, and all that had been played
            when its simulator died and the episode was begun again.
        turns: those of `Episode.steps`.
        after: seconds from the last turn to the end: closing the environment, and a turn that left no step.
    """

    benchmark: str
    id: str
    attempt: int
    began: float
    before: float
    turns: list[TurnTime]
    after: float


Times = dict[tuple[str, int], EpisodeTimes]
"""The times of a benchmark's episodes, by id and attempt."""
