"""Many corrected games at once: the model answers all games that wait for it in one batch."""

from collections.abc import Iterator, Sequence
from itertools import cycle
from random import Random

from agentrefine.evaluation.policy import Dialogue, Policy
from agentrefine.files import short_hash
from agentrefine.game.corrected import CorrectedGame
from agentrefine.llm.thinking import without_thinking
from agentrefine.on_policy.coaching import CoachedGame, Coaching
from agentrefine.worlds import catalogue
from agentrefine.worlds.layout import EVALUATION_SEEDS, world_from_id


def training_worlds(name: str, seed: int) -> Iterator[str]:
    """Ids of worlds of the families and themes that are trained on, a family in turn, each once, without end.

    No evaluation plays them: their layouts have seeds below `EVALUATION_SEEDS`.

    Args:
        name: of the data set; another one plays other worlds.
        seed: of the run.
    """
    rng = Random(int(short_hash("on_policy", name, str(seed)), 16))
    themes = catalogue.themes("train")
    seen: set[str] = set()
    for family in cycle(catalogue.families("train")):
        world = f"{family.name}.{rng.choice(themes).name}.{rng.randrange(EVALUATION_SEEDS)}"
        if world not in seen:
            seen.add(world)
            yield world


def corrected_games(
    policy: Policy, worlds: Sequence[str], rules: Coaching, *, seed: int, batch_size: int, model_digest: str
) -> Iterator[CorrectedGame | None]:
    """Play worlds, at most `batch_size` at once; yields each game that is won, and None for one that is given up.

    The games come in the order of finishing, which is the same for the same replies.

    Args:
        policy: the model; it is asked for a whole batch at once.
        worlds: ids of worlds.
        rules: when the expert acts, and what counts as a fault.
        seed: draws the phrasings of the expert's thoughts.
        model_digest: what identifies the model's weights, for the record.
    """
    waiting = iter(worlds)
    playing: list[CoachedGame] = []
    while True:
        for _, world in zip(range(batch_size - len(playing)), waiting, strict=False):
            playing.append(CoachedGame(world_from_id(world), rules, seed))
        if not playing:
            return
        for game in playing:
            while game.expert_is_due and not game.over:
                game.take_correction()
        asked = [game for game in playing if not game.over]
        replies = policy.act([Dialogue(game.world.id, game.messages) for game in asked]) if asked else []
        for game, reply in zip(asked, replies, strict=True):
            if reply.context_full:
                game.over = True
            else:
                game.take_reply(without_thinking(reply.text))
        for game in [game for game in playing if game.over]:
            policy.forget([game.world.id])
            playing.remove(game)
            yield game.record(policy.name, model_digest) if game.won else None
