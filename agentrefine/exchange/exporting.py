"""A data set in another tool's format: its two files and the settings that name them."""

import json
from pathlib import Path
from typing import NamedTuple

from agentrefine.conversation import Sample
from agentrefine.errors import UserError
from agentrefine.exchange.command import new_folder
from agentrefine.exchange.formats import Format
from agentrefine.files import read_jsonl
from agentrefine.params.tuning import Loss
from agentrefine.tuning.masking import apply_loss

SPLITS = ("train", "validation")


class Written(NamedTuple):
    """What became of a split.

    Attributes:
        read: its samples.
        records: written for the other tool.
        trained_turns: the turns that they train together.
    """

    read: int
    records: int
    trained_turns: int


def export(format_: Format, data_set: Path, out: Path, loss: Loss) -> dict[str, Written]:
    """Write `train.jsonl` and `validation.jsonl` of a data set, and the tool's settings, to the new folder `out`.

    Samples that train nothing are left out, and so is a split without records.

    Raises:
        UserError: a broken data set, one that trains nothing, or a folder that cannot be written.
    """
    with new_folder(out) as folder:
        written = {split: _export_split(format_, data_set, folder, split, loss) for split in SPLITS}
        files = files_with_records(folder, data_set, written, "jsonl")
        for name, text in format_.settings(out, files).items():
            (folder / name).write_text(text, encoding="utf-8")
    return written


def _export_split(format_: Format, data_set: Path, folder: Path, split: str, loss: Loss) -> Written:
    read = records = turns = 0
    with (folder / f"{split}.jsonl").open("w", encoding="utf-8") as handle:
        for sample in read_jsonl(data_set / f"{split}.jsonl", Sample):
            read += 1
            messages = apply_loss(sample.messages(), loss)
            trained = sum(bool(m.loss) for m in messages)
            if trained:
                turns += trained
                for record in format_.records(sample, messages):
                    handle.write(json.dumps(record, ensure_ascii=False) + "\n")
                    records += 1
    return Written(read, records, turns)


def files_with_records(folder: Path, data_set: Path, written: dict[str, Written], suffix: str) -> list[str]:
    """The names of the splits' files; a split without records has none, as most loaders refuse an empty file."""
    if not written["train"].records:
        raise UserError(f"{data_set / 'train.jsonl'}: holds no sample with a trained turn; nothing is written.")
    for split in SPLITS:
        if not written[split].records:
            (folder / f"{split}.{suffix}").unlink()
    return [f"{split}.{suffix}" for split in SPLITS if written[split].records]
