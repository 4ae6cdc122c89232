"""Which rows a step trains on."""

import pytest

from agentrefine.tuning.batches import LengthGroupedBatches


@pytest.mark.parametrize(("rows", "step_rows"), [(4, 4), (5, 4), (7, 4), (7, 5), (8, 9), (23, 6)])
@pytest.mark.parametrize(("processes", "accumulation"), [(1, 1), (1, 2), (2, 1), (2, 2)])
def test_every_row_is_trained_once_and_no_process_lacks_rows_in_a_step(rows, step_rows, processes, accumulation):
    lengths = [100 + 7 * row % 90 for row in range(rows)]
    batches = [
        LengthGroupedBatches(lengths, step_rows, processes=processes, accumulation=accumulation, rank=rank, seed=1)
        for rank in range(processes)
    ]
    drawn = [list(own) for own in batches]
    assert {len(own) for own in drawn} == {len(batches[0])}
    assert all(batch for own in drawn for batch in own)
    assert sorted(row for own in drawn for batch in own for row in batch) == list(range(rows))


def test_fewer_rows_than_the_batches_of_one_step_are_refused():
    with pytest.raises(ValueError, match="3 rows are fewer than one for each of 4 batches"):
        LengthGroupedBatches([5, 6, 7], 4, processes=2, accumulation=2, rank=0, seed=1)
