"""Episodes as a model might have played them, made by hand for the tests of the metrics."""

from agentrefine.evaluation.episodes import Episode, EpisodeStep


def step(action="push", *, valid=True, format_error=False, progress=0.0, cut=0, thought="t", fault=False, kind=""):
    return EpisodeStep(
        thought="" if format_error else thought,
        action="" if format_error else action,
        reply=action,
        observation="o",
        valid=valid,
        format_error=format_error,
        progress=progress,
        prompt_tokens=10,
        completion_tokens=3,
        turns_cut=cut,
        fault=fault,
        error_kind=kind,
    )


def episode(number, *steps, success=False, model="m", failed=False, perturbation="", **fields):
    """An episode of the benchmark `push`; `failed`: the simulator did. In a perturbation, `number` is the world's."""
    return Episode.model_validate(
        {
            "id": f"e{number}/{perturbation}" if perturbation else f"e{number}",
            "benchmark": "push",
            "task": "t",
            "seed": 0,
            "variant": "",
            "difficulty": "",
            "model": model,
            "model_digest": "",
            "goal": "g",
            "first_observation": "f",
            "steps": list(steps),
            "success": success,
            "progress": 1.0 if success else max((s.progress for s in steps), default=0.0),
            "stop": "environment error" if failed else "solved" if success else "step limit",
            "perturbation": perturbation,
            **fields,
        }
    )
