"""When a task's earlier result may be taken instead of running it."""

import hashlib
from functools import cache
from importlib import resources
from typing import Any

from prefect.context import TaskRunContext
from prefect.utilities.hashing import hash_objects


def version_and_inputs(context: TaskRunContext, arguments: dict[str, Any]) -> str | None:
    """A cache key of the task's name, its explicit version, all its arguments and the source of `agentrefine`.

    Prefect's own policies leave the version out, so that raising it would change nothing; and what a task computes
    depends on the package that it wraps, whose changes nobody should have to remember to count.
    """
    return hash_objects(context.task.name, context.task.version, arguments, source_digest())


@cache
def source_digest(*packages: str) -> str:
    """SHA-256 over the code and data files of packages, all of `agentrefine` if none is named."""
    digest = hashlib.sha256()
    pending = [resources.files(package) for package in packages or ("agentrefine",)]
    while pending:
        entry = pending.pop()
        if entry.is_dir():
            pending.extend(sorted((e for e in entry.iterdir() if e.name != "__pycache__"), key=lambda e: e.name))
        else:
            digest.update(entry.name.encode() + b"\0" + entry.read_bytes())
    return digest.hexdigest()
