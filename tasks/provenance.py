"""Where a model comes from, in the form that a tracking store keeps: parameters, data hash, commit; no credentials."""

import json
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path
from urllib.parse import urlsplit

import yaml

from agentrefine.params import Params


def flatten(params: Params, sections: Sequence[str]) -> dict[str, str]:
    """Parameters by their dotted names, lists and null as JSON. Credentials inside URLs are cut out."""
    values = params.model_dump(mode="json", include=set(sections))
    return dict(_flat(values, ""))


def without_credentials(text: str) -> str:
    """The text as it is, or, where it is a URL, without user, password and query."""
    try:
        parts = urlsplit(text)
    except ValueError:
        return text
    if not parts.scheme or not parts.netloc:
        return text
    return parts._replace(netloc=parts.netloc.rpartition("@")[2], query="", fragment="").geturl()


def dvc_md5(path: Path, lock: Path = Path("dvc.lock")) -> str | None:
    """The hash under which DVC keeps `path`, or the folder that holds it; None when DVC has not recorded it."""
    if not lock.is_file():
        return None
    stages = (yaml.safe_load(lock.read_text(encoding="utf-8")) or {}).get("stages", {})
    outs = {out["path"]: out["md5"] for stage in stages.values() for out in stage.get("outs", []) if "md5" in out}
    names = [path.as_posix(), *(parent.as_posix() for parent in path.parents)]
    return next((outs[name] for name in names if name in outs), None)


def git_commit() -> str:
    """The commit of the working folder; `none` outside a repository."""
    found = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, check=False)  # noqa: S607
    return found.stdout.strip() or "none"


def _flat(value: object, name: str) -> Iterator[tuple[str, str]]:
    if isinstance(value, dict) and value:
        for key, inner in value.items():
            yield from _flat(inner, f"{name}.{key}" if name else str(key))
    elif isinstance(value, str):
        yield name, without_credentials(value)
    else:
        yield name, json.dumps(value)
