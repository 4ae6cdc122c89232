"""The data set: training samples in the published form, split by persona."""

from collections.abc import Iterable
from contextlib import ExitStack
from pathlib import Path

from agentrefine.files import atomic_write, short_hash
from agentrefine.game.sample import sample
from agentrefine.game.trajectory import Trajectory

DATA_SET = Path("data/dataset")
"""The folder of the default data set."""

SPLITS = ("train", "validation")


def validation_personas(persona_ids: Iterable[str], share: float, seed: int) -> frozenset[str]:
    """The personas whose games validate: all games of a persona are on one side.

    Personas are ordered by a hash of seed and id, and the first `share` of them are taken: at least one, and never all.
    A single persona is trained on.
    """
    ordered = sorted(set(persona_ids), key=lambda persona_id: short_hash("validation", str(seed), persona_id))
    wanted = max(1, round(share * len(ordered)))
    return frozenset(ordered[: min(wanted, len(ordered) - 1)]) if ordered else frozenset()


def write_data_set(trajectories: Iterable[Trajectory], validation: frozenset[str], out: Path) -> dict[str, int]:
    """Write `train.jsonl` and `validation.jsonl`, streamed; both appear or neither.

    Args:
        trajectories: in the order in which the samples are written.
        validation: the personas whose games validate.
        out: the folder.

    Returns:
        The number of samples of each file.

    Raises:
        UserError: the disk is full or the folder cannot be written.
    """
    counts = dict.fromkeys(SPLITS, 0)
    try:
        with ExitStack() as stack:
            files = {split: stack.enter_context(atomic_write(out / f"{split}.jsonl")) for split in SPLITS}
            for trajectory in trajectories:
                split = "validation" if trajectory.persona_id in validation else "train"
                files[split].write(sample(trajectory).model_dump_json(by_alias=True) + "\n")
                counts[split] += 1
    except BaseException:
        remove_data_set(out)
        raise
    return counts


def remove_data_set(out: Path) -> None:
    """Remove the files of an earlier run, so that nothing is tuned on data that was refused."""
    for split in SPLITS:
        (out / f"{split}.jsonl").unlink(missing_ok=True)
