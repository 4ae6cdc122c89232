"""A check that the benchmarks can be played: solutions, chance and idleness through the interface that a model has.

The table has, for each benchmark, what its own solutions reach (all of the episodes that have one, or something is
broken), what chance and doing nothing reach, and what its simulator costs. Where a solution fails, the command ends
with status 1.
"""

from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from pathlib import Path
from statistics import mean

from pydantic import BaseModel

from agentrefine.benchmarks.base import Benchmark, EpisodeSpec, NoSolutionError, UnlistedActionsError
from agentrefine.benchmarks.catalogue import BENCHMARKS, selected
from agentrefine.benchmarks.simulators import SimulatorBenchmark
from agentrefine.errors import NotInstalledError, UserError, unknown_name
from agentrefine.evaluation.policy import Policy
from agentrefine.evaluation.reference import ChancePolicy, GoldPolicy, IdlePolicy
from agentrefine.evaluation.rollout import play
from agentrefine.evaluation.times import Times
from agentrefine.files import write_json
from agentrefine.params import RENAMED, load_params
from agentrefine.params.evaluation import INSTALLED


class Reached(BaseModel, frozen=True):
    """What one policy reached on a benchmark.

    Example: `{"episodes": 3, "success": 0.67, "progress": 0.75, ..., "unsolved": {"key.house.71": "step limit"}}`

    Attributes:
        episodes: how many it played.
        success: share of them that it solved.
        progress: mean of their progress.
        valid: share of its steps that were valid.
        steps: mean number of its steps.
        start_seconds: mean time to start an episode.
        step_seconds: mean time of a step.
        unsolved: why each of the other episodes ended, by its id.
    """

    episodes: int
    success: float
    progress: float
    valid: float
    steps: float
    start_seconds: float
    step_seconds: float
    unsolved: dict[str, str]


class GoldCheck(BaseModel, frozen=True):
    """The reference policies on one benchmark.

    Example: `{"benchmark": "pddl", "episodes": 3, "no_solution": {}, "gold": {...}, "chance": null, ...}`

    Attributes:
        benchmark: its name.
        episodes: how many were looked at.
        no_solution: for each that has no solution the reason, by its id.
        gold: of the others; None where there are none.
        chance: of all, drawing from the possible actions; None where the simulator does not list them.
        idle: of all, doing nothing. Played first: its starts are those of games that may not have been made yet.
        memory: most resident memory in bytes of a simulator's processes; None where the simulator has no process of its
            own.
    """

    benchmark: str
    episodes: int
    no_solution: dict[str, str]
    gold: Reached | None
    chance: Reached | None
    idle: Reached
    memory: int | None

    @property
    def sound(self) -> bool:
        """Whether there are solutions, and all of them solve their episodes."""
        return self.gold is not None and self.gold.success == 1


def _outcome(reached: Reached | None) -> str:
    return f"{100 * reached.success:.0f}% / {100 * reached.progress:.0f}%" if reached else "-"


COLUMNS: dict[str, Callable[[GoldCheck], str]] = {
    "benchmark": lambda check: check.benchmark,
    "episodes": lambda check: str(check.episodes),
    "solvable": lambda check: str(check.episodes - len(check.no_solution)),
    "gold success": lambda check: f"{100 * check.gold.success:.0f}%" if check.gold else "-",
    "gold steps": lambda check: f"{check.gold.steps:.1f}" if check.gold else "-",
    "chance success / progress": lambda check: _outcome(check.chance),
    "idle success / progress": lambda check: _outcome(check.idle),
    "first start (s)": lambda check: f"{check.idle.start_seconds:.2f}",
    "start (s)": lambda check: f"{(check.chance or check.gold or check.idle).start_seconds:.2f}",
    "step (s)": lambda check: f"{(check.gold or check.chance or check.idle).step_seconds:.4f}",
    "memory (MB)": lambda check: f"{check.memory / 1e6:.0f}" if check.memory else "-",
}
"""The table's columns, each with its cell for a benchmark."""


def check_benchmark(benchmark: Benchmark, episodes: Sequence[EpisodeSpec], *, max_steps: int, seed: int) -> GoldCheck:
    """Play episodes with the reference policies, one at a time.

    Args:
        benchmark: whose episodes are played.
        episodes: at least one.
        max_steps: of chance and the idle policy; a solution is played to its end.
        seed: of chance.
    """
    idle = _reached(IdlePolicy(), benchmark, episodes, max_steps)
    solutions: dict[str, list[str]] = {}
    no_solution: dict[str, str] = {}
    for episode in episodes:
        try:
            solutions[episode.id] = benchmark.gold(episode)
        except NoSolutionError as error:
            no_solution[episode.id] = str(error)
    gold = chance = None
    if solutions:
        solvable = [episode for episode in episodes if episode.id in solutions]
        gold = _reached(GoldPolicy(solutions), benchmark, solvable, max(map(len, solutions.values())))
    with suppress(UnlistedActionsError):
        chance = _reached(ChancePolicy(seed), benchmark, episodes, max_steps)
    return GoldCheck(
        benchmark=benchmark.name,
        episodes=len(episodes),
        no_solution=no_solution,
        gold=gold,
        chance=chance,
        idle=idle,
        memory=benchmark.workers.peak_memory() if isinstance(benchmark, SimulatorBenchmark) else None,
    )


def _reached(policy: Policy, benchmark: Benchmark, episodes: Sequence[EpisodeSpec], max_steps: int) -> Reached:
    times: Times = {}
    played = list(play(policy, benchmark, episodes, max_steps=max_steps, batch_size=1, times=times))
    steps = [step for episode in played for step in episode.steps]
    return Reached(
        episodes=len(played),
        success=mean(episode.success for episode in played),
        progress=mean(episode.progress for episode in played),
        valid=sum(step.valid for step in steps) / max(1, len(steps)),
        steps=len(steps) / len(played),
        start_seconds=mean(found.before for found in times.values()),
        step_seconds=sum(turn.step for found in times.values() for turn in found.turns) / max(1, len(steps)),
        unsolved={e.id: f"{e.stop}: {e.error}" if e.error else e.stop for e in played if not e.success},
    )


def gold_check(benchmarks: Sequence[str], count: int, simulator_count: int, max_steps: int, out: Path | None) -> bool:
    """Check the benchmarks, print the table and the exceptions, write the JSON. Whether all solutions work.

    Args:
        benchmarks: their names; none: all that are installed.
        count: episodes of a benchmark.
        simulator_count: episodes of one with a simulator.
        max_steps: of chance and the idle policy.
        out: a file for the JSON.

    Raises:
        UserError: an unknown benchmark, one of those that were named is not installed, or a file that cannot be used.
    """
    for name in benchmarks:
        if name in RENAMED:
            message = f"gold-check: the benchmark {name} is now called {RENAMED[name]}; write that."
            raise UserError("old_name", message, key="benchmark", name=name, new=RENAMED[name])
        if name not in BENCHMARKS:
            raise unknown_name("gold-check", "benchmark", name, BENCHMARKS, key="benchmark")
    params = load_params()
    wanted = params.evaluation.model_copy(update={"benchmarks": list(benchmarks) or INSTALLED})
    found = selected(wanted).values()
    checks: list[GoldCheck] = []
    print(_table_row(COLUMNS), _table_row(["---", *["--:"] * (len(COLUMNS) - 1)]), sep="\n")
    for benchmark in found:
        if isinstance(benchmark, NotInstalledError):
            continue
        number = simulator_count if isinstance(benchmark, SimulatorBenchmark) else count
        episodes = benchmark.episodes(number, params.seed)
        checks.append(check_benchmark(benchmark, episodes, max_steps=max_steps, seed=params.seed))
        print(_table_row(cell(checks[-1]) for cell in COLUMNS.values()), flush=True)
    for check in checks:
        for episode, reason in check.no_solution.items():
            print(f"no solution: {episode}: {reason}")
        for episode, ending in check.gold.unsolved.items() if check.gold else ():
            print(f"FAILED: the solution of {episode} does not solve it ({ending})")
        if check.gold is None:
            print(f"FAILED: {check.benchmark} has no solution of any episode")
    for missing in found:
        if isinstance(missing, NotInstalledError):
            print(f"not played: {missing}")
    if out:
        write_json(out, [check.model_dump() for check in checks])
    return all(check.sound for check in checks)


def _table_row(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |"
