"""Evaluating one model as tasks, one per benchmark."""

import json
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Any, TypedDict, cast

from prefect import get_run_logger, task
from prefect.artifacts import create_table_artifact

from agentrefine.benchmarks.agentboard.benchmark import AGENTBOARD, STEPS
from agentrefine.benchmarks.alfworld.benchmark import alfworld_folder
from agentrefine.benchmarks.base import UnlistedActionsError
from agentrefine.benchmarks.catalogue import benchmark, selected
from agentrefine.benchmarks.simulators import SimulatorBenchmark, episodes_at_once
from agentrefine.errors import UserError
from agentrefine.evaluation.episodes import Episode, EpisodeJournal, count_replies
from agentrefine.evaluation.metrics import summarise, write_summaries
from agentrefine.evaluation.policy import Policy
from agentrefine.evaluation.reference import ChancePolicy, TimedBenchmark
from agentrefine.evaluation.rollout import play
from agentrefine.files import short_hash, write_json, write_jsonl
from agentrefine.llm.completion import Usage
from agentrefine.llm.spending import dollars, load_prices
from agentrefine.params import Params
from agentrefine.params.evaluation import CHANCE, BenchmarkData, Endpoint, EvaluationParams, Prompting, Sampling
from agentrefine.params.tuning import BASE
from agentrefine.report.document import episodes_to_read
from agentrefine.report.figures import curves, flat_metrics
from agentrefine.report.inputs import BenchmarksPlayed, Project, model_summary, notable_episodes, seconds_per_episode
from agentrefine.report.tables import percent
from tasks import traces, tracking
from tasks.caching import source_digest
from tasks.progress import artifact_key, progress
from tasks.simulators import simulators

VERSION = "2"
JOURNAL = Path("data/journal/episodes")
MODELS = Path("models")


class Rules(TypedDict):
    """The settings of `evaluation` that decide how a benchmark is played, and only those: they name the journal."""

    data: dict[str, str | None]
    episodes: int
    simulator_episodes: int
    attempts: int
    max_steps: int
    stop_on_repeats: int | None
    prompting: dict[str, Any]
    sampling: dict[str, Any]
    max_new_tokens: int
    batch_size: int
    simulators: dict[str, str | None]


class Played(TypedDict):
    """What one model did on one benchmark: episodes as JSON, the seconds that all of them took, and their cost.

    The cost is in US dollars; 0 for local weights and where no price is known. `unlisted` says why chance cannot play
    it: the simulator does not list the possible actions. Else it is empty.
    """

    episodes: list[str]
    seconds: float
    cost: float
    unlisted: str


def evaluate_model(model: str, params: Params) -> None:
    """Let a model play the benchmarks of `evaluation.benchmarks`, write its episodes and metrics, and log them.

    Benchmarks that are not installed are left out, each with one sentence, unless params.yaml names them.

    Args:
        model: `chance`, `base`, a tuned variant or the name of an endpoint.
        params: sections `seed`, `evaluation` and `tracking` are used.

    Raises:
        UserError: an unknown or missing model, an unknown or missing benchmark, an endpoint that refuses.
    """
    digest = model_identity(model, params)
    out = Project().evaluation(model)
    rules = _rules(params.evaluation)
    chosen = selected(params.evaluation)
    present = {name: found for name, found in chosen.items() if not isinstance(found, UserError)}
    absent = {name: found for name, found in chosen.items() if isinstance(found, UserError)}
    for reason in absent.values():
        get_run_logger().info("Not played: %s", reason)
    endpoint = params.evaluation.endpoints.get(model)
    tried: dict[str, Played] = {}
    for name in present:
        spent = sum(result["cost"] for result in tried.values())
        tried[name] = play_benchmark(model, digest, name, params.seed, rules, endpoint, spent)
    played = {name: result for name, result in tried.items() if not result["unlisted"]}
    episodes = [Episode.model_validate_json(line) for result in played.values() for line in result["episodes"]]
    write_jsonl(out / "episodes.jsonl", episodes)
    notes = BenchmarksPlayed(
        progress={name: present[name].progress_definition for name in played},
        absent={
            **{name: str(reason) for name, reason in absent.items()},
            **{name: f"{model} on {name}: {t['unlisted']}." for name, t in tried.items() if t["unlisted"]},
        },
        agentboard=[name for name in played if isinstance(present[name], AGENTBOARD)],
    )
    write_json(out / "benchmarks.json", notes.model_dump())
    summaries = summarise(episodes)
    write_summaries(out, summaries)
    write_json(out / "timing.json", {name: round(result["seconds"], 1) for name, result in played.items()})
    create_table_artifact(
        key=artifact_key("evaluation", model),
        description=f"{model} on the held-out benchmarks, in percent with 95% intervals",
        table=[
            {"benchmark": name, "success": percent(summary.success_rate), "progress": percent(summary.progress_rate)}
            for name, summary in summaries.items()
        ],
    )
    log_results(model, tracking.run_for(model, digest, params.tracking), params)


def log_results(model: str, run_id: str, params: Params) -> None:
    """Log a model's evaluation from its files.

    Raises:
        UserError: a file is missing, or a tracking store that cannot be used.
    """
    project = Project()
    summaries = model_summary(project, model)
    seconds = seconds_per_episode(project, model)
    notable = notable_episodes(project.episodes(model))
    tracking.log_evaluation(
        run_id,
        params,
        metrics={
            **flat_metrics(summaries),
            **{f"{benchmark}/seconds_per_episode": value for benchmark, value in seconds.items()},
        },
        curves=curves(summaries),
        folder=project.evaluation(model),
        sample=episodes_to_read(model, notable),
    )
    traces.log_traces(run_id, notable, params.tracking)


@task(name="evaluation", version=VERSION, task_run_name="{model}-{name}")
def play_benchmark(
    model: str, digest: str, name: str, seed: int, rules: Rules, endpoint: Endpoint | None, spent: float = 0.0
) -> Played:
    """Play one benchmark. What a model with the same digest has played under the same settings is not played again.

    Chance plays one episode after the other, since it asks each environment what is possible.

    An evaluation that was stopped goes on after its last finished episode; episodes that a simulator failed in are
    played again.
    """
    bench = benchmark(name, BenchmarkData(**rules["data"]))
    simulated = isinstance(bench, SimulatorBenchmark)
    drawn = bench.episodes(rules["simulator_episodes" if simulated else "episodes"], seed)
    specs = [spec.model_copy(update={"attempt": attempt}) for attempt in range(rules["attempts"]) for spec in drawn]
    logger = get_run_logger()
    key = short_hash(source_digest(), digest, name, str(seed), json.dumps(rules, sort_keys=True))
    prompting = Prompting(**rules["prompting"])
    timed = TimedBenchmark(bench)
    chance = ChancePolicy(timed, seed, prompting.style) if model == CHANCE else None
    try:
        with (
            EpisodeJournal(JOURNAL / f"{model}.{name}.{key}.jsonl") as journal,
            progress(f"{model} {name}", len(specs), "episode") as bar,
            closing(
                chance or _policy(model, seed, rules, endpoint, spent + _cost(endpoint, model, journal.episodes))
            ) as policy,
        ):
            known = journal.finished()
            if known:
                logger.info("%s on %s: %d of %d episodes were played before", model, name, len(known), len(specs))
                bar.reach(len(known))
            for episode in play(
                policy,
                timed if chance else bench,
                [spec for spec in specs if (spec.id, spec.attempt) not in known],
                max_steps=STEPS if isinstance(bench, AGENTBOARD) else rules["max_steps"],
                batch_size=1 if chance else episodes_at_once(bench, rules["batch_size"]),
                stop_on_repeats=rules["stop_on_repeats"],
                prompting=prompting,
                model_digest=digest,
            ):
                journal.add(episode)
                known[episode.id, episode.attempt] = episode
                bar.advance()
                bar.publish()
    except UnlistedActionsError as error:
        logger.info("Not played: %s on %s: %s", model, name, error)
        return Played(episodes=[], seconds=0.0, cost=0.0, unlisted=str(error))
    logger.info("%s on %s: %d episodes in %.0f s, earlier runs included", model, name, len(specs), journal.seconds)
    episodes = [known[spec.id, spec.attempt] for spec in specs]
    _tell_of_trouble(model, episodes, _limit(rules, endpoint))
    cost = _cost(endpoint, model, episodes)
    if cost:
        logger.info("%s on %s: %s for %d episodes", model, name, dollars(cost), len(episodes))
    return Played(episodes=[e.model_dump_json() for e in episodes], seconds=journal.seconds, cost=cost, unlisted="")


def _limit(rules: Rules, endpoint: Endpoint | None) -> int:
    """Most tokens of one reply."""
    return (endpoint and endpoint.max_new_tokens) or rules["max_new_tokens"]


def _cost(endpoint: Endpoint | None, model: str, episodes: Sequence[Episode]) -> float:
    """What an endpoint's replies in episodes cost in US dollars; 0 where no price is known."""
    if endpoint is None:
        return 0.0
    section = f"evaluation.endpoints.{model}"
    price = load_prices(endpoint.prices, section).known(endpoint.model, endpoint.max_cost, section)
    used = [Usage(prompt_tokens=e.prompt_tokens, completion_tokens=e.completion_tokens) for e in episodes]
    return sum(map(price.cost, used)) if price else 0.0


def _tell_of_trouble(model: str, episodes: Sequence[Episode], max_new_tokens: int) -> None:
    """Say which episodes say less of the model than they seem to: cut replies or histories, a simulator that died."""
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


def _rules(params: EvaluationParams) -> Rules:
    wanted = set(Rules.__annotations__)
    rules = cast("Rules", params.model_dump(mode="json", include=wanted))
    # ALFWorld's own variable counts as named here, so that another folder is another evaluation.
    rules["data"]["alfworld"] = alfworld_folder(params.data)
    rules["simulators"] = simulators(params.data)
    return rules


def _policy(model: str, seed: int, rules: Rules, endpoint: Endpoint | None, spent: float) -> Policy:
    """The policy of a model: local weights, or an endpoint, whose calls have cost so many US dollars so far."""
    sampling = Sampling(**rules["sampling"])
    if endpoint is not None:
        from agentrefine.evaluation.endpoint import EndpointPolicy

        return EndpointPolicy(
            endpoint,
            name=model,
            max_new_tokens=_limit(rules, endpoint),
            concurrency=rules["batch_size"],
            sampling=sampling,
            seed=seed,
            journal=JOURNAL / "replies.sqlite",
            spent=spent,
        )
    from agentrefine.evaluation.local import LocalPolicy  # imports torch and transformers
    from agentrefine.tuning.models import load_tuned

    loaded = load_tuned(MODELS / model)
    return LocalPolicy(
        loaded.model,
        loaded.tokenizer,
        name=model,
        max_new_tokens=rules["max_new_tokens"],
        sampling=sampling,
        seed=seed,
    )


def model_identity(model: str, params: Params) -> str:
    """What identifies the model: a digest of weights, all that changes an endpoint's replies, the rule of chance.

    Raises:
        UserError: params.yaml does not name it, or its weights are missing.
    """
    evaluation = params.evaluation
    if model in evaluation.references:
        return ChancePolicy.digest(params.seed)
    if model in evaluation.endpoints:
        endpoint = evaluation.endpoints[model]
        own = endpoint.model_dump(include={"extra_body", "max_new_tokens"}, exclude_defaults=True)
        extra = [json.dumps(own, sort_keys=True)] if own else []
        return short_hash("endpoint", endpoint.base_url, endpoint.model, *extra)
    if model not in evaluation.models:
        raise UserError(f"evaluation.models in params.yaml does not name {model!r}; add it there.")
    if not (MODELS / model).is_dir():
        stage = "base_model" if model == BASE else f"tuning@{model}"
        raise UserError(f"{MODELS / model}: there is no such model; run the stage {stage}, which writes it.")
    from agentrefine.tuning.models import model_digest

    return model_digest(MODELS / model)
