"""Held-out worlds: unseen layouts, unseen families and themes, and reworded actions."""

from collections.abc import Iterator, Sequence
from itertools import cycle, islice
from random import Random

from agentrefine.benchmarks.base import EpisodeSpec, StepResult
from agentrefine.files import short_hash
from agentrefine.worlds import catalogue
from agentrefine.worlds.engine import Game
from agentrefine.worlds.family import Split
from agentrefine.worlds.layout import EVALUATION_SEEDS, World, world_from_id
from agentrefine.worlds.paraphrase import PARAPHRASES, Paraphrase, paraphrase
from agentrefine.worlds.player import Explorer

_SEEDS = 1_000_000_000
_GOLD_STEPS = 100


class WorldEnvironment:
    """A world being played as an episode.

    Attributes:
        actions: those that a training conversation of the same world begins with, in the episode's wording.
        goal: the task in words.
    """

    def __init__(self, world: World, action_wording: Paraphrase | None = None) -> None:
        self.goal = world.goal
        actions = {template: action.does for template, action in world.rules.actions.items()}
        self.actions = action_wording.reword(actions) if action_wording else actions
        self._world = world
        self._wording = action_wording
        self._game = Game(world, action_wording)

    def reset(self) -> str:
        """Start the episode and return the first observation."""
        self._game = Game(self._world, self._wording)
        return self._game.first_observation()

    def step(self, action: str) -> StepResult:
        """Take one action. Any text is answered with an observation."""
        outcome = self._game.step(action)
        return StepResult(
            observation=outcome.observation,
            progress=self._game.progress,
            success=outcome.completed,
            done=outcome.completed,
            valid=outcome.error is None,
        )

    def possible(self) -> list[str]:
        """The actions that can be done now, in the episode's wording."""
        return self._game.applicable()

    def close(self) -> None:
        """Nothing to free."""


class WorldsBenchmark:
    """Episodes in worlds that no teacher draws, the same number in every family (within one).

    Where actions are reworded, the worlds are those of `worlds_layouts`, and each is played in every wording, one after
    the other; an episode's id is then the world's, a slash and the wording.

    Attributes:
        name: the benchmark's name.
        progress_definition: what progress means here.
    """

    progress_definition = "best share of the goal's conditions that hold at the same time, so far"

    def __init__(self, name: str, split: Split, wordings: tuple[str, ...] = ()) -> None:
        self.name = name
        self._split: Split = split
        self._wordings = wordings

    def episodes(self, limit: int, seed: int) -> Sequence[EpisodeSpec]:
        """At most `limit` episodes; fewer are the first of more. `variant` is the theme."""
        worlds = self._drawn(seed)
        if not self._wordings:
            return list(islice(worlds, limit))
        reworded = (
            world.model_copy(update={"id": f"{world.id}/{name}", "wording": name})
            for world in worlds
            for name in self._wordings
        )
        return list(islice(reworded, limit))

    def _drawn(self, seed: int) -> Iterator[EpisodeSpec]:
        families = catalogue.families(self._split)
        themes = catalogue.themes(self._split)
        drawn_for = "worlds_layouts" if self._wordings else self.name
        rng = Random(int(short_hash("episodes", drawn_for, str(seed)), 16))
        seen: set[str] = set()
        for family in cycle(families):
            theme = rng.choice(themes).name
            layout = EVALUATION_SEEDS + rng.randrange(_SEEDS)
            world_id = f"{family.name}.{theme}.{layout}"
            if world_id in seen:
                continue
            seen.add(world_id)
            yield EpisodeSpec(id=world_id, benchmark=self.name, task=family.name, seed=layout, variant=theme)

    def make(self, episode: EpisodeSpec) -> WorldEnvironment:
        """The environment of one episode.

        Raises:
            UserError: the episode's id names no world.
        """
        return WorldEnvironment(*_world_and_wording(episode))

    def gold(self, episode: EpisodeSpec) -> list[str]:
        """The actions of the expert, which knows only what the observations have shown; they solve the episode."""
        game = Game(*_world_and_wording(episode))
        expert = Explorer(game)
        actions: list[str] = []
        while not game.completed and len(actions) < _GOLD_STEPS:
            actions.append(expert.next_action())
            game.step(actions[-1])
        return actions


def world_wording(episode: EpisodeSpec) -> Paraphrase | None:
    """The wording of an episode's actions; None for the canonical one."""
    return paraphrase(episode.wording) if episode.wording else None


def _world_and_wording(episode: EpisodeSpec) -> tuple[World, Paraphrase | None]:
    return world_from_id(episode.id.partition("/")[0]), world_wording(episode)


def worlds_layouts() -> WorldsBenchmark:
    """Families and themes that were tuned on, in layouts that were not."""
    return WorldsBenchmark("worlds_layouts", "train")


def worlds_families() -> WorldsBenchmark:
    """Families and themes that were never tuned on."""
    return WorldsBenchmark("worlds_families", "held_out")


def worlds_wording() -> WorldsBenchmark:
    """Worlds as those of `worlds_layouts`, each with its actions in five other wordings (paper, robustness study)."""
    return WorldsBenchmark("worlds_wording", "train", PARAPHRASES)
