"""All parameters with the defaults filled in, as a file for DVC."""

from pathlib import Path

import yaml

from agentrefine.files import atomic_write
from agentrefine.params import load_params

RESOLVED = Path("params.resolved.yaml")
"""What dvc.yaml's stages declare their parameters on, so that DVC sees a changed default too. Kept in git."""


def write_resolved() -> None:
    """Write the resolved file from params.yaml, if it changes.

    Raises:
        UserError: a params.yaml that cannot be used, or a file that cannot be written.
    """
    values = load_params().model_dump(mode="json")
    text = yaml.safe_dump(values, sort_keys=False, default_flow_style=None, width=10_000)
    text = f"# Written from params.yaml by the stage `params`.\n{text}"
    if not RESOLVED.is_file() or RESOLVED.read_text(encoding="utf-8") != text:
        with atomic_write(RESOLVED) as handle:
            handle.write(text)
