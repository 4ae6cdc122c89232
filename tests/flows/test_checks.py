"""What would end a later stage is found before the first one."""

import os
import socket

import pytest
import yaml
from prefect.settings import PREFECT_HOME, temporary_settings

from agentrefine.errors import UserError
from agentrefine.params import load_params, parse_params
from tasks.checks import check_before
from tests.helpers.paths import ROOT

VALUES = load_params(ROOT / "params.yaml").model_dump(mode="json")
ALL = ("synthesis", "verification", "refinement", "base_model", "quality_gate", "tuning@refinement", "report")


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "personas.jsonl").write_text('{"persona": "A baker who is always late."}\n')
    monkeypatch.delenv("A_KEY", raising=False)
    return tmp_path


def params(**changes):
    """params.yaml with values changed by dotted keys."""
    values = yaml.safe_load(yaml.safe_dump(VALUES))
    values["personas"]["path"] = "personas.jsonl"
    for key, value in changes.items():
        *sections, last = key.split(".")
        section = values
        for name in sections:
            section = section[name]
        section[last] = value
    return parse_params(yaml.safe_dump(values), "params.yaml")


def refusal(given, addresses=ALL):
    """The one sentence that the stages are refused by."""
    with pytest.raises(UserError) as refused:
        check_before(given, addresses)
    assert "\n" not in str(refused.value)
    return str(refused.value)


def test_the_default_run_is_let_through(folder):
    (folder / "data").mkdir()
    check_before(params(), ALL)


def test_a_missing_file_of_personas_is_named_before_synthesis_alone():
    given = params(**{"personas.path": "data/nowhere.jsonl"})
    assert refusal(given).startswith("data/nowhere.jsonl: no such file")
    check_before(given, ["verification"])


def test_a_benchmark_that_there_is_not_is_named_before_the_first_stage():
    given = params(**{"evaluation.benchmarks": ["worlds_layouts", "babyia"]})
    said = refusal(given, [*ALL, "evaluation@base"])
    assert said.startswith("evaluation.benchmarks: there is no benchmark 'babyia'")


def test_a_base_that_is_no_folder_and_no_hub_id_is_named():
    said = refusal(params(**{"base_model.path": "./nowhere"}))
    assert said.startswith("base_model.path: ./nowhere: no such file or folder")


def test_a_missing_folder_in_a_folder_of_the_project_is_not_taken_for_a_hub_id(folder):
    (folder / "models").mkdir()
    assert "no such file or folder" in refusal(params(**{"base_model.path": "models/nowhere"}))


def test_a_hub_id_that_cannot_be_reached_is_named(monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    said = refusal(params(**{"base_model.path": "nobody/nothing"}))
    assert said.startswith("base_model.path: nobody/nothing is neither a folder here nor a model that the")


@pytest.mark.parametrize("files", [[], ["config.json"], ["model.safetensors"]], ids=str)
def test_a_folder_without_a_model_is_named(folder, files):
    (folder / "empty").mkdir()
    for name in files:
        (folder / "empty" / name).touch()
    assert refusal(params(**{"base_model.path": "empty"})).startswith("base_model.path: empty holds no model")


def test_a_missing_chat_template_is_named(folder):
    given = params(**{"base_model.path": "some/model", "base_model.chat_template": "missing.jinja"})
    assert refusal(given).startswith("base_model.chat_template: missing.jinja")


def test_a_file_that_is_not_called_gguf_is_named(folder):
    (folder / "weights").touch()
    assert refusal(params(**{"base_model.path": "weights"})).startswith("base_model.path: weights is a file whose name")


def test_a_tracking_server_that_does_not_answer_is_named():
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port = listening.getsockname()[1]
    given = params(**{"tracking.uri": f"http://127.0.0.1:{port}"})
    assert refusal(given, ["verification"]).startswith("tracking.uri: no MLflow server answers at http://127.0.0.1:")


@pytest.mark.parametrize("role", ["script", "trajectory", "refinement"])
def test_a_key_of_a_teachers_role_that_is_not_set_is_named(role):
    remote = {"base_url": "https://example.org/v1", "api_key_env": "A_KEY"}
    given = params(**{f"teacher.{role}.{key}": value for key, value in remote.items()})
    assert refusal(given).startswith("teacher.api_key_env: the environment variable A_KEY is not set")
    check_before(given, ["verification"])


def test_a_key_of_an_endpoint_that_is_not_set_is_named_where_it_is_to_play(monkeypatch):
    rival = {"base_url": "https://example.org/v1", "model": "m", "api_key_env": "A_KEY"}
    given = params(**{"evaluation.endpoints": {"rival": rival}})
    said = refusal(given, [*ALL, "endpoint_evaluation@rival"])
    assert said.startswith("evaluation.endpoints.rival.api_key_env: the environment variable A_KEY is not set")
    check_before(given, ["tuning@refinement"])
    monkeypatch.setenv("A_KEY", "secret")
    check_before(given, ["endpoint_evaluation@rival"])


def test_an_endpoint_on_this_machine_needs_no_key():
    local = {"base_url": "http://127.0.0.1:8000/v1", "model": "m", "api_key_env": "A_KEY"}
    check_before(params(**{"evaluation.endpoints": {"local": local}}), ["endpoint_evaluation@local"])


@pytest.mark.parametrize("name", ["data", "models", "reports"])
def test_a_folder_that_is_a_link_to_elsewhere_is_named(folder, tmp_path_factory, name):
    (folder / name).symlink_to(tmp_path_factory.mktemp("elsewhere"))
    assert refusal(params(), ["verification"]).startswith(f"{name}: links to ")


def test_a_home_that_cannot_be_written_is_named(folder):
    (folder / "file").touch()
    with temporary_settings({PREFECT_HOME: folder / "file" / "home"}):
        assert "Prefect cannot write there" in refusal(params(), ["verification"])


@pytest.mark.skipif(os.geteuid() == 0, reason="root writes everywhere")
def test_a_read_only_home_is_named(folder):
    (folder / "home").mkdir(mode=0o500)
    with temporary_settings({PREFECT_HOME: folder / "home"}):
        assert "Prefect cannot write there" in refusal(params(), ["verification"])


def test_settings_that_the_machine_cannot_serve_are_named_before_the_teacher_is_asked(monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    assert refusal(params(**{"tuning.attention": "flash_attention_2"})).startswith("tuning.attention: ")
    check_before(params(**{"tuning.attention": "flash_attention_2"}), ["synthesis"])


def test_a_launcher_that_is_not_installed_is_named():
    assert refusal(params(**{"tuning.launcher": "nolauncher launch"})).startswith("tuning.launcher: nolauncher is not")


def test_a_missing_chat_file_of_a_mix_is_named():
    mixed = {"chat20": {"data_set": "data/dataset", "chat": "missing.json", "share": 0.2}}
    assert refusal(params(mix=mixed), ["mix@chat20"]).startswith("mix.chat20.chat: missing.json: no such file")
