"""ALFWorld's games with perturbed commands (paper, robustness study): the same game, its commands in five other forms.

Commands are read with a perturbation's templates and passed on in ALFWorld's own, so that nothing is lost either way.
The descriptions of the actions, the list of those that are possible and the observations that repeat a command follow
the perturbation; everything else is the game's.
"""

from collections.abc import Iterable, Mapping, Sequence
from itertools import islice
from pathlib import Path
from string import Template

from agentrefine.benchmarks.alfworld.benchmark import TEXTS, ALFWorld
from agentrefine.benchmarks.alfworld.house import DATA
from agentrefine.benchmarks.base import Environment, EpisodeSpec, StepResult
from agentrefine.benchmarks.simulators import LISTING, SimulatorBenchmark, command, data_of
from agentrefine.benchmarks.worker import RemoteEnvironment
from agentrefine.worlds.language import Paraphrase

PERTURBATIONS: dict[str, dict[str, str]] = data_of("alfworld", "perturbations.yaml")
NAME = r"[a-z]+ [0-9]+"
"""A thing's name in ALFWorld's games, such as `sinkbasin 1`."""


def perturbation(name: str, templates: Iterable[str]) -> Paraphrase:
    """One of `PERTURBATIONS` for the templates of a game."""
    other = PERTURBATIONS[name]
    return Paraphrase(name, {template: other.get(template, template) for template in templates}, NAME)


def game_perturbation(episode: EpisodeSpec) -> Paraphrase:
    """The perturbation of an episode, to render commands of games of any age."""
    return perturbation(episode.wording, [*DATA["actions"], *DATA["older_wording"].values()])


class PerturbedEnvironment:
    """A perturbed ALFWorld game. Valid: as in the game; a command in ALFWorld's own form is not known."""

    def __init__(self, game: Environment, name: str) -> None:
        self._game = game
        self._perturbation = perturbation(name, ())

    @property
    def goal(self) -> str:
        """The task in words."""
        return self._game.goal

    @property
    def actions(self) -> Mapping[str, str]:
        """The game's templates, perturbed, with their descriptions."""
        return self._perturbation.paraphrase_actions(self._game.actions)

    def reset(self) -> str:
        """Start the episode and return the first observation."""
        observation = self._game.reset()
        self._perturbation = perturbation(self._perturbation.name, self._game.actions)
        return observation

    def step(self, action: str) -> StepResult:
        """Take one action."""
        known = self._perturbation.parse(command(action) or "") or ""
        result = self._game.step(known)
        if not result.valid:
            return result
        if known == LISTING:
            listed = ", ".join(self.possible())
            return result._replace(observation=Template(TEXTS["available"]).substitute(actions=listed))
        return result._replace(observation=self._perturbation.repeat(result.observation, known))

    def possible(self) -> list[str]:
        """The commands that the game admits now, less those that are not described to the agent."""
        admitted = ((own, self._perturbation.render(own)) for own in self._game.possible())
        return [other for own, other in admitted if self._perturbation.parse(other) == own]

    def close(self) -> None:
        """Free the game."""
        self._game.close()


class PerturbedALFWorld(SimulatorBenchmark):
    """The games of `ALFWorld`, each with five perturbations. An episode's id is the game's, a slash and the
    perturbation's name.
    """

    name = "alfworld_perturbed"
    progress_definition = ALFWorld.progress_definition

    def __init__(self, folder: Path | None = None) -> None:
        self._games = ALFWorld(folder)
        self.workers, self.at_once = self._games.workers, self._games.at_once

    def episodes(self, limit: int, seed: int) -> Sequence[EpisodeSpec]:
        """At most `limit` episodes: the games of `ALFWorld`, each with all perturbations before the next."""
        games = self._games.episodes(-(-limit // len(PERTURBATIONS)), seed)
        perturbed = (
            game.model_copy(update={"id": f"{game.id}/{name}", "benchmark": self.name, "wording": name})
            for game in games
            for name in PERTURBATIONS
        )
        return list(islice(perturbed, limit))

    def make(self, episode: EpisodeSpec) -> PerturbedEnvironment:
        """The environment of one episode."""
        return PerturbedEnvironment(RemoteEnvironment(self.workers, self._game(episode)), episode.wording)

    def gold(self, episode: EpisodeSpec) -> list[str]:
        """The game's solution in the episode's perturbed commands."""
        return [game_perturbation(episode).render(action) for action in self._games.gold(self._game(episode))]

    def _game(self, episode: EpisodeSpec) -> EpisodeSpec:
        game_id = episode.id.removesuffix(f"/{episode.wording}")
        return episode.model_copy(update={"id": game_id, "benchmark": self._games.name, "wording": ""})
