"""Label files in AgentBoard's form, of our own making."""

import json

from agentrefine.benchmarks.agentboard.labels import TASKS
from agentrefine.benchmarks.catalogue import benchmark
from agentrefine.params.evaluation import BenchmarkData

RED_BALL = {
    "id": 3,
    "task": "babyai",
    "goal": "go to the red ball, then stop",
    "subgoals": ["There is a red ball **", " There is a red ball ** right in front of you 1 steps away."],
    "difficulty": "easy",
    "additional_info": {"subtask": "BabyAI-GoToRedBallGrey-v0"},
}
"""A label of the level GoToRedBallGrey with the seed 1237."""


def labelled(folder, name, *labels, **data):
    """The benchmark by these labels."""
    file = folder / "data" / TASKS[name] / "test.jsonl"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("".join(json.dumps(label) + "\n" for label in labels), encoding="utf-8")
    return benchmark(name, BenchmarkData(agentboard=str(folder / "data"), **data))
