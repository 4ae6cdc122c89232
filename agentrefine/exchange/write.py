"""Writes a data set in another tool's format: python -m agentrefine.exchange.write axolotl data/dataset exported

docs/data-formats.md shows each format and how its tool reads it.
"""

import argparse
import json
import sys
from itertools import islice
from pathlib import Path
from typing import NamedTuple, get_args

import pyarrow as pa
import pyarrow.parquet as pq
from transformers import PreTrainedTokenizerBase

from agentrefine.errors import UserError
from agentrefine.exchange.command import new_folder, run
from agentrefine.exchange.formats import FORMATS, Format
from agentrefine.files import read_jsonl, user_path
from agentrefine.game.conversation import Sample
from agentrefine.params.tuning import Loss
from agentrefine.tuning.data import rendered_samples
from agentrefine.tuning.masking import apply_loss
from agentrefine.tuning.results import RenderingCounts

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


SCHEMA = pa.schema({"id": pa.string(), "input_ids": pa.list_(pa.int32()), "labels": pa.list_(pa.int32())})
ROWS = 256
"""Rows of a group: what is in memory at once."""


def export_tokens(
    data_set: Path, out: Path, loss: Loss, tokenizer: PreTrainedTokenizerBase, max_length: int | None = None
) -> dict[str, Written]:
    """Write `train.parquet` and `validation.parquet` of a data set to the new folder `out`.

    A row has `input_ids` and `labels` (-100 where not trained) of one sample: the rows that the stage tuning trains on.
    Turns beyond `max_length` tokens are left out from the end; samples that train nothing, or hold a special token in a
    text, altogether.

    Raises:
        UserError: as in `agentrefine.exchange.write.export`, or a chat template that cannot be trained on.
    """
    written: dict[str, Written] = {}
    with new_folder(out) as folder:
        for split in SPLITS:
            counts, turns = RenderingCounts(), 0
            samples = rendered_samples(data_set / f"{split}.jsonl", tokenizer, loss, max_length, counts)
            with pq.ParquetWriter(folder / f"{split}.parquet", SCHEMA, compression="zstd") as writer:
                while batch := list(islice(samples, ROWS)):
                    rows = [{"id": name, "input_ids": r.ids, "labels": r.labels} for name, r in batch]
                    writer.write_table(pa.Table.from_pylist(rows, schema=SCHEMA))
                    turns += sum(span.trained for _, r in batch for span in r.spans)
            read = counts.samples + counts.samples_dropped + counts.samples_with_special_tokens
            written[split] = Written(read, counts.samples, turns)
        files_with_records(folder, data_set, written, "parquet")
    return written


def main() -> None:
    """Write the data set and say what was written."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("format", choices=[*FORMATS, "trl"])
    parser.add_argument("data_set", type=user_path, help="a folder with train.jsonl and validation.jsonl")
    parser.add_argument("out", type=user_path, help="a folder that does not exist yet")
    parser.add_argument("--loss", choices=get_args(Loss), default="refinement", help="default: %(default)s")
    parser.add_argument("--model", default="models/base", help="trl: whose tokenizer (default: %(default)s)")
    parser.add_argument("--max-length", type=int, help="trl: tokens; turns beyond are left out (default: no limit)")
    arguments = parser.parse_args()
    if arguments.format == "trl":
        from agentrefine.exchange.write import export_tokens  # takes seconds to import, and the others not a moment
        from agentrefine.tuning.models import load_tokenizer

        tokenizer = load_tokenizer(arguments.model)
        written = export_tokens(arguments.data_set, arguments.out, arguments.loss, tokenizer, arguments.max_length)
    else:
        written = export(FORMATS[arguments.format], arguments.data_set, arguments.out, arguments.loss)
    for split, counts in written.items():
        print(
            f"{split}: {counts.records:,} records with {counts.trained_turns:,} trained turns "
            f"from {counts.read:,} samples"
        )
    print(f"written to {arguments.out}")


if __name__ == "__main__":
    sys.exit(run(main))
