"""A data set's samples as rendered rows on disk, streamed, and the batches of an epoch.

Memory does not grow with the number of samples.
"""

import itertools
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from datasets import Dataset, Features, List, Value
from datasets.exceptions import DatasetGenerationError
from transformers import PreTrainedTokenizerBase
from transformers.trainer_pt_utils import BatchRebalanceSampler, get_length_grouped_indices

from agentrefine.errors import UserError
from agentrefine.files import read_jsonl
from agentrefine.game.conversation import Sample
from agentrefine.params.tuning import MaskPolicy
from agentrefine.tuning.cards import RenderingCounts
from agentrefine.tuning.chat_template import Rendered, check_chat_template, render
from agentrefine.tuning.masking import apply_mask_policy

FEATURES = Features({"input_ids": List(Value("int32")), "labels": List(Value("int32"))})


def rendered_rows(
    file: Path, tokenizer: PreTrainedTokenizerBase, train_on: MaskPolicy, max_length: int, cache: Path
) -> tuple[Dataset, RenderingCounts]:
    """The rows (`input_ids`, `labels`) of a file of samples, kept under the folder `cache`.

    Raises:
        UserError: the file is missing or broken, the chat template cannot be trained on, or no row trains anything.
    """
    counts = RenderingCounts()
    longest = min(max_length, int(tokenizer.model_max_length))
    rows = (
        {"input_ids": rendered.ids, "labels": rendered.labels}
        for _, rendered in rendered_samples(file, tokenizer, train_on, longest, counts)
    )
    first = next(rows, None)
    if first is None:
        sentence = f"holds no sample with a trained turn of at most {longest} tokens"
        remedy = "raise tuning.max_length, or run the quality gate again with more samples."
        values = {"file": file, "key": "tuning.max_length", "limit": longest}
        raise UserError("nothing_to_train", f"{file}: {sentence}; {remedy}", **values)
    try:
        data = Dataset.from_generator(
            lambda: itertools.chain([first], rows), features=FEATURES, cache_dir=str(cache), fingerprint=file.stem
        )
    except DatasetGenerationError as error:
        if isinstance(error.__cause__, UserError | OSError):
            raise error.__cause__ from None
        raise
    return data, counts


def rendered_samples(
    file: Path,
    tokenizer: PreTrainedTokenizerBase,
    train_on: MaskPolicy,
    max_length: int | None,
    counts: RenderingCounts,
) -> Iterator[tuple[str, Rendered]]:
    """The samples of a file that train something, with their ids; `counts` grows with each.

    Raises:
        UserError: the file is missing or broken, or the chat template cannot be trained on; names the sample.
    """
    check_chat_template(tokenizer)
    specials = [token.content for token in tokenizer.added_tokens_decoder.values() if token.special]
    for sample in read_jsonl(file, Sample):
        messages = sample.messages()
        if any(special in message.content for message in messages for special in specials):
            counts.samples_with_special_tokens += 1
            continue
        try:
            rendered = render(tokenizer, messages, train_on, max_length)
            cuts = len(apply_mask_policy(messages, train_on)) < len(messages)
            whole = render(tokenizer, messages, "correct_turns", max_length) if cuts else rendered
        except UserError as error:
            values = error.values | {"file": file, "sample": sample.id}
            raise UserError(error.code, f"{file}, sample {sample.id}: {error}", **values) from error
        counts.turns_dropped += rendered.dropped_turns
        if not rendered.trained_tokens:
            counts.samples_dropped += 1
            continue
        counts.samples += 1
        counts.tokens += len(rendered.ids)
        counts.whole_tokens += len(whole.ids)
        counts.trained_tokens += rendered.trained_tokens
        counts.longest = max(counts.longest, len(rendered.ids))
        yield sample.id, rendered


class LengthGroupedBatches(BatchRebalanceSampler):  # type: ignore[misc]
    """One process's batches of row numbers, in the order of training.

    An epoch is drawn from the seed and the epoch's number alone, in steps of nearly the same number of rows of similar
    length. A step's rows are divided among `processes` times `accumulation` batches of about the same cost
    (transformers' BatchRebalanceSampler). So neither the number of processes, nor accumulation, nor an interruption
    changes what a step trains on.

    Args:
        lengths: tokens of every row.
        step_rows: rows of a step, about.
        processes: that share a step.
        accumulation: batches of each process in a step.
        rank: of this process.
        seed: of the order.
    """

    def __init__(
        self, lengths: Sequence[int], step_rows: int, *, processes: int, accumulation: int, rank: int, seed: int
    ) -> None:
        super().__init__(list(lengths), step_rows, processes, accumulation, seed=seed, rank=rank, drop_last=False)
        shares = processes * accumulation
        if len(self.lengths) < shares:
            raise ValueError(f"{len(self.lengths)} rows are fewer than one for each of {shares} batches of a step")
        # Not so many steps that one has fewer rows than batches.
        self._steps = min(-(-len(self.lengths) // step_rows), len(self.lengths) // shares)

    def __iter__(self) -> Iterator[list[int]]:
        """The batches of the epoch that `set_epoch` named."""
        generator = torch.Generator().manual_seed(self.seed + self.epoch)
        order = get_length_grouped_indices(self.lengths, self.effective_batch_size, generator=generator)
        # Equal steps, so that the last one is no smaller than the others.
        borders = [step * len(order) // self._steps for step in range(self._steps + 1)]
        for begin, end in itertools.pairwise(borders):
            yield from self._yield_global_batch(order[begin:end])

    def __len__(self) -> int:
        """Batches of one process in an epoch."""
        return self._steps * int(self.grad_accum)


def row_lengths(rows: Dataset) -> list[int]:
    """Tokens of every row, read in pieces."""
    return [len(ids) for batch in rows.iter(1000) for ids in batch["input_ids"]]
