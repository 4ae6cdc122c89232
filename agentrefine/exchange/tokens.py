"""Samples as token ids and labels in parquet, which TRL's SFTTrainer takes as they are."""

from collections.abc import Iterable
from itertools import islice
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from transformers import PreTrainedTokenizerBase

from agentrefine.conversation import Sample
from agentrefine.params.tuning import Loss
from agentrefine.tuning.rendering import render

SCHEMA = pa.schema({"id": pa.string(), "input_ids": pa.list_(pa.int32()), "labels": pa.list_(pa.int32())})
ROWS = 256
"""Rows of a group: what is in memory at once."""


def write_tokens(
    file: Path,
    samples: Iterable[Sample],
    tokenizer: PreTrainedTokenizerBase,
    loss: Loss,
    max_length: int | None,
) -> tuple[int, int]:
    """Write a row of `input_ids` and `labels` (-100 where not trained) for each sample that trains something.

    Turns beyond `max_length` tokens are left out from the end. Returns the number of rows and of trained turns.

    Raises:
        UserError: the chat template cannot be trained on.
    """
    rows = turns = 0
    left = iter(samples)
    with pq.ParquetWriter(file, SCHEMA, compression="zstd") as writer:
        while batch := list(islice(left, ROWS)):
            rendered = [(s.id, render(tokenizer, s.messages(), loss, max_length)) for s in batch]
            kept = [{"id": i, "input_ids": r.ids, "labels": r.labels} for i, r in rendered if r.trained_tokens]
            turns += sum(span.trained for _, r in rendered for span in r.spans)
            rows += len(kept)
            writer.write_table(pa.Table.from_pylist(kept, schema=SCHEMA))
    return rows, turns
