"""Prefect flows: one module per stage, and `pipeline`, which runs them all.

Every stage is a command, `python -m flows.<stage>`, and so the command of the DVC stage of the same name.
"""

import os
from contextlib import suppress
from pathlib import Path

from agentrefine.proxies import keep_loopback_direct

# Set before the tools are imported: nothing that this project starts phones home. What the user has set stays.
for _name, _value in {
    "DO_NOT_TRACK": "true",
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "DVC_NO_ANALYTICS": "1",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "GX_ANALYTICS_ENABLED": "false",
    "TOKENIZERS_PARALLELISM": "false",
    # A thread that waits actively takes the core that the other one needs: with two cores tuning is slower by half.
    "OMP_WAIT_POLICY": "PASSIVE",
}.items():
    os.environ.setdefault(_name, _value)
keep_loopback_direct()


def _keep_prefect_here() -> None:
    """Let Prefect keep its state in the working folder: two clones of the project are two histories.

    A PREFECT_HOME that is set stays, and the profiles of the user's own home, which may name a server, are still read.
    """
    if "PREFECT_HOME" in os.environ:
        return
    with suppress(RuntimeError):  # a user without a home
        profiles = Path("~/.prefect/profiles.toml").expanduser()
        if profiles.is_file():
            os.environ.setdefault("PREFECT_PROFILES_PATH", str(profiles))
    os.environ["PREFECT_HOME"] = str(Path.cwd() / ".prefect")


_keep_prefect_here()
