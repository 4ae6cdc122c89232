"""What the three evaluations have in common as Prefect runs: the benchmarks in turn, progress, warnings, MLflow."""

from collections.abc import Callable, Sequence
from contextlib import closing
from pathlib import Path
from typing import NamedTuple

from prefect import get_run_logger, task
from prefect.artifacts import create_table_artifact
from prefect.cache_policies import NO_CACHE

from agentrefine.benchmarks.base import Benchmark, UnlistedActionsError
from agentrefine.benchmarks.catalogue import selected
from agentrefine.errors import UserError
from agentrefine.evaluation.episodes import Episode, EpisodeJournal, count_replies
from agentrefine.evaluation.evaluate import Rules, Seat, benchmarks_played, in_order, journal_file, play_benchmark
from agentrefine.evaluation.metrics.summary import write_results
from agentrefine.llm.spending import dollars
from agentrefine.params import Params
from agentrefine.report.inputs import Project
from agentrefine.report.tables import percent
from tasks import tracking
from tasks.progress import artifact_key, progress
from tasks.runs import log_evaluation_of
from tasks.simulators import simulators

JOURNAL = Path("data/journal/episodes")


class Player(NamedTuple):
    """Who is evaluated.

    Attributes:
        model: its name in params.yaml.
        digest: what identifies it: a digest of weights, all that changes an endpoint's replies, the rule of chance.
        source: digest of the code that decides how it plays (`agentrefine.sources`).
        take_seat: opens its policy for a benchmark by the rules; the last argument is what its replies have cost.
        cost: what its replies in some episodes cost, in US dollars; 0 for local weights and where no price is known.
        max_new_tokens: most tokens of one reply.
    """

    model: str
    digest: str
    source: str
    take_seat: Callable[[Benchmark, Rules, float], Seat]
    cost: Callable[[Sequence[Episode]], float]
    max_new_tokens: int


class Played(NamedTuple):
    """What a model did on one benchmark: its episodes, and the seconds that all of them took.

    `unlisted` says why chance cannot play it: the simulator does not list the possible actions. Else it is empty.
    """

    episodes: list[Episode]
    seconds: float
    unlisted: str = ""


def free(_episodes: Sequence[Episode]) -> float:
    """The cost of replies that nobody charges for."""
    return 0.0


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
    rules = Rules.of(params.evaluation, simulators(params.evaluation.data))
    tried: dict[str, Played] = {}
    for name, benchmark in present.items():
        spent = sum(player.cost(result.episodes) for result in tried.values())
        tried[name] = play_one(player, name, benchmark, params.seed, rules, spent)
    played = {name: result for name, result in tried.items() if not result.unlisted}
    unlisted = {name: f"{player.model} on {name}: {t.unlisted}." for name, t in tried.items() if t.unlisted}
    summaries = write_results(
        Project().evaluation(player.model),
        [episode for result in played.values() for episode in result.episodes],
        benchmarks_played({name: present[name] for name in played}, absent | unlisted),
        {name: result.seconds for name, result in played.items()},
    )
    create_table_artifact(
        key=artifact_key("evaluation", player.model),
        description=f"{player.model} on the held-out benchmarks, in percent with 95% intervals",
        table=[
            {"benchmark": name, "success": percent(summary.success_rate), "progress": percent(summary.progress_rate)}
            for name, summary in summaries.root.items()
        ],
    )
    log_evaluation_of(player.model, tracking.run_for(player.model, player.digest, params.tracking), params)


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
            closing(player.take_seat(benchmark, rules, spent + player.cost(journal.episodes))) as seat,
        ):
            known = len(journal.finished())
            if known:
                logger.info("%s on %s: %d of %d episodes were played before", model, name, known, len(specs))
                bar.reach(known)
            for _ in play_benchmark(benchmark, seat, journal, rules, seed, player.digest):
                bar.advance()
                bar.publish()
    except UnlistedActionsError as error:
        logger.info("Not played: %s on %s: %s", model, name, error)
        return Played([], 0.0, str(error))
    logger.info("%s on %s: %d episodes in %.0f s, earlier runs included", model, name, len(specs), journal.seconds)
    episodes = in_order(specs, journal)
    _warn_of_trouble(model, episodes, player.max_new_tokens)
    if cost := player.cost(episodes):
        logger.info("%s on %s: %s for %d episodes", model, name, dollars(cost), len(episodes))
    return Played(episodes, journal.seconds)


def _warn_of_trouble(model: str, episodes: Sequence[Episode], max_new_tokens: int) -> None:
    """Name episodes that say less of the model than they seem to: cut replies or histories, a simulator that died."""
    logger = get_run_logger()
    counts = count_replies(episodes)
    if counts.empty or counts.cut:
        logger.warning(
            "%s on %s: of %d replies %d were cut at max_new_tokens (%d) and %d were empty, thoughts apart; "
            "each without an action is a format error. Raise the limit, or turn thinking down (docs/teacher.md)",
            model, episodes[0].benchmark, counts.replies, counts.cut, max_new_tokens, counts.empty,
        )  # fmt: skip
    full = sum(episode.stop == "context full" for episode in episodes)
    if full:
        logger.warning(
            "%s on %s: %d of %d episodes ended because not even their opening fits into the model's context",
            model, episodes[0].benchmark, full, len(episodes),
        )  # fmt: skip
    cut = [max(step.turns_cut for step in episode.steps) for episode in episodes if episode.steps]
    if any(cut):
        logger.warning(
            "%s on %s: the context was full in %d of %d episodes; the oldest turns, up to %d, were left out",
            model, episodes[0].benchmark, sum(turns > 0 for turns in cut), len(episodes), max(cut),
        )  # fmt: skip
    for episode in episodes:
        if episode.restarts:
            ended = f"failed again: {episode.error}" if episode.error else "was played to its end"
            logger.warning("%s: the simulator died; begun again, the episode %s", episode.id, ended)
