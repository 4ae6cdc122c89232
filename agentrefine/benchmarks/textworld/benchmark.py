"""TextWorld (Côté et al., 2018): games made offline with fixed seeds, played through `textworld`.

The games are those of TextWorld's four challenges. One is made when it is first played and kept in the cache folder.
"""

from collections.abc import Iterator
from contextlib import ExitStack, closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

from agentrefine.benchmarks.base import EpisodeSpec, NoSolutionError
from agentrefine.benchmarks.common import data_of, drawn_games, rng_of
from agentrefine.benchmarks.simulators import SimulatorBenchmark, TextSimulator, games_folder, tidy, without_prompt
from agentrefine.benchmarks.worker import GIB, Limits, Opening
from agentrefine.files import atomic_folder

if TYPE_CHECKING:  # the simulator is optional
    from textworld import Environment as Game
    from textworld import GameState

DATA = data_of("textworld", "textworld.yaml")
CHALLENGES: dict[str, dict[str, list[Any]]] = DATA["challenges"]
TEXTS: dict[str, str] = DATA["texts"]
NOT_FOR_AGENTS = frozenset(DATA["not_for_agents"])
LIMITS = Limits(start=180, step=20, gold=180, memory=4 * GIB)


class TextWorld(SimulatorBenchmark):
    """Games of TextWorld's challenges, the same number of each (within one)."""

    progress_definition = "share of the game's points that are scored"
    package = "textworld"

    def __init__(self, name: str = "textworld") -> None:
        super().__init__(name, TextWorldSimulator, LIMITS)

    def drawn(self, seed: int) -> Iterator[EpisodeSpec]:
        """Games of the challenges in turn, without end."""
        return drawn_games(self.name, CHALLENGES, seed)


class TextWorldSimulator(TextSimulator):
    """Plays TextWorld's games. Valid: TextWorld lists the action as possible now, or it changed the game."""

    texts = TEXTS
    _game: "Game"
    _state: "GameState"

    def __init__(self) -> None:
        self._started_games = ExitStack()

    def start(self, episode: EpisodeSpec) -> Opening:
        """Begin an episode, whose game is made where there is none yet."""
        self._started_games.close()
        self._game, self._state = _started(episode)
        self._started_games.enter_context(closing(self._game))
        self._progress = 0.0
        return Opening(DATA["actions"], tidy(self._state.objective), tidy(self._state.description))

    def _standing(self) -> tuple[float, bool, bool]:
        won = bool(self._state.won)
        return 1.0 if won else self._progress, won, bool(self._state.done)

    def _is_known(self, words: str) -> bool:
        return words.split()[0] not in NOT_FOR_AGENTS and not words.startswith("tw-")

    def _take(self, words: str) -> tuple[str, bool]:
        before = self._state
        after, _, done = self._game.step(words)
        after["done"] = done
        self._state = after
        self._progress = max(self._progress, min(1.0, after.score / after.max_score))
        valid = words in before.admissible_commands or set(after.facts) != set(before.facts)
        return without_prompt(after.feedback.partition("*** The End ***")[0]), valid

    def possible(self) -> list[str]:
        """The commands that TextWorld admits now."""
        return list(self._state.admissible_commands)

    def gold(self, episode: EpisodeSpec) -> list[str]:
        """The commands of TextWorld's own policy, which knows the whole game."""
        game, state = _started(episode)
        with closing(game):
            if not state.policy_commands:
                raise NoSolutionError("TextWorld's own policy knows no commands that win the game")
            return list(state.policy_commands)


def _started(episode: EpisodeSpec) -> "tuple[Game, GameState]":
    import textworld  # takes a second

    wanted = ("objective", "description", "score", "max_score", "won", "lost", "facts")
    infos = textworld.EnvInfos(admissible_commands=True, policy_commands=True, **dict.fromkeys(wanted, True))
    game = textworld.start(str(_made(episode.task, episode.seed)), infos)
    state = game.reset()
    state["done"] = False
    return game, state


def _made(challenge: str, seed: int) -> Path:
    """The game of a challenge and a seed, made now where it is not in the cache."""
    import textworld.challenges
    from textworld.generator import compile_game
    from textworld.version import __version__

    folder = games_folder("textworld") / str(__version__) / f"{challenge}.{seed}"
    if not (folder / "game.z8").is_file():
        rng = rng_of("settings", challenge, seed)
        settings = {name: rng.choice(values) for name, values in CHALLENGES[challenge].items()}
        if challenge == "cooking":
            settings["recipe_seed"] = seed
        options = textworld.GameOptions()
        options.seeds = seed
        options.grammar.only_last_action = True  # the goal, not the way to it
        with atomic_folder(folder) as unfinished:
            options.path = str(unfinished / "game.z8")
            compile_game(textworld.challenges.CHALLENGES[f"tw-{challenge}"][1](settings, options), options)
    return folder / "game.z8"
