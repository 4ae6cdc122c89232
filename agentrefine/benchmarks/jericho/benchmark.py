"""Interactive fiction through `jericho` (Hausknecht et al., AAAI 2020): the stories of a folder, or TextWorld's games.

The stories cannot be distributed, and only those whose score Jericho knows can be measured. Where the user has no
folder of them (`evaluation.data.jericho`), TextWorld's games, for the same interpreter, take their place.
"""

import hashlib
import importlib.util
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from agentrefine.benchmarks.base import EpisodeSpec, NoSolutionError, UnlistedActionsError
from agentrefine.benchmarks.common import data_of, filled, rng_of
from agentrefine.benchmarks.simulators import SimulatorBenchmark, TextSimulator, without_prompt
from agentrefine.benchmarks.textworld.benchmark import NOT_FOR_AGENTS, TextWorld
from agentrefine.benchmarks.worker import GIB, Limits, Opening
from agentrefine.errors import file_error

STORIES = "AGENTREFINE_JERICHO"
DATA = data_of("jericho", "jericho.yaml")
TEXTS: dict[str, str] = DATA["texts"]
REFUSALS: tuple[str, ...] = tuple(DATA["refusals"])
LIMITS = Limits(start=60, step=20, gold=120, memory=4 * GIB)


def jericho(folder: Path | None = None) -> SimulatorBenchmark:
    """The benchmark `jericho`: the stories of a folder, else TextWorld's games."""
    if folder:
        return Jericho(folder)
    games = TextWorld("jericho")
    games.progress_definition += " (TextWorld's games, as evaluation.data.jericho names no folder of stories)"
    return games


class Jericho(SimulatorBenchmark):
    """The stories of a folder, each played once."""

    progress_definition = "best share of the story's points that are scored"
    package = "jericho"

    def __init__(self, folder: Path) -> None:
        super().__init__("jericho", StorySimulator, LIMITS._replace(variables={STORIES: str(folder.resolve())}))
        self._folder = folder

    def drawn(self, seed: int) -> Iterator[EpisodeSpec]:
        """The stories whose score Jericho knows, in an order drawn by `seed`."""
        names = [file.name for file in stories(self._folder) if _is_supported(file)]
        if not names:
            message = (
                "there is no story whose score Jericho knows; let evaluation.data.jericho name a folder of such "
                ".z3, .z5 or .z8 files, or none to play TextWorld's games."
            )
            raise file_error("no_games", self._folder, message)
        rng_of("episodes", self.name, seed).shuffle(names)
        for name in names:
            yield EpisodeSpec(id=f"{self.name}/{name}", benchmark=self.name, task=Path(name).stem, seed=0)


class StorySimulator(TextSimulator):
    """Plays a story. Valid: the story understood the action, even where it had no effect."""

    texts = TEXTS

    def __init__(self) -> None:
        self._story: Any = None
        self._score = 0
        self._over = False

    def start(self, episode: EpisodeSpec) -> Opening:
        """Begin a story, with the seed that its walkthrough was written for."""
        from jericho import FrotzEnv  # the simulator is optional

        if self._story is not None:
            self._story.close()
        self._story = FrotzEnv(str(Path(os.environ[STORIES]) / episode.id.partition("/")[2]))
        observation, _ = self._story.reset()
        self._score, self._over = 0, False
        return Opening(DATA["actions"], filled(DATA["goal"], name=episode.task), without_prompt(observation))

    def _standing(self) -> tuple[float, bool, bool]:
        won = self._over and bool(self._story.victory())
        points = self._story.get_max_score()
        progress = 1.0 if won else max(0.0, min(1.0, self._score / points)) if points else 0.0
        return progress, won, self._over

    def _listed(self) -> Iterable[str]:
        """The possible actions; the templates of all where Jericho cannot look for them."""
        return self.possible() if self._searchable else DATA["actions"]

    def _is_known(self, words: str) -> bool:
        return words.split()[0] not in NOT_FOR_AGENTS

    def _take(self, words: str) -> tuple[str, bool]:
        answer, _, self._over, _ = self._story.step(words)
        self._score = max(self._score, self._story.get_score())
        text = without_prompt(answer)
        return text or TEXTS["unknown"], bool(text) and not any(refusal in text for refusal in REFUSALS)

    def possible(self) -> list[str]:
        """The actions that Jericho finds to change something."""
        if not self._searchable:
            raise UnlistedActionsError(
                "Jericho lists the possible actions of fully supported stories only, with spaCy's model en_core_web_sm"
            )
        return sorted(self._story.get_valid_actions(use_parallel=False))

    def gold(self, episode: EpisodeSpec) -> list[str]:
        """Jericho's walkthrough as far as it wins."""
        self.start(episode)
        path = [action.lower() for action in self._story.get_walkthrough()]
        for number, action in enumerate(path, start=1):
            result = self.step(action)
            if result.success:
                return path[:number]
            if result.done:
                break
        raise NoSolutionError(
            f"Jericho's walkthrough of {len(path)} steps ends at {self._score} of {self._story.get_max_score()} points"
        )

    @property
    def _searchable(self) -> bool:
        """Whether Jericho can look for actions; without spaCy's model of English it would download it."""
        return importlib.util.find_spec("en_core_web_sm") is not None and bool(self._story.is_fully_supported)


def stories(folder: Path) -> list[Path]:
    """The story files of a folder.

    Raises:
        UserError: there is no such folder.
    """
    if not folder.is_dir():
        message = "no such folder; let evaluation.data.jericho name the folder of the stories."
        raise file_error("file_missing", folder, message)
    return sorted(folder.glob("*.z[1-8]"))


def _is_supported(file: Path) -> bool:
    from jericho.defines import BINDINGS_DICT

    return hashlib.md5(file.read_bytes(), usedforsecurity=False).hexdigest() in BINDINGS_DICT
