# The pipeline, and the programs of compose.yaml around it: Prefect's server and worker, MLflow (docs/deployment.md).
FROM python:3.11.14-slim-bookworm

# Nothing that is started here phones home, as in the Makefile.
# The linter takes the switch TOKENIZERS_PARALLELISM for a secret.
# hadolint ignore=DL3064
ENV DO_NOT_TRACK=true \
    PREFECT_SERVER_ANALYTICS_ENABLED=false \
    DVC_NO_ANALYTICS=1 \
    MLFLOW_DISABLE_TELEMETRY=true \
    HF_HUB_DISABLE_TELEMETRY=1 \
    GX_ANALYTICS_ENABLED=false \
    TOKENIZERS_PARALLELISM=false \
    OMP_WAIT_POLICY=PASSIVE \
    PYTHONUNBUFFERED=1 \
    PATH=/opt/venv/bin:$PATH

# git: DVC and MLflow ask it for the commit, also in a checkout that is mounted and belongs to another user.
# Debian keeps only the newest version of a package, so that none can be pinned.
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install --yes --no-install-recommends git \
    && rm -rf /var/lib/apt/lists/* \
    && git config --system --add safe.directory /project

# The user that owns the checkout on the host, so that files written in it belong to them there.
ARG UID=1000
ARG GID=1000
RUN groupadd --gid "$GID" agentrefine \
    && useradd --no-log-init --uid "$UID" --gid "$GID" --create-home agentrefine \
    && install --directory --owner=agentrefine --group=agentrefine /project

# PyPI's torch for Linux brings several GB of CUDA; this index has it for CPUs.
ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu
COPY requirements.lock requirements-deployment.lock /opt/
RUN python -m venv /opt/venv \
    && grep '^torch==' /opt/requirements.lock > /opt/torch.lock \
    && pip install --no-cache-dir --no-deps --index-url "$TORCH_INDEX" -r /opt/torch.lock \
    && pip install --no-cache-dir -r /opt/requirements.lock -r /opt/requirements-deployment.lock \
    && pip check

# Without a mounted checkout there is no git repository: DVC then does without.
WORKDIR /project
COPY --chown=agentrefine:agentrefine . .
RUN pip install --no-cache-dir --no-deps --editable . \
    && dvc config --local core.no_scm true \
    && install --directory --owner=agentrefine --group=agentrefine data/journal \
    && chown agentrefine:agentrefine .dvc .dvc/config.local

USER $UID:$GID
CMD ["agentrefine", "run"]
