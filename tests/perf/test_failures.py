"""The page of typical failures, from episodes made by hand."""

from pathlib import Path

from agentrefine.report.inputs import Project
from perf.failures import longest_row, page
from tests.helpers.results_tree import episodes, write_evaluation


def test_each_unsolved_episode_has_a_row_and_the_counts_are_those_of_the_metrics(tmp_path: Path) -> None:
    write_evaluation(tmp_path, "refinement", episodes("refinement", 13))
    lines = list(page(Project(tmp_path), "worlds_layouts", ["refinement"], 5))
    assert lines[2].startswith("| refinement | 13 of 20 | 7 | 0 [0, ")
    rows = [line for line in lines if "**fly**" in line]
    assert len(rows) == 5
    assert all(row.endswith("| Error: no such action. | look **fly** | 2 |") for row in rows)


def test_the_longest_row_of_errors_is_found() -> None:
    solved, unsolved = (episodes("refinement", number)[0] for number in (1, 0))
    assert longest_row(solved) == []
    assert longest_row(unsolved) == [0, 1]
    mixed = unsolved.model_copy(update={"steps": [unsolved.steps[0], *solved.steps, *unsolved.steps]})
    assert longest_row(mixed) == [3, 4]
