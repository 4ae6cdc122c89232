"""The quality gate in a folder of its own, and games for it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from agentrefine.errors import UserError
from agentrefine.files import write_jsonl
from agentrefine.game.trajectory import Trajectory
from agentrefine.params import Params, load_params
from agentrefine.quality.gate_result import Finding, GateResult
from agentrefine.quality.overlap import BenchmarkTexts, HeldOut, OverlapIndex
from tasks.quality_gate import run_gate
from tests.helpers.builders import DIALECTS, dropped_line, make_trajectory

HELD_OUT = HeldOut(
    families=frozenset({"unlock"}),
    themes=frozenset({"harbor"}),
    first_seed=1000,
    texts=OverlapIndex(
        [
            BenchmarkTexts("worlds_layouts", ours=True, passages=["Try something else, as all else has failed you."]),
            BenchmarkTexts("household", passages=["Put a cool tomato in the microwave and look."]),
            BenchmarkTexts("rooms", goals=["go to the red ball"], solutions=[["go north", "take ball", "go south"]]),
        ],
        size=8,
    ),
)


def sound(count: int = 40) -> list[Trajectory]:
    return [
        make_trajectory(
            n,
            mistakes=2 + n % 2,
            persona=f"A person who counts to {n // 2} times {n // 2 * 7919}.",
            sample=n % 2,
            dialect=DIALECTS[n % len(DIALECTS)],
        )
        for n in range(count)
    ]


def replaced(trajectory: Trajectory, **changes: Any) -> Trajectory:
    return trajectory.model_copy(update=changes)


def params(**changes: Any) -> Params:
    """params.yaml with changed thresholds, such as trajectory={"tokens": {...}}; an end that is not given is open."""
    values = load_params().model_dump()
    for scope, thresholds in changes.items():
        given = values["quality_gate"]["thresholds"][scope]
        given |= {name: dict.fromkeys(given[name].keys() & {"min", "max"}) | new for name, new in thresholds.items()}
    return Params.model_validate(values)


@dataclass
class Gate:
    folder: Path
    held_out: HeldOut = HELD_OUT

    @property
    def out(self) -> Path:
        return self.folder / "dataset"

    @property
    def reports(self) -> Path:
        return self.folder / "reports"

    def run(self, trajectories: Iterable[Trajectory], settings: Params | None = None, dropped: int = 1) -> GateResult:
        write_jsonl(self.folder / "trajectories.jsonl", trajectories)
        (self.folder / "dropped.jsonl").write_text(dropped_line("p", "not_json") * dropped)
        return run_gate(
            self.folder / "trajectories.jsonl",
            self.folder / "dropped.jsonl",
            self.out,
            self.reports,
            settings or params(),
            count_tokens=lambda text: len(text.split()),
            texts=self.held_out,
        )

    def refused(self, trajectories: Iterable[Trajectory], settings: Params | None = None, dropped: int = 1) -> Refusal:
        with pytest.raises(UserError) as error:
            self.run(trajectories, settings, dropped)
        assert error.value.code == "gate_failed", str(error.value)
        return Refusal(str(error.value), read_result(self.reports))


@dataclass
class Refusal:
    message: str
    result: GateResult

    def finding(self, scope: str, column: str) -> Finding:
        (finding,) = [f for f in self.result.failures if (f.scope, f.column) == (scope, column)]
        return finding

    @property
    def critical(self) -> list[str]:
        return [f"{f.scope}.{f.column}" for f in self.result.failures if f.severity == "critical"]


def read_result(reports: Path) -> GateResult:
    return GateResult.model_validate_json((reports / "result.json").read_text(encoding="utf-8"))
