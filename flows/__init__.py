"""Prefect flows: one module per stage, and `pipeline`, which runs them all.

Every stage is a command, `python -m flows.<stage>`, and so the command of the DVC stage of the same name.
"""

import os

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

# Servers on this machine are reached directly; with HTTP_PROXY set the clients would send even this to the proxy.
_direct = os.environ.get("no_proxy") or os.environ.get("NO_PROXY") or ""
if _direct != "*":
    _hosts = [host for host in _direct.split(",") if host]
    os.environ["no_proxy"] = os.environ["NO_PROXY"] = ",".join(
        [*_hosts, *(host for host in ("127.0.0.1", "localhost", "::1") if host not in _hosts)]
    )
