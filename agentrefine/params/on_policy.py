"""The section `on_policy` of params.yaml."""

from typing import Annotated, Literal

from pydantic import Field, NonNegativeFloat, PositiveInt

from agentrefine.params.base import Section
from agentrefine.params.tuning import Name

TrainOwn = Literal["none", "agreeing", "all"]
"""Which of a model's faultless turns are trained: none, those with the expert's action, all."""


class OnPolicy(Section):
    """A data set of a model's own games, each of its mistakes answered by an expert.

    Attributes:
        model: the variant that plays.
        worlds: how many training worlds it plays, each once; a game without a mistake is not kept.
        temperature: of its replies.
        model_turns: turns of a game after which the expert finishes it.
        errors_in_a_row: for so many mistakes in a row the expert waits at most; how many is drawn anew each time. With
            1 it answers each at once, so no game shows what to do after a second one.
        stalled_turns: turns of the model in a row that bring nothing new are mistakes from this number on.
        max_turns: a game with more is given up.
        train_own: which of the model's own faultless turns are trained.
        injected_share: of the training samples, drawn from data/dataset: games with mistakes that a teacher wrote.
        accumulate: add all samples that `model` was tuned on, as DAgger does round by round (Ross et al. 2011).
    """

    model: Name
    worlds: PositiveInt = 800
    temperature: NonNegativeFloat = 1.0
    model_turns: PositiveInt = 16
    errors_in_a_row: PositiveInt = 1
    stalled_turns: Annotated[int, Field(ge=2)] = 4
    max_turns: PositiveInt = 40
    train_own: TrainOwn = "agreeing"
    injected_share: Annotated[float, Field(ge=0, lt=1)] = 0.0
    accumulate: bool = False
