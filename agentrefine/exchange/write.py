"""Writes a data set in another tool's format: agentrefine export axolotl data/dataset exported

docs/data-formats.md shows each format and how its tool reads it.
"""

import json
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq
from transformers import PreTrainedTokenizerBase

from agentrefine.errors import UserError
from agentrefine.exchange.export_formats import Format
from agentrefine.files import new_folder, read_jsonl
from agentrefine.game.conversation import Sample
from agentrefine.params.tuning import MaskPolicy
from agentrefine.quality.data_set import SPLITS
from agentrefine.tuning.cards import RenderingCounts
from agentrefine.tuning.data import rendered_samples
from agentrefine.tuning.masking import apply_mask_policy

SCHEMA = pa.schema({"id": pa.string(), "input_ids": pa.list_(pa.int32()), "labels": pa.list_(pa.int32())})
ROWS = 256
"""The rows of a group, which are in memory together."""


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


def export(format_: Format, data_set: Path, out: Path, train_on: MaskPolicy) -> dict[str, Written]:
    """Write `train.jsonl` and `validation.jsonl` of a data set, and the tool's settings, to the new folder `out`.

    Samples that train nothing are left out, and so is a split without records.

    Raises:
        UserError: a broken data set, one that trains nothing, or a folder that cannot be written.
    """
    with new_folder(out) as folder:
        written = {split: _export_split(format_, data_set, folder, split, train_on) for split in SPLITS}
        files = _files_with_records(folder, data_set, written, "jsonl")
        for name, text in format_.settings(out, files).items():
            (folder / name).write_text(text, encoding="utf-8")
    return written


def _export_split(format_: Format, data_set: Path, folder: Path, split: str, train_on: MaskPolicy) -> Written:
    read = records = turns = 0
    with (folder / f"{split}.jsonl").open("w", encoding="utf-8") as handle:
        for sample in read_jsonl(data_set / f"{split}.jsonl", Sample):
            read += 1
            messages = apply_mask_policy(sample.messages(), train_on)
            trained = sum(bool(m.loss) for m in messages)
            if trained:
                turns += trained
                for record in format_.records(sample, messages):
                    handle.write(json.dumps(record, ensure_ascii=False) + "\n")
                    records += 1
    return Written(read, records, turns)


def _files_with_records(folder: Path, data_set: Path, written: dict[str, Written], suffix: str) -> list[str]:
    """The names of the splits' files; a split without records has none, as most loaders refuse an empty file."""
    if not written["train"].records:
        message = f"{data_set / 'train.jsonl'}: holds no sample with a trained turn; nothing is written."
        raise UserError("nothing_to_train", message, file=data_set / "train.jsonl")
    for split in SPLITS:
        if not written[split].records:
            (folder / f"{split}.{suffix}").unlink()
    return [f"{split}.{suffix}" for split in SPLITS if written[split].records]


def export_tokens(
    data_set: Path, out: Path, train_on: MaskPolicy, tokenizer: PreTrainedTokenizerBase, max_length: int | None = None
) -> dict[str, Written]:
    """Write `train.parquet` and `validation.parquet` of a data set to the new folder `out`.

    A row has `input_ids` and `labels` (-100 where not trained) of one sample: the rows that the stage tuning trains on.
    Turns beyond `max_length` tokens are left out from the end; samples that train nothing, or hold a special token in a
    text, altogether.

    Raises:
        UserError: as in `export`, or a chat template that cannot be trained on.
    """
    written: dict[str, Written] = {}
    with new_folder(out) as folder:
        for split in SPLITS:
            counts, turns = RenderingCounts(), 0
            samples = rendered_samples(data_set / f"{split}.jsonl", tokenizer, train_on, max_length, counts)
            with pq.ParquetWriter(folder / f"{split}.parquet", SCHEMA, compression="zstd") as writer:
                while batch := list(islice(samples, ROWS)):
                    rows = [{"id": name, "input_ids": r.ids, "labels": r.labels} for name, r in batch]
                    writer.write_table(pa.Table.from_pylist(rows, schema=SCHEMA))
                    turns += sum(span.trained for _, r in batch for span in r.spans)
            read = counts.samples + counts.samples_dropped + counts.samples_with_special_tokens
            written[split] = Written(read, counts.samples, turns)
        _files_with_records(folder, data_set, written, "parquet")
    return written
