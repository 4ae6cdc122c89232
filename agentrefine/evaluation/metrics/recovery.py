"""What a model does after its errors: whether it recovers, how soon, after which kinds, and whether it repeats them.

Every error that another turn followed counts, so a row of errors counts each of them. An error that ended its episode
is left out: it was no chance to recover.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

from agentrefine.evaluation.episodes import FORMAT_ERROR, Episode, EpisodeStep
from agentrefine.evaluation.metrics.rates import Rate, mean, ratio

SOON = 3
"""Turns after an error in which `within_3` looks for another valid action."""

UNKNOWN = "unknown"
"""The kind of an error in a file of episodes that was written before kinds were recorded."""


class Aftermath(NamedTuple):
    """What followed an error.

    Example: `Aftermath(kind="place_error", turns=2, repeated=True)`

    Attributes:
        kind: `EpisodeStep.error_kind`.
        turns: how many turns later the first action came that was valid and another than the failing one; None: none
            came in this episode. After a malformed reply any valid action is another one.
        repeated: the very next turn failed with the same action, or was the same malformed reply.
    """

    kind: str
    turns: int | None
    repeated: bool


class Recovery(NamedTuple):
    """What one model does after its errors on one benchmark; docs/metrics.md defines every rate.

    Example: `Recovery(at_once=Rate(...), within_3=Rate(...), turns=Rate(...), repeats=Rate(...), by_kind={...})`

    Attributes:
        at_once: share of errors after which the next action is valid and another one.
        within_3: share of errors after which one of the next three actions is.
        turns: mean turns to the first such action, over the errors that one followed.
        repeats: share of errors that the next turn repeats.
        by_kind: `at_once` of each kind of error that was made, by name in the order of the alphabet.
    """

    at_once: Rate
    within_3: Rate
    turns: Rate
    repeats: Rate
    by_kind: dict[str, Rate]


def recovery(episodes: Sequence[Episode]) -> Recovery:
    """What a model does after its errors in some episodes, each rate with the bootstrap interval over clusters."""
    clusters = [episode.cluster for episode in episodes]
    followed = [aftermaths(episode) for episode in episodes]
    taken = [
        (found.turns, cluster)
        for cluster, errors in zip(clusters, followed, strict=True)
        for found in errors
        if found.turns is not None
    ]
    kinds = sorted({found.kind for errors in followed for found in errors})

    def share(of: Sequence[Sequence[Aftermath]], has: Callable[[Aftermath], bool]) -> Rate:
        return ratio([sum(map(has, errors)) for errors in of], [len(errors) for errors in of], clusters)

    def of_kind(kind: str) -> list[list[Aftermath]]:
        return [[found for found in errors if found.kind == kind] for errors in followed]

    return Recovery(
        at_once=share(followed, _at_once),
        within_3=share(followed, lambda found: found.turns is not None and found.turns <= SOON),
        turns=mean([turns for turns, _ in taken], [cluster for _, cluster in taken]),
        repeats=share(followed, lambda found: found.repeated),
        by_kind={kind: share(of_kind(kind), _at_once) for kind in kinds},
    )


def aftermaths(episode: Episode) -> list[Aftermath]:
    """What followed each error of an episode, in their order; without an error in its last turn."""
    return [
        Aftermath(_kind(step), _turns_to_recover(step, after), _repeats(step, after[0]))
        for step, after in ((step, episode.steps[number:]) for number, step in enumerate(episode.steps, start=1))
        if step.failed and after
    ]


def _at_once(found: Aftermath) -> bool:
    return found.turns == 1


def _kind(error: EpisodeStep) -> str:
    return error.error_kind or (FORMAT_ERROR if error.format_error else UNKNOWN)


def _turns_to_recover(error: EpisodeStep, after: Sequence[EpisodeStep]) -> int | None:
    others = (turns for turns, step in enumerate(after, start=1) if step.valid and step.action != error.action)
    return next(others, None)


def _repeats(error: EpisodeStep, after: EpisodeStep) -> bool:
    return after.failed and after.format_error == error.format_error and after.attempted == error.attempted
