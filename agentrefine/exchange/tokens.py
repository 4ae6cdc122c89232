"""A data set as token ids and labels in parquet, which TRL's SFTTrainer takes as they are."""

from itertools import islice
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from transformers import PreTrainedTokenizerBase

from agentrefine.conversation import Sample
from agentrefine.exchange.command import new_folder
from agentrefine.exchange.exporting import SPLITS, Written, files_with_records
from agentrefine.files import read_jsonl
from agentrefine.params.tuning import Loss
from agentrefine.tuning.samples import render_sample
from agentrefine.tuning.template_check import check_chat_template

SCHEMA = pa.schema({"id": pa.string(), "input_ids": pa.list_(pa.int32()), "labels": pa.list_(pa.int32())})
ROWS = 256
"""Rows of a group: what is in memory at once."""


def export_tokens(
    data_set: Path, out: Path, loss: Loss, tokenizer: PreTrainedTokenizerBase, max_length: int | None = None
) -> dict[str, Written]:
    """Write `train.parquet` and `validation.parquet` of a data set to the new folder `out`.

    A row has `input_ids` and `labels` (-100 where not trained) of one sample. Turns beyond `max_length` tokens are left
    out from the end, and samples that train nothing altogether.

    Raises:
        UserError: as in `agentrefine.exchange.exporting.export`, or a chat template that cannot be trained on.
    """
    check_chat_template(tokenizer)
    written: dict[str, Written] = {}
    with new_folder(out) as folder:
        for split in SPLITS:
            read = rows = turns = 0
            file = data_set / f"{split}.jsonl"
            samples = read_jsonl(file, Sample)
            with pq.ParquetWriter(folder / f"{split}.parquet", SCHEMA, compression="zstd") as writer:
                while batch := list(islice(samples, ROWS)):
                    rendered = [(s.id, render_sample(tokenizer, s, loss, max_length, file)) for s in batch]
                    kept = [{"id": i, "input_ids": r.ids, "labels": r.labels} for i, r in rendered if r.trained_tokens]
                    writer.write_table(pa.Table.from_pylist(kept, schema=SCHEMA))
                    read, rows = read + len(batch), rows + len(kept)
                    turns += sum(span.trained for _, r in rendered for span in r.spans)
            written[split] = Written(read, rows, turns)
        files_with_records(folder, data_set, written, "parquet")
    return written
