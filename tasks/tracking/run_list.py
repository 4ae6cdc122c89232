"""MLflow's list of runs as this project shows it: what the experiment says of itself, which columns, which address.

Without a view of its own MLflow's list shows no metric, keeps the models folded up below their pipeline, and opens on
the page for chat applications. A tag of the experiment, as the list's own button for saving a view writes it, chooses
rows, order and columns instead.
"""

import json
from collections.abc import Sequence
from typing import Any

from mlflow import MlflowClient
from mlflow.utils.mlflow_tags import MLFLOW_EXPERIMENT_PRIMARY_METRIC_NAME, MLFLOW_RUN_NOTE

from agentrefine.params import TrackingParams
from tasks.tracking.measures import HELDOUT_SUCCESS
from tasks.tracking.store import store

VIEW = "results"
"""The view of the list that `run_list_address` opens."""

VIEW_TAG = f"mlflow.sharedViewState.{VIEW}"
"""The experiment's tag that holds it."""

FIRST_NOTE = "Models of agentrefine; the finding of the last report will stand here. How to read it: docs/mlflow.md."

MODELS = f"metrics.{HELDOUT_SUCCESS} >= 0 and tags.replaced_by IS NULL"
"""The filter that finds the models that were evaluated, and the means of a variant's seeds."""

WIDTHS = {"attributes.`Run Name`": 230, "runDateAndNestInfo": 140, "duration": 80}
"""Pixels of the columns that the list always has, by its own names for them; before them stands a box to tick."""

COLUMN, VERDICT = 160, 470
"""Pixels of a metric's or tag's column, and of the verdict's."""

TAGS = ("verdict", "role", "champion")
"""Tags that are columns, after the first metric."""


def prepare_experiment(client: MlflowClient, name: str) -> str:
    """The id of the experiment; made when there is none."""
    found = client.get_experiment_by_name(name)
    if found is not None:
        if VIEW_TAG not in found.tags:  # it was made by something else
            save_view(client, str(found.experiment_id), [HELDOUT_SUCCESS])
        return str(found.experiment_id)
    tags = {
        "mlflow.experimentKind": "custom_model_development",
        MLFLOW_EXPERIMENT_PRIMARY_METRIC_NAME: HELDOUT_SUCCESS,
        MLFLOW_RUN_NOTE: FIRST_NOTE,
    }
    experiment_id = str(client.create_experiment(name, tags=tags))
    save_view(client, experiment_id, [HELDOUT_SUCCESS])
    return experiment_id


def save_view(client: MlflowClient, experiment_id: str, columns: Sequence[str]) -> None:
    """Choose what the list shows: a row for each model that was not replaced, the best first.

    Args:
        client: of the store.
        experiment_id: whose list.
        columns: names of metrics; the first one decides what the best is.
    """
    best, *others = (f"metrics.`{name}`" for name in columns)
    shown = [best, *(f"tags.`{name}`" for name in TAGS), *others]
    state: dict[str, Any] = {
        "searchFilter": MODELS,
        "orderByKey": best,
        "orderByAsc": False,
        "startTime": "ALL",
        "lifecycleFilter": "Active",
        "datasetsFilter": [],
        "modelVersionFilter": "All Runs",
        "selectedColumns": shown,
        "columnOrder": ["0", *WIDTHS, *shown],
        "columnWidths": {**dict.fromkeys(shown, COLUMN), **WIDTHS, "tags.`verdict`": VERDICT},
    }
    client.set_experiment_tag(experiment_id, VIEW_TAG, json.dumps(state))


def run_list_address(server: str, tracking: TrackingParams) -> str:
    """Where a server shows the list: `http://127.0.0.1:5000/#/experiments/1/runs?...`.

    Raises:
        UserError: the tracking store cannot be reached or used.
    """
    with store(tracking) as client:
        experiment_id = prepare_experiment(client, tracking.experiment)
    return f"{server}/#/experiments/{experiment_id}/runs?viewStateShareKey={VIEW}&workflowType=machine_learning"
