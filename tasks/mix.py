"""Mixing games and general chat as a task."""

from pathlib import Path

from prefect import get_run_logger, task

from agentrefine.errors import not_named
from agentrefine.exchange.mix import mix
from agentrefine.params import Params

MIXES = Path("data/mix")


@task(name="mix", task_run_name="mix-{name}")
def mix_data_set(name: str, params: Params) -> None:
    """Write the mixed data set `name` to `data/mix/<name>/`.

    Raises:
        UserError: a name that params.yaml does not know, a missing or broken file, too few chats.
    """
    if name not in params.mix:
        raise not_named("mix", name, "add it, with its data set, chat file and share")
    chosen = params.mix[name]
    counts = mix(Path(chosen.data_set), Path(chosen.chat), chosen.share, params.seed, MIXES / name, chosen.ignore_keys)
    logger = get_run_logger()
    logger.info(
        "%s: %d games and %d of %d chats, which are %.1f%% of the training samples",
        name, counts.games, counts.chats, counts.chats_available, 100 * counts.chat_share,
    )  # fmt: skip
    for kind, counted in (("chats", counts.chats_left_out), ("parts of chats", counts.parts_left_out)):
        for reason, count in counted.items():
            logger.info("%s: %d %s left out (%s)", name, count, kind, reason)
