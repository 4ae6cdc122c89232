"""Episodes of two models with every outcome and every kind of error, and one whose texts are hostile."""

from collections.abc import Sequence

from agentrefine.evaluation.episodes import Episode, EpisodeStep, StopReason
from tests.helpers.results_tree import step

HOSTILE = (
    "</script><script>window.broken = true</script><img src=x onerror='window.broken = true'>"
    "<!--<script>\u2028${window.broken = true}{{ 7 * 7 }}&lt;b&gt;"
)


def turn(action: str, *, valid: bool = True, progress: float = 0.0, **changes: object) -> EpisodeStep:
    return step(action, valid=valid, progress=progress).model_copy(update=changes)


def reply_without_action(reply: str = "I would rather not.") -> EpisodeStep:
    return turn("", valid=False, thought="", reply=reply, format_error=True)


SOLVED = [turn("take lamp", progress=0.5), turn("put lamp", progress=1.0)]
RECOVERED = [turn("fly", valid=False), turn("take lamp", progress=0.5, turns_cut=3), turn("put lamp", progress=1.0)]
STUCK = [turn("fly", valid=False)] * 3


def episode(
    number: int, model: str, steps: Sequence[EpisodeStep], stop: StopReason = "step limit", **changes: object
) -> Episode:
    values = {
        "id": f"hall/{number}",
        "benchmark": "worlds_layouts",
        "task": "fetch",
        "seed": number,
        "variant": "",
        "difficulty": "easy",
        "model": model,
        "model_digest": f"digest of {model}",
        "goal": f"Fetch lamp {number}.",
        "first_observation": "You are in a hall.",
        "steps": list(steps),
        "success": stop == "solved",
        "progress": max((step.progress for step in steps), default=0.0),
        "stop": stop,
    }
    return Episode.model_validate({**values, **changes})


TUNED = [
    episode(0, "refinement", SOLVED, "solved"),
    episode(1, "refinement", RECOVERED, "solved", difficulty="hard"),
    episode(2, "refinement", STUCK, task="clean"),
    episode(3, "refinement", [reply_without_action()], "environment over", goal="Sweep the attic."),
    episode(4, "refinement", [], "environment error", error="the simulator is gone", benchmark="babyai", task="goto"),
    episode(5, "refinement", [turn("wait")], "context full", benchmark="babyai", task="goto", difficulty="hard"),
    episode(6, "refinement", [turn(HOSTILE, thought=HOSTILE, observation=HOSTILE), reply_without_action(HOSTILE)],
            goal=HOSTILE, first_observation=HOSTILE, task=HOSTILE, variant=HOSTILE, error=HOSTILE, benchmark="babyai"),
]  # fmt: skip
BASE = [
    episode(0, "base", [turn("take lamp"), turn("wait")]),
    episode(1, "base", SOLVED, "solved", difficulty="hard"),
    episode(2, "base", SOLVED, "solved", task="clean"),
    episode(3, "base", [reply_without_action()], goal="Sweep the attic."),
]
