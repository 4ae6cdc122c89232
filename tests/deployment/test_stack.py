"""The programs of compose.yaml around the pipeline, run for real: PostgreSQL, SeaweedFS, Prefect, MLflow."""

import shutil
import urllib.request
from collections.abc import Iterator
from importlib.util import find_spec
from urllib.error import HTTPError

import pytest
from mlflow import MlflowClient

from tests.helpers.compose import HOST, Stack, program
from tests.helpers.project import ProjectCopy, digests

PROGRAMS = ("initdb", "postgres", "pg_isready", "pg_dump", "weed")
PACKAGES = ("psycopg", "boto3", "dvc_s3")
missing = [name for name in PROGRAMS if program(name) is None] + [name for name in PACKAGES if find_spec(name) is None]

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(2700),
    pytest.mark.skipif(
        bool(missing),
        reason=f"{', '.join(missing)} missing: make deployment, and PostgreSQL from the system's packages",
    ),
]

SECRETS = {
    "POSTGRES_PASSWORD": "database-SECRET",
    "AWS_ACCESS_KEY_ID": "agentrefine",
    "AWS_SECRET_ACCESS_KEY": "store-SECRET",
    "OPENAI_API_KEY": "sk-teacher-SECRET",
}
SMALLER = {
    "base_model.tiny.pretraining_tokens": 2_000,
    "tuning.epochs": 1,
    "evaluation.references": [],
    "evaluation.benchmarks": ["worlds_layouts"],
    "evaluation.episodes": 2,
}
"""What a model can do does not matter here."""
MODEL = "agentrefine-agent"
REMOTE = ("-r", "s3")


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """PostgreSQL, the store, Prefect's server and MLflow."""
    running = Stack(tmp_path_factory.mktemp("stack"), SECRETS)
    try:
        running.start_postgres()
        running.start_s3()
        running.start("prefect", PREFECT_HOME=str(running.folder / "prefect"))
        running.start("mlflow")
        yield running
    finally:
        running.stop()


@pytest.fixture(scope="module")
def project(stack: Stack, tmp_path_factory: pytest.TempPathFactory) -> ProjectCopy:
    """A checkout whose worker has run the whole pipeline, small, as the deployment `agentrefine/local`."""
    address = f"http://{HOST}:{stack.ports['mlflow']}"
    copy = ProjectCopy.make(tmp_path_factory.mktemp("project"), own_server=True, **SMALLER, **{"tracking.uri": address})
    copy.environment |= stack.environment("worker")
    copy.environment["PREFECT_HOME"] = str(copy.folder / ".prefect")
    changed = {name: copy.environment[name] for name in ("PREFECT_HOME", "PYTHONPATH")}
    port = str(stack.ports["worker"])
    stack.start("worker", folder=copy.folder, PREFECT_WORKER_WEBSERVER_PORT=port, **changed)
    done = copy.run("prefect", "deployment", "run", "agentrefine/local", "--watch", seconds=2400)
    assert done.returncode == 0, done.stdout[-3000:] + stack.log("worker").read_text()[-6000:]
    return copy


@pytest.fixture(scope="module")
def client(project: ProjectCopy, stack: Stack) -> MlflowClient:
    return MlflowClient(f"http://{HOST}:{stack.ports['mlflow']}")


def test_prefect_keeps_the_run_in_postgresql(project: ProjectCopy, stack: Stack) -> None:
    states = dict(stack.sql("prefect", "select name, state_type::text from flow_run where parent_task_run_id is null"))
    assert set(states.values()) == {"COMPLETED"}
    assert stack.sql("prefect", "select count(*) from deployment") == [(1,)]
    assert project.changed_stages() == set()


def test_mlflow_keeps_runs_in_postgresql_and_models_in_the_store(
    project: ProjectCopy, stack: Stack, client: MlflowClient
) -> None:
    version = client.search_model_versions(f"name = '{MODEL}' and tags.model = 'refinement'")[0]
    assert client.get_run(version.run_id).info.artifact_uri.startswith("mlflow-artifacts:/")
    (metrics,) = stack.sql("mlflow", f"select count(*) from metrics where run_uuid = '{version.run_id}'")
    assert metrics[0] > 20
    weights = (project.folder / "models/refinement/model.safetensors").read_bytes()
    assert weights in [content for key, content in stack.objects("mlflow").items() if version.run_id in key]
    assert not (project.folder / "mlflow.db").exists()


def test_the_champion_loads_back_from_the_store(project: ProjectCopy, client: MlflowClient) -> None:
    version = client.search_model_versions(f"name = '{MODEL}' and tags.model = 'refinement'")[0]
    client.set_registered_model_alias(MODEL, "champion", version.version)  # so small a run has none
    load = (
        "import mlflow, torch; from transformers import AutoModelForCausalLM\n"
        f"agent = mlflow.pyfunc.load_model('models:/{MODEL}@champion').get_raw_model()\n"
        "found = agent.model.state_dict()\n"
        "tuned = AutoModelForCausalLM.from_pretrained('models/refinement').state_dict()\n"
        "print(found.keys() == tuned.keys() and all(torch.equal(found[name], tuned[name]) for name in tuned))"
    )
    done = project.run("env", f"MLFLOW_TRACKING_URI={client.tracking_uri}", "python", "-c", load)
    assert done.stdout.splitlines()[-1:] == ["True"], done.stderr[-3000:]


def test_mlflow_answers_to_its_name_in_the_stack_and_to_no_other(stack: Stack) -> None:
    address = f"http://{HOST}:{stack.ports['mlflow']}/api/2.0/mlflow/experiments/get-by-name?experiment_name=Default"
    with urllib.request.urlopen(urllib.request.Request(address, headers={"Host": "mlflow:5000"}), timeout=20) as answer:
        assert answer.status == 200
    with pytest.raises(HTTPError) as caught:
        urllib.request.urlopen(urllib.request.Request(address, headers={"Host": "rebound.example"}), timeout=20)
    assert caught.value.code == 403


def test_the_store_gives_nothing_to_who_has_no_key(stack: Stack) -> None:
    for bucket in ("mlflow", "dvc"):
        with pytest.raises(HTTPError) as caught:
            urllib.request.urlopen(f"http://{HOST}:{stack.ports['s3']}/{bucket}", timeout=20)
        assert caught.value.code == 403


def test_pushed_data_come_back_with_the_same_bytes(project: ProjectCopy, stack: Stack) -> None:
    kept = [project.folder / name for name in ("data/dataset", "models/base", "models/refinement")]
    before = [digests(folder) for folder in kept]
    assert all(before)
    pushed = project.run("dvc", "push", *REMOTE)
    assert pushed.returncode == 0, pushed.stderr
    assert any(key.startswith("files/md5/") for key in stack.objects("dvc"))
    shutil.rmtree(project.folder / ".dvc/cache")
    for folder in kept:
        shutil.rmtree(folder)
    pulled = project.run("dvc", "pull", "--force", *REMOTE)
    assert pulled.returncode == 0, pulled.stderr
    assert [digests(folder) for folder in kept] == before


def test_no_credential_is_kept_or_logged(project: ProjectCopy, stack: Stack) -> None:
    project.run("dvc", "push", *REMOTE)
    places: dict[str, bytes] = {name: stack.dump(name) for name in ("prefect", "mlflow")}
    for bucket in ("mlflow", "dvc"):
        places |= {f"{bucket}/{key}": content for key, content in stack.objects(bucket).items()}
    for folder in (stack.folder, project.folder):
        places |= digests(folder)
    secrets = [value.encode() for value in SECRETS.values() if "SECRET" in value]
    assert len(places) > 100
    assert [place for place, content in places.items() if any(secret in content for secret in secrets)] == []
