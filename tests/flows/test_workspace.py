"""The working folder: what DVC says, overrides that hold for one run, one run at a time."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

import flows  # noqa: F401  (sets the environment that keeps tools quiet)
from flows import workspace
from flows.workspace import Workspace, exclusive_use, overridden_params
from tasks.params import write_resolved
from tests.helpers.errors import refused
from tests.helpers.paths import ROOT

PARAMS = """\
# every knob
tuning:
  learning_rate: 1.0e-3  # found by trial
  variants: [refinement]
base: tiny
"""
DVC = """\
stages:
  tuning:
    matrix:
      variant: ${tuning.variants}
    cmd: cp data.txt ${item.variant}.txt
    deps: [data.txt]
    params: [tuning]
    outs: ["${item.variant}.txt"]
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project folder with DVC and one stage."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "params.yaml").write_text(PARAMS)
    (tmp_path / "data.txt").write_text("games")
    (tmp_path / "dvc.yaml").write_text(DVC)
    subprocess.run(["git", "init", "-q"], check=True)
    subprocess.run([sys.executable, "-m", "dvc", "init", "-q"], check=True, env={**os.environ, "DVC_NO_ANALYTICS": "1"})
    return tmp_path


RECORD = """
from pathlib import Path
from prefect.logging.configuration import setup_logging
from flows.workspace import Workspace
setup_logging()
Workspace().run("tuning@refinement", lambda: Path("refinement.txt").write_text("a model"))
"""


def test_dvc_says_once_that_it_records_a_stage(folder: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    Path("dvc.lock").write_text("schema: '2.0'\nstages: {}\n")
    done = subprocess.run([sys.executable, "-c", RECORD], env=environment, capture_output=True, text=True, check=True)
    assert (done.stdout + done.stderr).count("Updating lock file 'dvc.lock'") == 1


def test_a_stage_is_up_to_date_once_it_is_recorded_and_until_its_parameters_change(folder: Path) -> None:
    work = Workspace()
    assert not work.up_to_date("tuning@refinement")
    work.run("tuning@refinement", lambda: (folder / "refinement.txt").write_text("a model"))
    assert work.up_to_date("tuning@refinement")
    status = subprocess.run([sys.executable, "-m", "dvc", "status"], capture_output=True, text=True, check=True).stdout
    assert "up to date" in status
    (folder / "params.yaml").write_text(PARAMS.replace("1.0e-3", "2.0e-3"))
    assert not work.up_to_date("tuning@refinement")


@pytest.mark.parametrize(
    ("name", "edited"), [("data.txt", "other games"), ("params.yaml", PARAMS.replace("1.0e-3", "2.0e-3"))]
)
def test_a_stage_whose_input_changes_while_it_runs_is_not_recorded(folder: Path, name: str, edited: str) -> None:
    def run() -> None:
        (folder / "refinement.txt").write_text("a model of what was there before")
        (folder / name).write_text(edited)

    work = Workspace()
    with refused("input_changed", stage="tuning@refinement", inputs=[name]):
        work.run("tuning@refinement", run)
    assert not (folder / "dvc.lock").exists()
    assert not work.up_to_date("tuning@refinement")


def test_what_a_stage_does_not_read_may_change_while_it_runs(folder: Path) -> None:
    def run() -> None:
        (folder / "refinement.txt").write_text("a model")
        (folder / "params.yaml").write_text(PARAMS.replace("tiny", "other"))

    work = Workspace()
    work.run("tuning@refinement", run)
    assert work.up_to_date("tuning@refinement")


def test_a_stage_that_fails_is_not_recorded(folder: Path) -> None:
    def run() -> None:
        (folder / "refinement.txt").write_text("half a model")
        raise RuntimeError("midway")

    with pytest.raises(RuntimeError, match="midway"):
        Workspace().run("tuning@refinement", run)
    assert not (folder / "dvc.lock").exists()


def test_a_stage_that_dvc_yaml_does_not_have_is_named(folder: Path) -> None:
    with refused("dvc_yaml_refused", file="dvc.yaml", stage="dancing"):
        Workspace().up_to_date("dancing")


def test_stages_side_by_side_are_recorded_and_what_one_had_finished_is_kept_when_another_fails(folder: Path) -> None:
    (folder / "params.yaml").write_text(PARAMS.replace("[refinement]", "[a, b]"))
    work = Workspace()
    write = "from pathlib import Path; Path('{0}.txt').write_text('a model')"
    wait = "import time; from pathlib import Path\nwhile not Path('a.txt').exists(): time.sleep(0.1)\n"
    commands = {
        "tuning@a": [sys.executable, "-c", write.format("a")],
        "tuning@b": [sys.executable, "-c", wait + "time.sleep(2); raise SystemExit(1)"],
    }
    with refused("stage_failed", stage="tuning@b", status=1):
        work.run_side_by_side(commands, 2)
    assert work.up_to_date("tuning@a")
    assert not work.up_to_date("tuning@b")
    work.run_side_by_side({"tuning@b": [sys.executable, "-c", write.format("b")]}, 2)
    assert work.up_to_date("tuning@b")


@pytest.mark.parametrize(
    ("lost", "remedy"),
    [(".git", ["git", "init", "-q"]), (".git", ["dvc", "config", "core.no_scm", "true"]), (".dvc", ["dvc", "init"])],
)
def test_the_sentence_about_a_folder_without_git_or_dvc_gives_a_command_that_works(
    folder: Path, lost: str, remedy: list[str]
) -> None:
    shutil.rmtree(folder / lost)
    with refused("not_a_repository", missing=lost.removeprefix(".")) as caught:
        Workspace()
    assert " ".join(remedy).removesuffix(" -q") in str(caught.value)
    command = [sys.executable, "-m", *remedy] if remedy[0] == "dvc" else remedy
    subprocess.run(command, check=True, capture_output=True)
    assert not Workspace().up_to_date("tuning@refinement")


def test_overrides_hold_for_one_run_and_leave_the_file_as_it_was(folder: Path) -> None:
    odd = 'it\'s "odd": {a}, [b]'
    with overridden_params({"tuning.learning_rate": 0.002, "base": odd, "tuning.variants": ["a", "b"]}):
        text = (folder / "params.yaml").read_text()
        assert "# found by trial" in text
        values = yaml.safe_load(text)
        assert values["base"] == odd
        assert values["tuning"] == {"learning_rate": 0.002, "variants": ["a", "b"]}
    assert (folder / "params.yaml").read_text() == PARAMS


def test_the_resolved_parameters_are_put_back_with_the_overrides(folder: Path) -> None:
    shutil.copyfile(ROOT / "params.yaml", folder / "params.yaml")
    write_resolved()
    before = (folder / "params.resolved.yaml").read_bytes()
    with overridden_params({"tuning.epochs": 7}):
        write_resolved()
        assert yaml.safe_load((folder / "params.resolved.yaml").read_text())["tuning"]["epochs"] == 7
    assert (folder / "params.resolved.yaml").read_bytes() == before


def test_overrides_are_put_back_when_the_run_fails(folder: Path) -> None:
    with pytest.raises(RuntimeError, match="midway"), overridden_params({"base": "other"}):
        raise RuntimeError("midway")
    assert (folder / "params.yaml").read_text() == PARAMS


@pytest.mark.parametrize(
    ("key", "meant"),
    [
        ("tuning.learning_speed", "tuning.learning_rate"),
        ("learning_rate", "tuning.learning_rate"),
        ("evaluation.max_step", "evaluation.max_steps"),
        ("dance", None),
    ],
)
def test_an_override_of_an_unknown_key_names_the_one_that_was_meant_and_changes_nothing(
    folder: Path, key: str, meant: str | None
) -> None:
    with refused("unknown_key", key=key, meant=meant), overridden_params({"seed": 8, key: 1}):
        pytest.fail("the run began")
    assert (folder / "params.yaml").read_text() == PARAMS


def test_params_left_by_a_killed_run_are_put_back_by_the_next(folder: Path) -> None:
    workspace.BACKUP.parent.mkdir(parents=True, exist_ok=True)
    workspace.BACKUP.write_text(PARAMS)
    (folder / "params.yaml").write_text(PARAMS.replace("tiny", "other"))
    with exclusive_use():
        assert (folder / "params.yaml").read_text() == PARAMS


def test_what_was_edited_after_a_kill_is_kept(folder: Path) -> None:
    workspace.BACKUP.parent.mkdir(parents=True, exist_ok=True)
    workspace.BACKUP.write_text(PARAMS)
    workspace.OVERRIDDEN.write_text(PARAMS.replace("tiny", "other"))
    edited = PARAMS.replace("tiny", "mine")
    (folder / "params.yaml").write_text(edited)
    with exclusive_use():
        assert (folder / "params.yaml").read_text() == edited
    assert not workspace.BACKUP.exists()


@pytest.mark.usefixtures("folder")
def test_a_second_run_in_the_same_folder_is_refused() -> None:
    with exclusive_use(), refused("already_running"), exclusive_use():
        pytest.fail("two runs at once")
