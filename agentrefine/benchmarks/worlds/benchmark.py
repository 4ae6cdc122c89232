"""Held-out worlds: unseen layouts, unseen families and themes, perturbed actions, and faulty worlds."""

from collections.abc import Iterator
from copy import copy
from itertools import cycle

from agentrefine.benchmarks.base import EpisodeSpec, StepResult
from agentrefine.benchmarks.common import DrawnBenchmark, rng_of
from agentrefine.benchmarks.worlds.faults import FaultyGame
from agentrefine.benchmarks.worlds.solution import solution
from agentrefine.worlds import catalogue
from agentrefine.worlds.catalogue import paraphrase
from agentrefine.worlds.engine import Game
from agentrefine.worlds.family import Split
from agentrefine.worlds.layout import EVALUATION_SEEDS, world_from_id

_SEEDS = 1_000_000_000
_DRAWN_AS = {"train": "worlds_layouts", "held_out": "worlds_families"}
"""The benchmark whose worlds all benchmarks of a split play."""


class WorldEnvironment:
    """A world being played as an episode. Its actions are those of a training conversation, perturbed if so given."""

    def __init__(self, game: Game) -> None:
        world, perturbation = game.world, game.paraphrase
        self.goal = world.goal
        actions = {template: action.does for template, action in world.rules.actions.items()}
        self.actions = perturbation.paraphrase_actions(actions) if perturbation else actions
        self._start = game
        self._game = copy(game)

    def reset(self) -> str:
        """Start the episode and return the first observation."""
        self._game = copy(self._start)
        return self._game.first_observation()

    def step(self, action: str) -> StepResult:
        """Take one action. Any text is answered with an observation."""
        observation, error, completed = self._game.step(action)
        fault = isinstance(self._game, FaultyGame) and self._game.fault != ""
        return StepResult(
            observation,
            self._game.progress,
            success=completed,
            done=completed,
            valid=error is None,
            fault=fault,
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
    with every perturbation in turn; an episode's id is then the world's, a slash and the perturbation's name. Faulty
    worlds are those of `worlds_layouts` too, with the same ids, so that what a model loses by faults can be paired.
    """

    progress_definition = "best share of the goal's conditions that hold at the same time, so far"

    def __init__(self, name: str, split: Split, perturbations: tuple[str, ...] = (), *, faulty: bool = False) -> None:
        self.name = name
        self._split: Split = split
        self._perturbations = perturbations
        self._faulty = faulty

    def drawn(self, seed: int) -> Iterator[EpisodeSpec]:
        """A world of each family in turn, without end; `variant` is the theme."""
        themes = catalogue.themes(self._split)
        rng = rng_of("episodes", _DRAWN_AS[self._split], seed)
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
        return WorldEnvironment(self._game(episode))

    def gold(self, episode: EpisodeSpec) -> list[str]:
        """The actions of the expert, which knows only what the observations have shown; they solve the episode."""
        return solution(self._game(episode))

    def _game(self, episode: EpisodeSpec) -> Game:
        """An episode's world before the first action."""
        world = world_from_id(episode.id.partition("/")[0])
        if self._faulty:
            return FaultyGame(world)
        return Game(world, paraphrase(episode.perturbation) if episode.perturbation else None)
