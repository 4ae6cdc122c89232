"""On-policy data as a task: a tuned model plays training worlds, an expert corrects it, the gate judges the games."""

import dataclasses
from contextlib import closing
from itertools import islice
from pathlib import Path

from prefect import get_run_logger, task

from agentrefine.errors import UserError, not_named
from agentrefine.game.corrected import CorrectedGame
from agentrefine.on_policy.coaching import Coaching
from agentrefine.on_policy.collect import corrected_games, training_worlds
from agentrefine.on_policy.data_set import write_corrected
from agentrefine.params import Params
from agentrefine.params.evaluation import Sampling
from agentrefine.quality.corrected import CorrectedFeatures, corrected_features
from agentrefine.quality.data_set import DATA_SET, remove_data_set
from tasks.expectations import Scope, feature_table, judge
from tasks.tracking.progress import progress

MODELS = Path("models")
OUT = Path("data/on_policy")
REPORTS = Path("reports/on_policy")


@task(name="on_policy", task_run_name="on_policy-{name}")
def write_on_policy(name: str, params: Params) -> None:
    """Write the data set `name` to `data/on_policy/<name>/`, and what the gate found to `reports/on_policy/<name>/`.

    Raises:
        UserError: a name that params.yaml does not know, a model that is not there, or games that the gate refuses.
    """
    if name not in params.on_policy:
        raise not_named("on_policy", name, "add it, with the variant that plays")
    chosen = params.on_policy[name]
    folder = MODELS / chosen.model
    if not folder.is_dir():
        message = f"{folder}: there is no such model; run the stage tuning@{chosen.model}, which writes it."
        raise UserError("stage_not_run", message, file=folder, stage=f"tuning@{chosen.model}")
    remove_data_set(OUT / name)  # of other games: nothing is tuned on it if the gate refuses these
    kept, given_up = _play(name, folder, params)
    _judge(kept, given_up, name, params)
    counts = write_corrected(
        kept,
        chosen,
        DATA_SET,
        Path(params.tuning.variants[chosen.model].data_set),
        OUT / name,
        played=chosen.worlds,
        given_up=given_up,
        validation_share=params.quality_gate.validation_share,
        seed=params.seed,
    )
    get_run_logger().info(
        "%s: %d of %d games hold mistakes of %s, %d of them answered by a correction at once; %d samples to train on",
        name, counts.games, counts.played, chosen.model, counts.corrections, counts.train,
    )  # fmt: skip


def _play(name: str, folder: Path, params: Params) -> tuple[list[CorrectedGame], int]:
    """The games in which the model made a mistake, and how many were given up."""
    from agentrefine.evaluation.local import LocalPolicy  # imports torch and transformers
    from agentrefine.tuning.models import load_tuned, model_digest

    chosen, evaluation = params.on_policy[name], params.evaluation
    loaded = load_tuned(folder)
    policy = LocalPolicy(
        loaded.model,
        loaded.tokenizer,
        name=chosen.model,
        max_new_tokens=evaluation.max_new_tokens,
        sampling=Sampling(temperature=chosen.temperature),
        seed=params.seed,
    )
    rules = Coaching(chosen.model_turns, chosen.errors_in_a_row, chosen.stalled_turns, chosen.max_turns)
    worlds = list(islice(training_worlds(name, params.seed), chosen.worlds))
    kept: list[CorrectedGame] = []
    given_up = 0
    with closing(policy), progress(f"on_policy {name}", len(worlds), "game") as bar:
        for game in corrected_games(
            policy, worlds, rules, seed=params.seed, batch_size=evaluation.batch_size, model_digest=model_digest(folder)
        ):
            bar.advance()
            given_up += game is None
            if game is not None and any(turn.fault for turn in game.turns):
                kept.append(game)
    return kept, given_up


def _judge(games: list[CorrectedGame], given_up: int, name: str, params: Params) -> None:
    """Let the gate judge the games; raises `UserError` if a critical expectation is not met."""
    gate, reports = params.quality_gate, REPORTS / name
    features = corrected_features(
        games, played=params.on_policy[name].worlds, given_up=given_up, similarity=gate.near_duplicate_similarity
    )
    scope = Scope("on_policy", feature_table(CorrectedFeatures, [features]), gate.thresholds.on_policy, {})
    judge(
        [scope],
        reports,
        data_set=dataclasses.asdict(features),
        overlap={},
        refusal=f"on_policy.{name}: the quality gate refused the games of {params.on_policy[name].model}, and no data "
        f"set was written; change quality_gate.thresholds.on_policy or the settings of on_policy.{name} in params.yaml",
        key=f"on_policy.{name}",
    )
