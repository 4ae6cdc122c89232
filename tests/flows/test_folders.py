"""Runs in folders of their own: what they share with the project's, and what is theirs."""

from pathlib import Path

import pytest
from dvc.repo import Repo

from agentrefine.params import load_params
from flows.folders import prepare
from tasks.params import PARAMS, write_resolved
from tests.helpers.errors import refused

FOLDER = Path("runs/mine")


def test_a_runs_parameters_are_the_projects_with_preset_and_overrides(bare_project: Path) -> None:
    before = Path("params.yaml").read_bytes()
    prepare(FOLDER, PARAMS, ["mistral-7b-lora"], ["tuning.epochs=2", "tracking.experiment=mine"])
    ours, run = load_params(Path("params.yaml")), load_params(FOLDER / "params.yaml")
    assert run.base_model.path == "mistralai/Mistral-7B-v0.3"
    assert (run.tuning.epochs, run.tracking.experiment) == (2, "mine")
    assert (run.teacher, run.synthesis, run.seed) == (ours.teacher, ours.synthesis, ours.seed)
    assert Path("params.yaml").read_bytes() == before
    written = (FOLDER / "params.yaml").stat().st_mtime_ns
    prepare(FOLDER, PARAMS, ["mistral-7b-lora"], ["tuning.epochs=2", "tracking.experiment=mine"])
    assert (FOLDER / "params.yaml").stat().st_mtime_ns == written
    Path("params.yaml").write_text(
        Path("params.yaml").read_text().replace("samples_per_persona: 6", "samples_per_persona: 5")
    )
    prepare(FOLDER, PARAMS, ["mistral-7b-lora"], [])
    assert load_params(FOLDER / "params.yaml").synthesis.samples_per_persona == 5


def test_code_inputs_and_journal_are_the_projects_and_results_are_not(bare_project: Path) -> None:
    prepare(FOLDER, PARAMS, [], [])
    for name in ("agentrefine", "dvc.yaml", "data/personas.jsonl", "data/journal"):
        assert (FOLDER / name).resolve() == (bare_project / name).resolve(), name
        assert not (FOLDER / name).readlink().is_absolute()
    assert not (FOLDER / "data").is_symlink()
    assert not (FOLDER / "dvc.lock").exists()


def test_what_the_parameters_name_and_no_stage_writes_is_linked(bare_project: Path) -> None:
    imported = {
        name: bare_project / "data" / name for name in ("chats", "games", "dataset", "mix/chat20", "on_policy/round1")
    }
    for data_set in (*imported.values(), bare_project / "my_tokenizer"):
        data_set.mkdir(parents=True)
    for name in ("chat.json", "prices.yaml"):
        (bare_project / name).touch()
    endpoint = "{base_url: 'http://127.0.0.1:1/v1', model: m, api_key_env: KEY, prices: prices.yaml}"
    preset = f"""\
quality_gate: {{tokenizer: my_tokenizer}}
mix:
  chat20: {{data_set: data/chats, chat: chat.json, share: 0.2}}
  chat30: {{data_set: data/dataset, chat: chat.json, share: 0.3}}
on_policy: {{round1: {{model: refinement, worlds: 8}}}}
tuning:
  variants:
    refinement: {{train_on: correct_turns, data_set: data/games}}
    mixed: {{train_on: correct_turns, data_set: data/mix/chat20}}
    own: {{train_on: correct_turns, data_set: ./data/on_policy/round1/}}
evaluation: {{models: [base, refinement], endpoints: {{rival: {endpoint}}}}}
report: {{baseline: base}}
"""
    (bare_project / "presets/mine.yaml").write_text(preset)
    prepare(FOLDER, PARAMS, ["mine"], [])
    for name in ("data/chats", "data/games", "chat.json", "prices.yaml", "my_tokenizer"):
        assert (FOLDER / name).resolve() == (bare_project / name).resolve(), name
    for name in ("data/dataset", "data/mix", "data/on_policy"):
        assert not (FOLDER / name).exists(), name


def test_dvc_sees_the_folder_as_a_repository_of_its_own_with_the_projects_cache(
    bare_project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    prepare(FOLDER, PARAMS, [], [])
    monkeypatch.chdir(FOLDER)
    write_resolved()
    repo = Repo(".")
    assert Path(repo.root_dir) == bare_project / FOLDER
    assert Path(repo.cache.local.path).is_relative_to(bare_project / ".dvc" / "cache")
    for name in ("attempts.jsonl", "metrics.json"):
        Path("data/synthesis").mkdir(exist_ok=True)
        Path("data/synthesis", name).write_text("{}\n")
    repo.commit("synthesis", force=True)
    repo._reset()
    assert not repo.status(targets=["synthesis"])
    assert Path("dvc.lock").is_file()
    assert not (bare_project / "dvc.lock").exists()


def test_what_cannot_be_a_run_is_refused(bare_project: Path) -> None:
    with refused("unknown_name", name="unknown"):
        prepare(FOLDER, PARAMS, ["unknown"], [])
    with refused("unknown_key", key="tuning.speed"):
        prepare(FOLDER, PARAMS, [], ["tuning.speed=1"])
    with refused("bad_value", key="tuning.learning_rate"):
        prepare(FOLDER, PARAMS, [], ["tuning.learning_rate=fast"])
    assert not (FOLDER / "params.yaml").exists()
    assert not list(FOLDER.glob(".params*"))
    (FOLDER / "agentrefine").mkdir(parents=True)
    with refused("not_a_link", file=FOLDER / "agentrefine"):
        prepare(FOLDER, PARAMS, [], [])
