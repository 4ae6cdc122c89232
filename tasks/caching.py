"""When a task's earlier result may be taken instead of running it."""

from typing import Any

from prefect.context import TaskRunContext
from prefect.utilities.hashing import hash_objects


def version_and_inputs(context: TaskRunContext, arguments: dict[str, Any]) -> str | None:
    """A cache key of the task's name, its explicit version and all its arguments.

    Prefect's own policies leave the version out, so that raising it would change nothing.
    """
    return hash_objects(context.task.name, context.task.version, arguments)
