"""Typical failures as a Markdown page: how models come to stand still on the episodes that they do not solve.

    python -m perf.failures worlds_layouts refinement on_policy_1-7 --count 20

Reads `data/evaluation/<model>/episodes.jsonl` below the present folder. Of each unsolved episode: the error after which
the model did not recover (the first of its longest row of errors), the answer to it, and the turn after it.
"""

import argparse
from collections.abc import Iterator, Sequence
from itertools import groupby

from agentrefine.evaluation.episodes import Episode, EpisodeStep
from agentrefine.evaluation.metrics.recovery import recovery
from agentrefine.report.inputs import Project
from agentrefine.report.tables import count, percent

WORDS = 220
"""Characters of a text that a cell shows."""


def page(project: Project, benchmark: str, models: Sequence[str], most: int) -> Iterator[str]:
    """The lines of the page."""
    played = {
        model: [e for e in project.episodes(model) if e.benchmark == benchmark and e.is_evidence] for model in models
    }
    yield "| model | solved | errors | recovered at once | within 3 turns | repeated at once |"
    yield "|---|--:|--:|--:|--:|--:|"
    for model, episodes in played.items():
        found = recovery(episodes)
        rates = " | ".join(percent(rate, digits=0) for rate in (found.at_once, found.within_3, found.repeats))
        solved = sum(episode.success for episode in episodes)
        yield f"| {model} | {solved} of {len(episodes)} | {count(found.at_once.n)} | {rates} |"
    for model, episodes in played.items():
        unsolved = [episode for episode in episodes if not episode.success][:most]
        yield ""
        yield f"## {model}: {len(unsolved)} failures"
        yield ""
        yield "| | goal | what it did | the answer | its next turn | errors in a row |"
        yield "|--:|---|---|---|---|--:|"
        for number, episode in enumerate(unsolved, start=1):
            yield f"| {number} | {episode.goal} | {' | '.join(_cells(episode))} |"


def _cells(episode: Episode) -> tuple[str, str, str, str]:
    row = longest_row(episode)
    if not row:
        return "no error: it ran out of steps", "", "", "0"
    error, *after = episode.steps[row[0] : row[0] + 2]
    return _turn(error), _short(error.observation), _turn(after[0]) if after else "the end", str(len(row))


def longest_row(episode: Episode) -> list[int]:
    """The numbers of the steps of the longest row of errors, the first of several."""
    rows = [
        [number for number, _ in group]
        for failed, group in groupby(enumerate(episode.steps), key=lambda numbered: numbered[1].failed)
        if failed
    ]
    return max(rows, key=len, default=[])


def _turn(step: EpisodeStep) -> str:
    return _short(step.reply) if step.format_error else f"{_short(step.thought)} **{step.action}**"


def _short(text: str) -> str:
    line = " ".join(text.split()).replace("|", "/")
    return line if len(line) <= WORDS else f"{line[:WORDS]} ..."


def main() -> None:
    """Print the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("benchmark")
    parser.add_argument("models", nargs="+")
    parser.add_argument("--count", type=int, default=20, help="failures of each model")
    given = parser.parse_args()
    print("\n".join(page(Project(), given.benchmark, given.models, given.count)))


if __name__ == "__main__":
    main()
