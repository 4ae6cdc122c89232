"""What can be watched of a stage and what is kept of it in Prefect and MLflow; no stage's result depends on it."""

import os

from tasks.tracking.one_sentence import filter_logs

filter_logs()

# MLflow reads these when it is imported; what the user has set stays.
for _name, _value in {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",  # the default, 7, leaves a wrong address silent for long
    "MLFLOW_LOGGING_LEVEL": "WARNING",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
}.items():
    os.environ.setdefault(_name, _value)
