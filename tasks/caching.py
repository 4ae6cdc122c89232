"""When a task's earlier result may be taken instead of running it."""

from typing import Any

from prefect.context import TaskRunContext
from prefect.utilities.hashing import hash_objects

from agentrefine.sources import digest


def source_and_inputs(context: TaskRunContext, arguments: dict[str, Any]) -> str | None:
    """A cache key of the task's name, all its arguments and the code that decides its result (`agentrefine.sources`).

    Prefect's own policies know the source of the task's function and not of what it calls.
    """
    return hash_objects(context.task.name, arguments, digest(context.task.fn.__module__))
