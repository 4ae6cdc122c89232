"""Which rows a step trains on."""

import pytest

from agentrefine.tuning.data import LengthGroupedBatches


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


def test_each_epoch_has_an_order_of_its_own_that_its_number_brings_back():
    lengths = [100 + 7 * row % 90 for row in range(40)]
    batches = LengthGroupedBatches(lengths, 5, processes=1, accumulation=1, rank=0, seed=1)
    orders = []
    for epoch in (0, 1, 0):
        batches.set_epoch(epoch)
        orders.append(list(batches))
    assert orders[0] == orders[2] != orders[1]


def test_a_step_holds_the_same_rows_of_similar_length_however_it_is_divided():
    lengths = [100 + 31 * row % 900 for row in range(60)]

    def steps(processes: int, accumulation: int) -> list[set[int]]:
        drawn = [
            list(LengthGroupedBatches(lengths, 6, processes=processes, accumulation=accumulation, rank=rank, seed=3))
            for rank in range(processes)
        ]
        return [
            {row for own in drawn for batch in own[begin : begin + accumulation] for row in batch}
            for begin in range(0, len(drawn[0]), accumulation)
        ]

    whole = steps(1, 1)
    assert whole == steps(2, 1) == steps(1, 3) == steps(2, 3)
    spread = [max(lengths[row] for row in step) - min(lengths[row] for row in step) for step in whole]
    assert sum(spread) / len(spread) < 500
