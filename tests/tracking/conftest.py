"""A store of MLflow and the parameters that name it."""

import shutil
from pathlib import Path

import pytest
from mlflow import MlflowClient

from agentrefine.params import Params
from tests.helpers.results_tree import params_for


@pytest.fixture(scope="session")
def empty_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A database with MLflow's tables, made once because that takes seconds."""
    store = tmp_path_factory.mktemp("store") / "mlflow.db"
    MlflowClient(f"sqlite:///{store}").search_experiments()
    return store


@pytest.fixture
def params(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, empty_store: Path) -> Params:
    """Parameters with a store of their own, in a project folder that holds a data set."""
    monkeypatch.chdir(tmp_path)  # MLflow keeps artifacts under the working folder
    shutil.copyfile(empty_store, tmp_path / "mlflow.db")
    (tmp_path / "data" / "dataset").mkdir(parents=True)
    (tmp_path / "data" / "dataset" / "train.jsonl").write_text('{"id": "a"}\n')
    return params_for(tmp_path)


@pytest.fixture
def client(params: Params) -> MlflowClient:
    """A client of the store."""
    return MlflowClient(params.tracking.uri, params.tracking.uri)
