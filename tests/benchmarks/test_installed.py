"""Which benchmarks are played: all that are installed, or those that are named."""

import json
from importlib.metadata import PackageNotFoundError
from pathlib import Path

import pytest

from agentrefine.benchmarks import simulators
from agentrefine.benchmarks.catalogue import BENCHMARKS, selected
from agentrefine.errors import NotInstalledError
from agentrefine.params.evaluation import INSTALLED, BenchmarkData, EvaluationParams
from tasks import playing as recorded
from tests.helpers.errors import refused
from tests.helpers.results_tree import params_for

DATA = BenchmarkData()
NEEDED = ("alfworld", "alfworld_perturbed", "sciworld", "jericho", "textworld")


@pytest.fixture
def evaluation(tmp_path: Path) -> EvaluationParams:
    return params_for(tmp_path).evaluation


@pytest.fixture
def nothing_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(simulators.importlib.util, "find_spec", lambda _: None)


@pytest.mark.usefixtures("nothing_installed")
def test_what_is_not_installed_is_left_out_with_a_reason(evaluation: EvaluationParams) -> None:
    found = selected(evaluation.model_copy(update={"benchmarks": INSTALLED}))
    assert list(found) == list(BENCHMARKS)
    absent = {name: str(reason) for name, reason in found.items() if isinstance(reason, NotInstalledError)}
    assert set(absent) == set(NEEDED)
    assert all("pip install 'agentrefine[benchmarks]'" in reason and "\n" not in reason for reason in absent.values())


@pytest.mark.usefixtures("nothing_installed")
def test_what_is_named_must_be_installed(evaluation: EvaluationParams) -> None:
    assert list(selected(evaluation.model_copy(update={"benchmarks": ["babyai"]}))) == ["babyai"]
    with refused("not_installed", benchmark="sciworld") as caught:
        selected(evaluation.model_copy(update={"benchmarks": ["babyai", "sciworld"]}))
    assert isinstance(caught.value, NotInstalledError)


def test_a_users_file_that_is_not_there_is_an_error_also_when_nothing_is_named(evaluation: EvaluationParams) -> None:
    data = evaluation.data.model_copy(update={"hotpotqa": "nowhere.json"})
    with refused("file_missing", file=Path("nowhere.json")):
        selected(evaluation.model_copy(update={"benchmarks": INSTALLED, "data": data}))


def test_several_attempts_without_chance_are_refused(evaluation: EvaluationParams) -> None:
    values = evaluation.model_dump() | {"attempts": 3}
    with pytest.raises(ValueError, match=r"attempts: at temperature 0 every attempt is the same"):
        EvaluationParams.model_validate(values)
    assert EvaluationParams.model_validate(values | {"sampling": {"temperature": 0.7}}).attempts == 3


def test_the_simulators_are_written_down_when_they_have_changed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recorded, "SIMULATORS", tmp_path / "simulators.json")
    installed = {"minigrid": "3.2.0", "scienceworld": "1.2.3"}

    def version(package: str) -> str:
        if package not in installed:
            raise PackageNotFoundError(package)
        return installed[package]

    monkeypatch.setattr(recorded, "version", version)
    monkeypatch.setenv("PATH", "")
    recorded.record_simulators(DATA)
    first = (tmp_path / "simulators.json").stat()
    assert json.loads((tmp_path / "simulators.json").read_text()) == {
        "alfworld": None,
        "jericho": None,
        "minigrid": "3.2.0",
        "scienceworld": "1.2.3",
        "textworld": None,
        "unified-planning": None,
        "java": None,
    }
    recorded.record_simulators(DATA)
    assert (tmp_path / "simulators.json").stat() == first
    installed["textworld"] = "1.7.0"
    recorded.record_simulators(DATA)
    assert json.loads((tmp_path / "simulators.json").read_text())["textworld"] == "1.7.0"


def test_a_users_file_that_has_changed_is_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ALFWORLD_DATA", raising=False)
    (tmp_path / "domains").mkdir()
    problem = tmp_path / "domains" / "p1.pddl"
    problem.write_text("(define)")
    data = BenchmarkData(pddl=str(tmp_path / "domains"))
    first = recorded.simulators(data)
    assert set(first) - set(recorded.simulators(DATA)) == {"data.pddl"}
    assert recorded.simulators(data) == first
    problem.write_text("(define )")
    assert recorded.simulators(data)["data.pddl"] != first["data.pddl"]
    monkeypatch.setenv("ALFWORLD_DATA", str(tmp_path))
    assert "data.alfworld" in recorded.simulators(DATA)
