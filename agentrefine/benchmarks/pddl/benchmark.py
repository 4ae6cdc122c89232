"""Planning problems in PDDL as games: any domain and its problems, through `unified-planning`.

The folder is the user's (`evaluation.data.pddl`), else the one of this package. It holds, for each domain,

- `<name>.pddl` beside a folder `<name>/` of problems (AgentBoard's layout), or
- `<name>/domain.pddl` beside its problems in the same folder, or
- just `domain.pddl` and problems, which is one domain named as the folder.

A YAML file beside the domain, of the same name, gives it words (`words.py`); AgentBoard's domains have theirs here.
As in AgentBoard (Ma et al., NeurIPS 2024) the agent reads all that is true, or where the words say so what an action
changed, `check valid actions` lists what is possible and costs a step, and progress is the share of goals that hold.
Numbers (`:functions`) are played but not shown.
"""

import random
import re
from collections.abc import Iterator
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any, NamedTuple

from agentrefine.benchmarks.base import Environment, EpisodeSpec, StepResult, UnlistedActionsError
from agentrefine.benchmarks.common import CHECK, DrawnBenchmark, round_robin
from agentrefine.benchmarks.pddl.planner import solution
from agentrefine.benchmarks.pddl.problem import PddlProblem, planning_library
from agentrefine.benchmarks.pddl.syntax import is_domain
from agentrefine.benchmarks.pddl.words import DomainWords, Phrases, read_words
from agentrefine.errors import file_error
from agentrefine.files import packaged_path, short_hash

LOOK = "look around"
MAX_LISTED = 200
"""Actions in one list; a longer one would fill an agent's context."""


class Domain(NamedTuple):
    """A domain's file and its problems' files by name."""

    path: Path
    problems: dict[str, Path]


class PddlEnvironment:
    """One problem being played. Valid: the action was possible and changed something, or was a look."""

    def __init__(self, domain: Path, problem: Path) -> None:
        changed = (path.stat().st_mtime_ns if path.is_file() else 0 for path in (domain, problem))
        self._problem = _read_problem(domain, problem, *changed)
        words, source = _words(domain, self._problem.domain)
        self._phrases = Phrases(self._problem, words, source)
        self._only_changes = words.observe == "changes"
        looks = {CHECK: "List the actions that are possible now."}
        if self._only_changes:
            looks[LOOK] = "List all that is true now."
        self.actions = self._phrases.described | looks
        self.goal = f"Make it true that {self._phrases.listed(self._problem.goals)}."
        self.reset()

    def reset(self) -> str:
        """Start the episode and return the first observation."""
        self._state = self._problem.initial
        self._progress = self.share()
        self._over = self._progress == 1
        kinds = {kind: ", ".join(names) for kind, names in self._problem.objects_by_type().items()}
        objects = "; ".join(f"{kind} {names}" if len(kinds) > 1 else names for kind, names in kinds.items())
        return f"Objects: {objects}. {self._all()}"

    def step(self, action: str) -> StepResult:
        """Take one action of the agent."""
        words = " ".join(action.lower().split()).rstrip(" .")
        if self._over:
            return self._result("The game is over.", valid=False)
        if words == CHECK:
            return self._result(self._valid_actions(), valid=True)
        if words == LOOK:
            return self._result(self._all(), valid=True)
        parsed = self._phrases.read(words)
        if parsed is None:
            return self._result(f"This action is not known. Try: {CHECK}.", valid=False)
        action_, objects = self._problem.actions[parsed[0]], parsed[1]
        refusal = self._refusal(action_, objects)
        return self._result(refusal, valid=False) if refusal else self._carry_out(action_, objects)

    def close(self) -> None:
        """Nothing to free."""

    def possible(self) -> list[str]:
        """The actions that are possible now, in words."""
        if self._problem.ground_actions is None:
            raise UnlistedActionsError(f"{self._problem.domain} has a problem with too many actions to list")
        return [self._phrases.action(found.action.name, found.names) for found in self._problem.possible(self._state)]

    def solution(self) -> list[str]:
        """The planner's solution from the start in words."""
        return [self._phrases.action(step.action.name, step.names) for step in solution(self._problem)]

    def _carry_out(self, action: Any, objects: tuple[str, ...]) -> StepResult:
        before = self._state
        following = self._problem.after(before, action, objects)
        if following is None:
            return self._result("The effects of this action contradict each other. Nothing changes.", valid=False)
        if following == before:
            return self._result("Nothing changes.", valid=False)
        self._state = following
        share = self.share()
        self._progress, self._over = max(self._progress, share), share == 1
        ending = ["The goal is reached."] if self._over else []
        shown = self._change(before) if self._only_changes else self._all()
        return self._result(" ".join([shown, *ending]), valid=True)

    def _change(self, before: Any) -> str:
        """What is true now and was not, and what was true and is no longer."""
        earlier, later = self._problem.true_atoms(before), self._problem.true_atoms(self._state)
        come = [atom for atom in later if atom not in earlier]
        gone = [atom for atom in earlier if atom not in later]
        parts = [self._phrases.sentences(come), f"No longer: {self._phrases.listed(gone)}." if gone else ""]
        return " ".join(filter(None, parts)) or "No fact changes."

    def _refusal(self, action: Any, objects: tuple[str, ...]) -> str:
        """Why an action is not possible now; empty where it is."""
        for name, parameter in zip(objects, action.parameters, strict=True):
            if name not in self._problem.objects:
                return f"There is no object named {name[:100]}."
            if not self._problem.fits(name, parameter):
                return f"{name} is not of the kind {parameter.type.name}."
        unmet = self._problem.unmet(self._state, action, objects)
        missing = [condition for condition in unmet if not condition.is_not()]
        hindering = [condition.arg(0) for condition in unmet if condition.is_not()]
        parts = ["You cannot do that."] if unmet else []
        parts += [f"What is missing: {self._phrases.listed(missing)}."] if missing else []
        parts += [f"What is in the way: {self._phrases.listed(hindering)}."] if hindering else []
        return " ".join(parts)

    def _valid_actions(self) -> str:
        if self._problem.ground_actions is None:
            return "There are too many actions to list."
        possible = self.possible()
        more = [f"and {len(possible) - MAX_LISTED} more"] if len(possible) > MAX_LISTED else []
        return f"Valid actions: {', '.join([*possible[:MAX_LISTED], *more]) or 'none'}."

    def _all(self) -> str:
        return self._phrases.sentences(self._problem.true_atoms(self._state)) or "Nothing is true."

    def share(self) -> float:
        """The share of the goal's conditions that hold now."""
        goals = self._problem.goals
        return sum(self._problem.holds(self._state, goal) for goal in goals) / len(goals)

    def _result(self, observation: str, *, valid: bool) -> StepResult:
        return StepResult(observation, self._progress, success=self._over, done=self._over, valid=valid)


class Pddl(DrawnBenchmark):
    """Every problem of a folder of domains, of this package's if none is given."""

    name = "pddl"
    progress_definition = "best share of the goal's conditions that hold at the same time, so far"

    def __init__(self, folder: Path | None = None) -> None:
        self._folder = folder or packaged_path("agentrefine.benchmarks", "pddl", "domains")

    @cached_property
    def domains(self) -> dict[str, Domain]:
        """The folder's domains by name, each with its problems in natural order (2 before 10).

        Raises:
            UserError: the folder is missing or has no domain with problems.
        """
        folder = self._folder
        if not folder.is_dir():
            message = "no such folder; let evaluation.data.pddl name a folder of domains and problems."
            raise file_error("file_missing", folder, message)
        if (folder / "domain.pddl").is_file():
            found = {folder.resolve().name: (folder / "domain.pddl", folder)}
        else:
            inside = {path.parent.name: (path, path.parent) for path in sorted(folder.glob("*/domain.pddl"))}
            beside = {path.stem: (path, folder / path.stem) for path in sorted(folder.glob("*.pddl"))}
            found = inside | {name: place for name, place in beside.items() if place[1].is_dir()}
        read = {name: Domain(path, _problems(place)) for name, (path, place) in found.items()}
        problems = {name: domain for name, domain in read.items() if domain.problems}
        if not problems:
            message = (
                "no domain with problems; expected domain.pddl with problems beside it, or <name>.pddl with a folder "
                "<name> of problems."
            )
            raise file_error("no_games", folder, message)
        return problems

    def check_installed(self) -> None:
        """Make sure that `unified-planning` is installed."""
        planning_library()

    def drawn(self, seed: int) -> Iterator[EpisodeSpec]:
        """One problem of each domain, in an order drawn by `seed`, then a second of each, ...

        `task` is the domain, `variant` the problem; a problem has no layouts, so `seed` is its position in the domain.
        """
        rng = random.Random(short_hash("pddl", str(seed)))
        domain_cases = []
        for name in rng.sample(sorted(self.domains), len(self.domains)):
            numbered = list(enumerate(self.domains[name].problems))
            domain_cases.append([(name, *case) for case in rng.sample(numbered, len(numbered))])
        for name, position, problem in round_robin(domain_cases):
            id_ = f"pddl.{name}.{problem}"
            yield EpisodeSpec(id=id_, benchmark=self.name, task=name, seed=position, variant=problem)

    def make(self, episode: EpisodeSpec) -> Environment:
        """The environment of one episode."""
        return self._problem(episode)

    def gold(self, episode: EpisodeSpec) -> list[str]:
        """A planner's actions."""
        return self._problem(episode).solution()

    def _problem(self, episode: EpisodeSpec) -> PddlEnvironment:
        domain = self.domains.get(episode.task)
        if domain is None or episode.variant not in domain.problems:
            message = f"there is no problem {episode.variant} of the domain {episode.task}."
            names = {"domain": episode.task, "name": episode.variant}
            raise file_error("episode_missing", self._folder, message, **names)
        return PddlEnvironment(domain.path, domain.problems[episode.variant])


@lru_cache(maxsize=32)
def _read_problem(domain: Path, problem: Path, *_changed: int) -> PddlProblem:
    """A problem, kept in memory as long as its files do not change."""
    return PddlProblem(domain, problem)


def _problems(folder: Path) -> dict[str, Path]:
    paths = [path for path in folder.glob("*.pddl") if not is_domain(path)]
    return {path.stem: path for path in sorted(paths, key=lambda path: _natural(path.stem))}


def _natural(text: str) -> list[tuple[int, str]]:
    """A sort key by which `p2` comes before `p10`."""
    return [(int(part), "") if part.isdecimal() else (0, part) for part in re.split(r"([0-9]+)", text)]


def _words(domain: Path, name: str) -> tuple[DomainWords, Path | None]:
    """The words beside a domain's file, else this package's for domains of that name, else none."""
    packaged = {path.stem: path for path in packaged_path("agentrefine.benchmarks", "pddl", "phrases").glob("*.yaml")}
    beside = domain.with_suffix(".yaml")
    path = beside if beside.is_file() else packaged.get(name)
    return (read_words(path), path) if path else (DomainWords(), None)
