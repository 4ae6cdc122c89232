"""A data set as token ids and labels in parquet, which TRL's SFTTrainer takes as they are."""

from itertools import islice
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from transformers import PreTrainedTokenizerBase

from agentrefine.exchange.command import new_folder
from agentrefine.exchange.exporting import SPLITS, Written, files_with_records
from agentrefine.params.tuning import Loss
from agentrefine.tuning.samples import RenderingCounts, rendered_samples

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
        UserError: as in `agentrefine.exchange.exporting.export`, or a chat template that cannot be trained on.
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
