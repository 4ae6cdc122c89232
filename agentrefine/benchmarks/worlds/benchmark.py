"""Held-out worlds: unseen layouts, unseen families and themes, and perturbed actions."""

from collections.abc import Iterator
from itertools import cycle

from agentrefine.benchmarks.base import EpisodeSpec, StepResult
from agentrefine.benchmarks.common import DrawnBenchmark, rng_of
from agentrefine.worlds import catalogue
from agentrefine.worlds.catalogue import paraphrase
from agentrefine.worlds.engine import Game
from agentrefine.worlds.family import Split
from agentrefine.worlds.language import Paraphrase
from agentrefine.worlds.layout import EVALUATION_SEEDS, World, world_from_id
from agentrefine.worlds.player import Explorer

_SEEDS = 1_000_000_000
_GOLD_STEPS = 100


class WorldEnvironment:
    """A world being played as an episode. Its actions are those of a training conversation, perturbed if so given."""

    def __init__(self, world: World, perturbation: Paraphrase | None = None) -> None:
        self.goal = world.goal
        actions = {template: action.does for template, action in world.rules.actions.items()}
        self.actions = perturbation.paraphrase_actions(actions) if perturbation else actions
        self._world = world
        self._perturbation = perturbation
        self._game = Game(world, perturbation)

    def reset(self) -> str:
        """Start the episode and return the first observation."""
        self._game = Game(self._world, self._perturbation)
        return self._game.first_observation()

    def step(self, action: str) -> StepResult:
        """Take one action. Any text is answered with an observation."""
        observation, error, completed = self._game.step(action)
        return StepResult(
            observation,
            self._game.progress,
            success=completed,
            done=completed,
            valid=error is None,
            error_kind=error or "",
        )

    def possible(self) -> list[str]:
        """The actions that can be done now, perturbed if the episode's are."""
        return self._game.applicable()

    def close(self) -> None:
        """Nothing to free."""


class WorldsBenchmark(DrawnBenchmark):
    """Episodes in worlds that no teacher draws, the same number in every family (within one).

    Families and themes are those of a split: `train` was tuned on, though in other layouts, `held_out` never.
    Where actions are perturbed (paper, robustness study), the worlds are those of `worlds_layouts`, and each is played
    with every perturbation in turn; an episode's id is then the world's, a slash and the perturbation's name.
    """

    progress_definition = "best share of the goal's conditions that hold at the same time, so far"

    def __init__(self, name: str, split: Split, perturbations: tuple[str, ...] = ()) -> None:
        self.name = name
        self._split: Split = split
        self._perturbations = perturbations

    def drawn(self, seed: int) -> Iterator[EpisodeSpec]:
        """A world of each family in turn, without end; `variant` is the theme."""
        themes = catalogue.themes(self._split)
        rng = rng_of("episodes", "worlds_layouts" if self._perturbations else self.name, seed)
        seen: set[str] = set()
        for family in cycle(catalogue.families(self._split)):
            theme = rng.choice(themes).name
            layout = EVALUATION_SEEDS + rng.randrange(_SEEDS)
            world_id = f"{family.name}.{theme}.{layout}"
            if world_id not in seen:
                seen.add(world_id)
                world = EpisodeSpec(id=world_id, benchmark=self.name, task=family.name, seed=layout, variant=theme)
                yield from [
                    world.model_copy(update={"id": f"{world_id}/{name}", "perturbation": name})
                    for name in self._perturbations
                ] or [world]

    def make(self, episode: EpisodeSpec) -> WorldEnvironment:
        """The environment of one episode."""
        return WorldEnvironment(*_world_and_perturbation(episode))

    def gold(self, episode: EpisodeSpec) -> list[str]:
        """The actions of the expert, which knows only what the observations have shown; they solve the episode."""
        game = Game(*_world_and_perturbation(episode))
        expert = Explorer(game)
        actions: list[str] = []
        while not game.completed and len(actions) < _GOLD_STEPS:
            actions.append(expert.next_action())
            game.step(actions[-1])
        return actions


def _world_and_perturbation(episode: EpisodeSpec) -> tuple[World, Paraphrase | None]:
    perturbation = paraphrase(episode.perturbation) if episode.perturbation else None
    return world_from_id(episode.id.partition("/")[0]), perturbation
