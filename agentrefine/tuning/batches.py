"""Which rows a step trains on: rows of similar length together, the same ones however many processes share the step."""

import itertools
from collections.abc import Iterator, Sequence

import torch
from datasets import Dataset
from transformers.trainer_pt_utils import BatchRebalanceSampler, get_length_grouped_indices


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
        super().__init__(
            list(lengths), step_rows, processes, accumulation, seed=seed, rank=rank, drop_last=False
        )  # fmt: skip
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
