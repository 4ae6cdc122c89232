"""All parameters with the defaults filled in, as a file for DVC."""

from pathlib import Path
from typing import Any

import yaml

from agentrefine.files import read_text, write_text
from agentrefine.params import load_params

RESOLVED = Path("params.resolved.yaml")
"""What dvc.yaml's stages declare their parameters on, so that DVC sees a changed default too. Kept in git."""

PARAMS = Path("params.yaml")


def write_resolved() -> None:
    """Write the resolved file from params.yaml.

    Raises:
        UserError: a params.yaml that cannot be used, or a file that cannot be written.
    """
    values = _as_given(load_params().model_dump(mode="json"), yaml.safe_load(read_text(PARAMS, "restore it from git")))
    text = yaml.safe_dump(values, sort_keys=False, default_flow_style=None, width=10_000)
    write_text(RESOLVED, f"# Written from params.yaml by the stage `params`.\n{text}")


def _as_given(value: Any, given: Any) -> Any:  # noqa: ANN401 (any YAML value)
    """The value with paths under the home folder as the user wrote them: the file must not depend on the machine."""
    if isinstance(value, dict) and isinstance(given, dict):
        return {key: _as_given(inner, given.get(key)) for key, inner in value.items()}
    if isinstance(given, str) and given.startswith("~"):
        return given
    return value
