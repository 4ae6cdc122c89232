"""The data set of corrected games: samples in the published form, split by world, injected games among them."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from random import Random

from agentrefine.errors import UserError
from agentrefine.files import atomic_folder, read_jsonl, write_json, write_jsonl
from agentrefine.game.conversation import Sample
from agentrefine.game.corrected import CorrectedGame, corrected_sample, is_trained
from agentrefine.game.counts import OnPolicyCounts
from agentrefine.params.on_policy import OnPolicy
from agentrefine.quality.data_set import validation_personas


def write_corrected(
    games: Sequence[CorrectedGame],
    params: OnPolicy,
    injected_set: Path,
    earlier_set: Path,
    out: Path,
    *,
    played: int,
    given_up: int,
    validation_share: float,
    seed: int,
) -> OnPolicyCounts:
    """Write games.jsonl, train.jsonl, validation.jsonl and metrics.json; the folder is replaced as a whole.

    Samples of other data sets stand among the corrected games at random places. A validation sample is always a
    corrected game.

    Args:
        games: that are kept.
        params: which turns are trained, and how many injected games are drawn.
        injected_set: the data set that they are drawn from.
        earlier_set: the data set that the model was tuned on, for `accumulate`.
        out: the folder.
        played, given_up: how many worlds were played, and how many of them were given up.
        validation_share: of the games; a world is on one side.
        seed: draws the injected games, the order and the split.

    Raises:
        UserError: samples of another data set are missing or too few; nothing is written.
    """
    validating = validation_personas((game.world for game in games), validation_share, seed)
    samples = [corrected_sample(game, params.train_own) for game in games]
    train = [sample for sample in samples if sample.persona_id not in validating]
    injected = _injected(injected_set, params.injected_share, len(train), seed)
    earlier = list(read_jsonl(earlier_set / "train.jsonl", Sample)) if params.accumulate else []
    validation = [sample for sample in samples if sample.persona_id in validating]
    mixed = [*train, *injected, *earlier]
    if len(mixed) > len(train):
        Random(seed).shuffle(mixed)
    turns = [turn for game in games for turn in game.turns]
    counts = OnPolicyCounts(
        played=played,
        given_up=given_up,
        faultless=played - given_up - len(games),
        games=len(games),
        turns=len(turns),
        faults=dict(sorted(Counter(turn.fault for turn in turns if turn.fault).items())),
        corrections=sum(1 for game in games for _ in game.corrections()),
        own_turns_trained=sum(turn.by == "model" and is_trained(turn, params.train_own) for turn in turns),
        injected=len(injected),
        earlier=len(earlier),
        train=len(mixed),
        validation=len(validation),
    )
    with atomic_folder(out) as folder:
        write_jsonl(folder / "games.jsonl", games)
        write_jsonl(folder / "train.jsonl", mixed)
        write_jsonl(folder / "validation.jsonl", validation)
        write_json(folder / "metrics.json", counts.model_dump())
    return counts


def _injected(data_set: Path, share: float, own: int, seed: int) -> list[Sample]:
    """So many of another data set's training samples that they are `share` of all, beside `own` corrected games."""
    if not share:
        return []
    file = data_set / "train.jsonl"
    available = list(read_jsonl(file, Sample))
    wanted = max(1, round(own * share / (1 - share)))
    if len(available) < wanted:
        message = (
            f"{file}: holds {len(available)} samples, and a share of {share:g} beside {own} corrected games needs "
            f"{wanted}; lower injected_share, or play fewer worlds."
        )
        raise UserError("too_few_samples", message, file=file, found=len(available), expected=wanted)
    return Random(seed).sample(available, wanted)
