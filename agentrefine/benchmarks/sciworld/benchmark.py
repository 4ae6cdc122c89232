"""ScienceWorld (Wang et al., EMNLP 2022) with AgentBoard's simplifications, through `scienceworld` and a Java machine.

The simulator draws without a seed, so that no two loads are alike. Here they are: Scala's random numbers are seeded
before each load, and the Java machine gives every object the same identity hash, which fixes the order of its sets.
"""

import math
import shutil
from collections.abc import Iterable, Iterator
from typing import Any

from agentrefine.benchmarks.base import EpisodeSpec, NoSolutionError, StepResult
from agentrefine.benchmarks.common import CHECK, LISTING, data_of, filled, rng_of, round_robin
from agentrefine.benchmarks.simulators import SimulatorBenchmark, TextSimulator, command, tidy
from agentrefine.benchmarks.worker import Limits, Opening
from agentrefine.errors import NotInstalledError

DATA = data_of("sciworld", "sciworld.yaml")
VARIATIONS = {task: range(first, last + 1) for task, (first, last) in DATA["variations"].items()}
TEXTS: dict[str, str] = DATA["texts"]
REFUSALS: tuple[str, ...] = tuple(DATA["refusals"])
NOT_FOR_AGENTS: tuple[str, ...] = tuple(DATA["not_for_agents"])
JAVA_OPTIONS = (
    "-Xmx1g -XX:+UseSerialGC "
    "-XX:+IgnoreUnrecognizedVMOptions -XX:+UnlockExperimentalVMOptions -XX:hashCode=2"  # one identity hash for all
)
LIMITS = Limits(start=180, step=60, gold=300, episodes=50, variables={"JAVA_TOOL_OPTIONS": JAVA_OPTIONS})
NO_STEP_LIMIT = 1_000_000
MAX_LISTING = 2_000
"""Characters of the list of objects."""


class SciWorld(SimulatorBenchmark):
    """The test variations of ScienceWorld's 30 tasks."""

    progress_definition = "the simulator's score, best so far; it is negative after a failure and counted as 0 there"
    package = "scienceworld"
    at_once = 8  # each holds a Java machine of up to 1 GB

    def __init__(self, simulator: type[TextSimulator] | None = None) -> None:
        super().__init__("sciworld", simulator or SciWorldSimulator, LIMITS)

    def check_installed(self) -> None:
        """Make sure that the simulator's package and Java are installed."""
        super().check_installed()
        if shutil.which("java") is None:
            message = (
                "the benchmark sciworld needs Java 8 or later, but there is no java on the PATH; install a Java "
                "runtime, such as the package default-jre-headless."
            )
            raise NotInstalledError("not_installed", message, benchmark=self.name, name="java")

    def drawn(self, seed: int) -> Iterator[EpisodeSpec]:
        """Each task's first variation, in an order drawn by `seed`, then each task's second, ..."""
        rng = rng_of("episodes", self.name, seed)
        tasks = rng.sample(sorted(VARIATIONS), len(VARIATIONS))
        cases = [[(task, number) for number in VARIATIONS[task]] for task in tasks]
        for variations in cases:
            rng.shuffle(variations)
        for task, number in round_robin(cases):
            yield EpisodeSpec(id=f"{self.name}.{task}.{number}", benchmark=self.name, task=task, seed=number)


class SciWorldSimulator(TextSimulator):
    """Plays ScienceWorld. Valid: the simulator took the action, even where it had no effect."""

    texts = TEXTS

    def __init__(self) -> None:
        from scienceworld import ScienceWorldEnv  # the simulator is optional

        self._simulation: Any = ScienceWorldEnv("", None, envStepLimit=NO_STEP_LIMIT)
        self._random = getattr(getattr(self._simulation._gateway.jvm.scala.util, "Random$"), "MODULE$")
        self._score = 0.0
        self._over = False

    def start(self, episode: EpisodeSpec) -> Opening:
        """Load a variation."""
        observation = self._load(episode, solve=False)
        return Opening(DATA["actions"], tidy(self._simulation.get_task_description()), tidy(observation))

    def _standing(self) -> tuple[float, bool, bool]:
        return min(1.0, self._score), self._over and math.isclose(self._score, 1.0), self._over

    def _listed(self) -> Iterable[str]:
        return [", ".join(sorted(set(self._simulation.get_possible_objects())))[:MAX_LISTING]]

    def _is_known(self, words: str) -> bool:
        return not words.startswith(NOT_FOR_AGENTS)

    def _take(self, words: str) -> tuple[str, bool]:
        # The package's own step lists all possible actions each time, which takes longer than the action.
        answer = tidy(self._simulation.server.step(words))
        score = float(self._simulation.server.getScore())
        self._score = max(self._score, score)
        # A negative score is a failure for good: the package's step ends the task there too.
        self._over = bool(self._simulation.server.getCompleted()) or score < 0
        return answer or TEXTS["unknown"], not answer.startswith(REFUSALS)

    def possible(self) -> list[str]:
        """The simulator's valid actions with their objects: some hundreds to thousands."""
        if self._over:
            return []
        valid = sorted(self._simulation.get_valid_action_object_combinations())
        return [action for action in valid if not action.startswith(NOT_FOR_AGENTS)]

    def gold(self, episode: EpisodeSpec) -> list[str]:
        """The simulator's gold path as far as it wins."""
        self._load(episode, solve=True)
        path = list(self._simulation.get_gold_action_sequence())
        self._load(episode, solve=False)
        for number, action in enumerate(path, start=1):
            result = TextSimulator.step(self, action)  # whatever a subclass makes of a step
            if result.success:
                return path[:number]
            if result.done:
                raise NoSolutionError(f"the simulator's gold path fails the task at step {number} of {len(path)}")
        raise NoSolutionError(
            f"the simulator's gold path of {len(path)} steps ends with a score of {100 * self._score:.0f} of 100"
        )

    def _load(self, episode: EpisodeSpec, *, solve: bool) -> str:
        simplifications = list(DATA["simplifications"])
        if not any(word in episode.task for word in DATA["electrical_tasks"]):
            simplifications.append(DATA["no_electricity"])
        self._random.setSeed(episode.seed)
        self._simulation.load(episode.task, episode.seed, ",".join(simplifications), solve)
        self._random.setSeed(episode.seed)
        observation, _ = self._simulation.reset()
        self._score, self._over = 0.0, False
        return str(observation)


class AgentBoardSimulator(SciWorldSimulator):
    """Plays ScienceWorld as AgentBoard does.

    The texts are the simulator's, and a game continues after its end: labels say what is success. Valid: the
    action is among those that are possible *after* it. So AgentBoard counts, and a walk to another room is not.

    Source: agentboard/environment/legacy/scienceworld/scienceworld_env.py and agentboard/tasks/scienceworld.py.
    """

    def start(self, episode: EpisodeSpec) -> Opening:
        """Load a variation."""
        observation = f"{self._load(episode, solve=False)}\n{self._simulation.inventory()}"
        known = {CHECK if action == LISTING else action: does for action, does in DATA["actions"].items()}
        return Opening(known, tidy(self._simulation.get_task_description()), observation)

    def step(self, action: str) -> StepResult:
        """Take one action."""
        words = command(action)
        if words == CHECK:
            templates = ", ".join(form for form in self._simulation.get_possible_actions() if "reset" not in form)
            return self._shown(filled(TEXTS["valid"], actions=f"{templates}, {CHECK}"), valid=True)
        if words is None or words.startswith(NOT_FOR_AGENTS):
            return self._shown(TEXTS["unknown"], valid=False)
        answer = str(self._simulation.server.step(words))
        possible = self._simulation.get_valid_action_object_combinations_with_templates()
        return self._shown(answer, valid=any(form["action"].lower() == words for form in possible))

    def _shown(self, observation: str, *, valid: bool) -> StepResult:
        return StepResult(observation, 0.0, success=False, done=False, valid=valid)
