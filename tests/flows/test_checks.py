"""What would end a later stage is found before the first one."""

import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from aiohttp import web
from prefect.settings import PREFECT_HOME, temporary_settings

from agentrefine.params import load_params, parse_params
from agentrefine.simulation.tiny_base import tiny_tokenizer
from tasks.checks import check_before, prefect_home
from tests.helpers.chat_server import ChatServer, error
from tests.helpers.errors import refused
from tests.helpers.paths import ROOT

VALUES = load_params(ROOT / "params.yaml").model_dump(mode="json")
LOCAL = {"base_url": "http://127.0.0.1:9/v1", "model": "m", "api_key_env": "A_KEY"}
ALL = ("synthesis", "verification", "repair", "base_model", "quality_gate", "tuning@refinement", "report")


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


def test_the_default_run_is_let_through(folder):
    (folder / "data").mkdir()
    check_before(params(), ALL)


def test_a_missing_file_of_personas_is_named_before_synthesis_alone():
    given = params(**{"personas.path": "data/nowhere.jsonl"})
    with refused("file_missing", file=Path("data/nowhere.jsonl")):
        check_before(given, ALL)
    check_before(given, ["verification"])


def test_a_benchmark_that_there_is_not_is_named_before_the_first_stage():
    given = params(**{"evaluation.benchmarks": ["worlds_layouts", "babyia"]})
    with refused("unknown_name", key="evaluation.benchmarks", name="babyia"):
        check_before(given, [*ALL, "evaluation@base"])


@pytest.mark.parametrize("stage", ["synthesis", "quality_gate", "evaluation@base", "report"])
@pytest.mark.parametrize(
    ("key", "names", "unknown", "meant"),
    [
        ("evaluation.benchmarks", ["worlds_layout"], "worlds_layout", "worlds_layouts"),
        ("evaluation.benchmarks", ["alfwrld", "worlds_layouts"], "alfwrld", "alfworld"),
        ("quality_gate.overlap_benchmarks", ["pdl"], "pdl", "pddl"),
        ("report.champion_benchmark", "fruit", "fruit", None),
    ],
)
def test_a_misspelt_benchmark_is_named_with_the_closest_and_not_taken_for_the_champions(
    stage, key, names, unknown, meant
):
    with refused("unknown_name", key=key, name=unknown, meant=meant):
        check_before(params(**{key: names}), [stage])


def test_a_champions_benchmark_that_is_not_played_is_named():
    given = params(**{"evaluation.benchmarks": ["babyai"]})
    with refused("bad_value", key="report.champion_benchmark", name="worlds_layouts"):
        check_before(given, ["synthesis"])


def test_a_base_that_is_no_folder_and_no_hub_id_is_named():
    with refused("model_missing", key="base_model.path", model="./nowhere", sought="here"):
        check_before(params(**{"base_model.path": "./nowhere"}), ALL)


def test_a_missing_folder_in_a_folder_of_the_project_is_not_taken_for_a_hub_id(folder):
    (folder / "models").mkdir()
    with refused("model_missing", key="base_model.path", model="models/nowhere", sought="here"):
        check_before(params(**{"base_model.path": "models/nowhere"}), ALL)


def test_a_hub_id_that_cannot_be_reached_is_named(monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with refused("model_missing", key="base_model.path", model="nobody/nothing", sought="here and on the hub"):
        check_before(params(**{"base_model.path": "nobody/nothing"}), ALL)


@pytest.mark.parametrize("files", [[], ["config.json"], ["model.safetensors"]], ids=str)
def test_a_folder_without_a_model_is_named(folder, files):
    (folder / "empty").mkdir()
    for name in files:
        (folder / "empty" / name).touch()
    with refused("model_unusable", key="base_model.path", model="empty"):
        check_before(params(**{"base_model.path": "empty"}), ALL)


def test_a_missing_chat_template_is_named(folder):
    given = params(**{"base_model.path": "some/model", "base_model.chat_template": "missing.jinja"})
    with refused("file_missing", key="base_model.chat_template", file="missing.jinja"):
        check_before(given, ALL)


def test_a_file_that_is_not_called_gguf_is_named(folder):
    (folder / "weights").touch()
    with refused("wrong_suffix", key="base_model.path", file="weights"):
        check_before(params(**{"base_model.path": "weights"}), ALL)


def test_a_tracking_server_that_does_not_answer_is_named():
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port = listening.getsockname()[1]
    address = f"http://127.0.0.1:{port}"
    with refused("endpoint_unreachable", key="tracking.uri", url=address):
        check_before(params(**{"tracking.uri": address}), ["verification"])


@pytest.mark.parametrize("role", ["script", "trajectory", "repair"])
def test_a_key_of_a_teachers_role_that_is_not_set_is_named(role):
    remote = {"base_url": "https://example.org/v1", "api_key_env": "A_KEY"}
    given = params(**{f"teacher.{role}.{key}": value for key, value in remote.items()})
    with refused("key_missing", key="teacher.api_key_env", name="A_KEY"):
        check_before(given, ALL)
    check_before(given, ["verification"])


def test_a_key_of_an_endpoint_that_is_not_set_is_named_where_it_is_to_play(monkeypatch):
    rival = {"base_url": "https://example.org/v1", "model": "m", "api_key_env": "A_KEY"}
    given = params(**{"evaluation.endpoints": {"rival": rival}})
    with refused("key_missing", key="evaluation.endpoints.rival.api_key_env", name="A_KEY"):
        check_before(given, [*ALL, "endpoint_evaluation@rival"])
    check_before(given, ["tuning@refinement"])
    monkeypatch.setenv("A_KEY", "secret")
    check_before(given, ["endpoint_evaluation@rival"])


def test_an_endpoint_on_this_machine_needs_no_key():
    local = {"base_url": "http://127.0.0.1:8000/v1", "model": "m", "api_key_env": "A_KEY"}
    check_before(params(**{"evaluation.endpoints": {"local": local}}), ["endpoint_evaluation@local"])


@pytest.mark.parametrize("name", ["data", "models", "reports"])
def test_a_folder_that_is_a_link_to_elsewhere_is_named(folder, tmp_path_factory, name):
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    (folder / name).symlink_to(elsewhere)
    with refused("links_elsewhere", file=name, target=elsewhere.resolve()):
        check_before(params(), ["verification"])


def test_a_home_that_cannot_be_written_is_named(folder):
    (folder / "file").touch()
    home = folder / "file" / "home"
    with temporary_settings({PREFECT_HOME: home}), refused("not_writable", file=home):
        prefect_home()


@pytest.mark.skipif(os.geteuid() == 0, reason="root writes everywhere")
def test_a_read_only_home_is_named(folder):
    home = folder / "home"
    home.mkdir(mode=0o500)
    with temporary_settings({PREFECT_HOME: home}), refused("not_writable", file=home):
        prefect_home()


def models(status: int, message: str = "") -> web.RouteDef:
    """What a server answers that is asked for its models."""

    async def listed(_: web.Request) -> web.StreamResponse:
        return web.json_response({"data": [], "object": "list"}) if status == 200 else error(status, message)

    return web.get("/v1/models", listed)


def never(number: int, request: dict[str, object]) -> None:
    raise AssertionError(f"call {number} was paid for: {request}")


@pytest.fixture
def endpoint() -> Iterator[str]:
    """A teacher that lists its models and must not be asked for anything else."""
    with ChatServer(never, [models(200)]) as server:
        yield server.base_url
        assert not server.requests


REMOTE = {"base_url": "https://example.org/v1", "model": "m", "api_key_env": "A_KEY"}


@pytest.mark.parametrize("stage", ["synthesis", "repair", "forecast"])
@pytest.mark.parametrize(
    ("changes", "code", "named"),
    [
        ({"base_model.path": "./nowhere"}, "model_missing", {"key": "base_model.path"}),
        (
            {"mix": {"m": {"data_set": "data/dataset", "chat": "no.json", "share": 0.2}}},
            "file_missing",
            {"key": "mix.m.chat"},
        ),
        (
            {"tuning.variants.refinement.data_set": "data/imported"},
            "file_missing",
            {"key": "tuning.variants.refinement.data_set"},
        ),
        (
            {"tuning.variants.refinement.data_set": "data/mix/misspelt"},
            "file_missing",
            {"key": "tuning.variants.refinement.data_set"},
        ),
        ({"evaluation.data.hotpotqa": "no.json"}, "file_missing", {"file": Path("no.json")}),
        ({"evaluation.endpoints": {"r": REMOTE}}, "key_missing", {"key": "evaluation.endpoints.r.api_key_env"}),
        (
            {"evaluation.endpoints": {"r": {**LOCAL, "max_cost": 1.0}}},
            "price_unknown",
            {"key": "evaluation.endpoints.r.max_cost"},
        ),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_what_a_later_stage_lacks_is_named_before_a_teacher_is_paid(endpoint, stage, changes, code, named):
    """Also where that stage alone is run, as `dvc repro` does."""
    with refused(code, **named):
        check_before(params(**{"teacher.base_url": endpoint}, **changes), [stage])


def test_what_later_stages_lack_costs_nothing_with_the_simulated_teacher():
    check_before(params(**{"tuning.variants.refinement.data_set": "data/imported"}), ["synthesis"])


def test_a_paid_teacher_whose_later_stages_have_all_is_let_through_with_free_requests_only(endpoint):
    own = {"other": {**LOCAL, "base_url": endpoint}}
    given = params(**{"teacher.base_url": endpoint, "evaluation.endpoints": own, "tuning.launcher": "elsewhere"})
    check_before(given, ["synthesis"])


@pytest.mark.parametrize("where", ["teacher", "evaluation.endpoints.r"])
def test_an_endpoint_that_does_not_answer_is_named_before_a_teacher_is_paid(endpoint, where):
    with socket.create_server(("127.0.0.1", 0)) as listening:
        nobody = f"http://127.0.0.1:{listening.getsockname()[1]}/v1"
    rival = {"r": {**LOCAL, "base_url": nobody if where != "teacher" else endpoint}}
    given = params(**{"teacher.base_url": nobody if where == "teacher" else endpoint, "evaluation.endpoints": rival})
    with refused("endpoint_unreachable", key=f"{where}.base_url", url=nobody):
        check_before(given, ["synthesis"])


@pytest.mark.parametrize(
    ("status", "message", "code"),
    [
        (401, "Incorrect API key provided: sk-secret.", "key_refused"),
        (401, "You have insufficient permissions. Missing scopes: api.model.read", None),
        (403, "no", None),
        (404, "no such page", None),
        (500, "busy", None),
    ],
)
def test_a_key_that_is_refused_is_named_and_not_shown(monkeypatch, status, message, code):
    monkeypatch.setenv("A_KEY", "sk-secret")
    with ChatServer(never, [models(status, message)]) as server:
        given = params(**{"teacher.base_url": server.base_url, "teacher.api_key_env": "A_KEY"})
        if code is None:
            check_before(given, ["synthesis"])
            return
        with refused(code, key="teacher.api_key_env", name="A_KEY") as caught:
            check_before(given, ["synthesis"])
    assert "sk-secret" not in str(caught.value)


@pytest.fixture
def base(folder: Path) -> Path:
    """A model's folder with a tokenizer and without usable weights."""
    place = folder / "base"
    tiny_tokenizer(7).save_pretrained(place)
    (place / "config.json").write_text('{"model_type": "llama"}')
    (place / "model.safetensors").touch()
    return place


def test_a_folder_with_a_tokenizer_that_can_be_trained_on_is_let_through(base):
    check_before(params(**{"base_model.path": "base"}), ALL)


def test_a_folder_without_a_tokenizer_is_named_before_the_first_stage(base):
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (base / name).unlink()
    with refused("model_unusable", key="base_model.path", model="base"):
        check_before(params(**{"base_model.path": "base"}), ALL)


def test_the_gates_own_tokenizer_is_checked_too(base, folder):
    check_before(params(**{"quality_gate.tokenizer": "base"}), ALL)
    (folder / "empty").mkdir()
    with refused("model_unusable", key="quality_gate.tokenizer", model="empty"):
        check_before(params(**{"quality_gate.tokenizer": "empty"}), ALL)


def test_a_chat_template_that_cannot_be_trained_on_is_named_before_the_first_stage(base, folder):
    (folder / "mine.jinja").write_text("{{ messages[0].content }}")
    given = params(**{"base_model.path": "base", "base_model.chat_template": "mine.jinja"})
    with refused("template_untrainable", fault="rewrites_reply"):
        check_before(given, ALL)


def test_settings_that_the_machine_cannot_serve_are_named_before_the_teacher_is_asked(monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    with refused("gpu_missing", key="tuning.attention"):
        check_before(params(**{"tuning.attention": "flash_attention_2"}), ALL)
    check_before(params(**{"tuning.attention": "flash_attention_2"}), ["synthesis"])


def test_a_launcher_that_is_not_installed_is_named():
    with refused("not_installed", key="tuning.launcher", name="nolauncher"):
        check_before(params(**{"tuning.launcher": "nolauncher launch"}), ALL)


def test_a_missing_chat_file_of_a_mix_is_named():
    mixed = {"chat20": {"data_set": "data/dataset", "chat": "missing.json", "share": 0.2}}
    with refused("file_missing", key="mix.chat20.chat", file="missing.json"):
        check_before(params(mix=mixed), ["mix@chat20"])


@pytest.mark.parametrize(
    ("address", "key", "meant"),
    [
        ("tuning@refinment", "tuning.variants", "refinement"),
        ("mix@chat", "mix", None),
        ("evaluation@bas", "evaluation", "base"),
        ("reference_evaluation@idle", "evaluation.references", None),
        ("endpoint_evaluation@base", "evaluation.endpoints", None),
    ],
)
def test_a_name_that_params_does_not_have_is_refused_before_anything_starts(address, key, meant):
    with refused("unknown_name", key=key, name=address.partition("@")[2], meant=meant):
        check_before(params(), [address])
