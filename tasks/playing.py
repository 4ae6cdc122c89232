"""What the three evaluations have in common: the simulators that are there, and the benchmarks played in turn."""

import json
import shutil
import subprocess
from collections.abc import Callable, Iterable, Sequence
from contextlib import closing
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import NamedTuple

from prefect import get_run_logger, task
from prefect.cache_policies import NO_CACHE

from agentrefine.benchmarks.alfworld.benchmark import alfworld_folder
from agentrefine.benchmarks.base import Benchmark, UnlistedActionsError
from agentrefine.benchmarks.catalogue import DATA_FILES, PACKAGES, compared_benchmarks, named, selected
from agentrefine.benchmarks.simulators import episodes_at_once
from agentrefine.errors import UserError
from agentrefine.evaluation.episodes import Episode, EpisodeJournal
from agentrefine.evaluation.evaluate import Rules, benchmarks_played, in_order, journal_file, play_benchmark
from agentrefine.evaluation.metrics.summary import write_evaluation
from agentrefine.evaluation.policy import Policy
from agentrefine.evaluation.times import EpisodeTimes
from agentrefine.files import short_hash, write_text
from agentrefine.params import Params
from agentrefine.params.evaluation import BenchmarkData
from tasks.tracking.contents import log_evaluation
from tasks.tracking.progress import progress, show_episodes, show_rates
from tasks.tracking.runs import live_evaluation

OUT = Path("data/evaluation")
JOURNAL = Path("data/journal/episodes")
SIMULATORS = Path("data/simulators.json")
"""What plays the benchmarks of `evaluation.benchmarks`: DVC runs an evaluation again when it has changed."""
COMPARED_SIMULATORS = Path("data/compared_simulators.json")
"""The same of the benchmarks that the quality gate compares the data with."""


class Player(NamedTuple):
    """Who is evaluated.

    Attributes:
        model: its name in params.yaml.
        digest: what identifies it: a digest of weights, all that changes an endpoint's replies, the rule of chance.
        source: digest of the code that decides how it plays (`agentrefine.sources`).
        open_policy: its policy by the rules; the last argument is what its replies have cost.
        max_new_tokens: most tokens of one reply.
        cost: what its replies in some episodes cost, in US dollars; 0 for local weights and where no price is known.
        one_at_a_time: it plays one episode after the other.
    """

    model: str
    digest: str
    source: str
    open_policy: Callable[[Rules, float], Policy]
    max_new_tokens: int
    cost: Callable[[Sequence[Episode]], float] = lambda _: 0.0
    one_at_a_time: bool = False


class Played(NamedTuple):
    """What a model did on one benchmark: its episodes, the seconds that all of them took, and the times of each.

    `unlisted` says why chance cannot play it: the simulator does not list the possible actions. Else it is empty.
    """

    episodes: list[Episode]
    seconds: float
    times: list[EpisodeTimes]
    unlisted: str = ""


def evaluate(player: Player, params: Params) -> None:
    """Let a model play the benchmarks of `evaluation.benchmarks`, write its episodes and metrics, and log them.

    Benchmarks that are not installed are left out, each with one sentence, unless params.yaml names them.

    Raises:
        UserError: an unknown or missing benchmark, an endpoint that refuses, a full disk.
    """
    found = selected(params.evaluation)
    present = {name: benchmark for name, benchmark in found.items() if not isinstance(benchmark, UserError)}
    absent = {name: str(reason) for name, reason in found.items() if isinstance(reason, UserError)}
    for reason in absent.values():
        get_run_logger().info("Not played: %s", reason)
    with live_evaluation(player.model, player.digest, params) as into:
        tried: dict[str, Played] = {}
        for name, benchmark in present.items():
            rules = Rules.of(params.evaluation, simulators([name], params.evaluation.data))
            spent = sum(player.cost(result.episodes) for result in tried.values())
            tried[name] = play_one(player, name, benchmark, params.seed, rules, spent)
        played = {name: result for name, result in tried.items() if not result.unlisted}
        unlisted = {name: f"{player.model} on {name}: {t.unlisted}." for name, t in tried.items() if t.unlisted}
        summaries = write_evaluation(
            OUT / player.model,
            [episode for result in played.values() for episode in result.episodes],
            benchmarks_played({name: present[name] for name in played}, absent | unlisted),
            {name: result.seconds for name, result in played.items()},
            [times for result in played.values() for times in result.times],
        )
        show_rates(player.model, summaries.root)
        log_evaluation(player.model, into, params)


# Not cached: the journal knows what was played before, episode by episode.
@task(name="evaluation", cache_policy=NO_CACHE, task_run_name="{player.model}-{name}")
def play_one(player: Player, name: str, benchmark: Benchmark, seed: int, rules: Rules, spent: float) -> Played:
    """Play one benchmark. What a model with the same digest has played by the same rules is not played again.

    An evaluation that was stopped resumes after its last finished episode; episodes that a simulator failed in are
    played again.
    """
    logger = get_run_logger()
    model = player.model
    specs = rules.episodes_of(benchmark, seed)
    file = journal_file(JOURNAL, model, name, player.source, player.digest, str(seed), rules.model_dump_json())
    try:
        with (
            EpisodeJournal(file) as journal,
            progress(f"{model} {name}", len(specs), "episode") as bar,
            closing(player.open_policy(rules, spent + player.cost(journal.episodes))) as policy,
        ):
            if known := len(journal.finished()):
                logger.info("%s on %s: %d of %d episodes were played before", model, name, known, len(specs))
                bar.reach(known)
            at_once = 1 if player.one_at_a_time else episodes_at_once(benchmark, rules.batch_size)
            for _ in play_benchmark(benchmark, policy, specs, journal, rules, at_once=at_once, digest=player.digest):
                bar.advance()
    except UnlistedActionsError as error:
        logger.info("Not played: %s on %s: %s", model, name, error)
        return Played([], 0.0, [], str(error))
    logger.info("%s on %s: %d episodes in %.0f s, earlier runs included", model, name, len(specs), journal.seconds)
    episodes = in_order(specs, journal)
    show_episodes(model, name, episodes, player.max_new_tokens, player.cost(episodes))
    return Played(episodes, journal.seconds, list(journal.times.values()))


def record_simulators(params: Params) -> None:
    """Write what `simulators` finds for the benchmarks that are evaluated, and for those that data are compared with.

    Raises:
        UserError: a file cannot be written.
    """
    data = params.evaluation.data
    for file, names in (
        (SIMULATORS, named(params.evaluation.benchmarks)),
        (COMPARED_SIMULATORS, compared_benchmarks(params)),
    ):
        write_text(file, json.dumps(simulators(names, data), indent=2) + "\n")


def simulators(benchmarks: Iterable[str], data: BenchmarkData) -> dict[str, str | None]:
    """What decides how these benchmarks' episodes go, besides the code of this project.

    That is the versions of their packages and of Java, null for what is absent, and fingerprints of the user's files,
    which cover names, sizes and times of change.

    Example: `{"alfworld": "0.4.2", "jericho": None, ..., "data.hotpotqa": "3f2a9c..."}`
    """
    played = list(benchmarks)
    found = {package: _version(package) for package in sorted({p for name in played for p in PACKAGES.get(name, ())})}
    if "scienceworld" in found:
        found["java"] = _java() if found["scienceworld"] else None
    given = {**data.model_dump(), "alfworld": alfworld_folder(data)}
    keys = sorted({key for name in played for key in DATA_FILES.get(name, ()) if given[key]})
    return found | {f"data.{key}": _fingerprint(Path(given[key])) for key in keys}


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _java() -> str | None:
    java = shutil.which("java")
    if java is None:
        return None
    printed = subprocess.run([java, "-version"], capture_output=True, text=True, check=False).stderr
    return printed.partition("\n")[0].strip()


def _fingerprint(path: Path) -> str:
    files = sorted(path.rglob("*")) if path.is_dir() else [path]
    found = [(file.relative_to(path), file.stat()) for file in files if file.is_file()]
    return short_hash(*(f"{name} {status.st_size} {status.st_mtime_ns}" for name, status in found))
