"""Which benchmarks are played: all that are installed, or those that are named."""

import json
from importlib.metadata import PackageNotFoundError
from pathlib import Path

import pytest

from agentrefine.benchmarks import simulators
from agentrefine.benchmarks.catalogue import BENCHMARKS, PACKAGES, selected
from agentrefine.errors import NotInstalledError
from agentrefine.params.evaluation import INSTALLED, PLAYED_BY_DEFAULT, BenchmarkData, EvaluationParams
from tasks import playing as recorded
from tests.helpers.errors import misfit, refused
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
    with misfit(key="evaluation.attempts", value=3):
        EvaluationParams.model_validate(values)
    assert EvaluationParams.model_validate(values | {"sampling": {"temperature": 0.7}}).attempts == 3


def test_the_default_is_a_list_that_the_plain_installation_can_play() -> None:
    default = EvaluationParams()
    assert default.benchmarks == list(PLAYED_BY_DEFAULT)
    assert not set(NEEDED) & set(default.benchmarks)
    assert set(default.benchmarks) | set(NEEDED) == set(BENCHMARKS) - {"worlds_faulty"}  # played where it is named


@pytest.mark.usefixtures("nothing_installed")
def test_the_default_needs_no_simulator() -> None:
    assert not any(isinstance(found, NotInstalledError) for found in selected(EvaluationParams()).values())


def test_what_plays_a_benchmark_is_listed_with_it() -> None:
    """Else a new version of a simulator would leave its episodes as they are."""
    for name, make in BENCHMARKS.items():
        if package := getattr(make(DATA), "package", None):
            assert package in PACKAGES[name]
    assert set(NEEDED) < PACKAGES.keys()


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """The packages that are there, and their versions; without Java."""
    monkeypatch.setattr(recorded, "SIMULATORS", tmp_path / "simulators.json")
    monkeypatch.setattr(recorded, "COMPARED_SIMULATORS", tmp_path / "compared.json")
    monkeypatch.setenv("PATH", "")
    monkeypatch.delenv("ALFWORLD_DATA", raising=False)
    present = {"minigrid": "3.2.0", "unified-planning": "1.3.0"}

    def version(package: str) -> str:
        if package not in present:
            raise PackageNotFoundError(package)
        return present[package]

    monkeypatch.setattr(recorded, "version", version)
    return present


def recorded_with(folder: Path, benchmarks: list[str] | str, compared: list[str] | str = ()) -> list[dict[str, str]]:
    """What is written down of the simulators of the evaluation and of the gate."""
    params = params_for(folder)
    played = params.evaluation.model_copy(update={"benchmarks": benchmarks})
    gate = params.quality_gate.model_copy(update={"overlap_benchmarks": compared})
    recorded.record_simulators(params.model_copy(update={"evaluation": played, "quality_gate": gate}))
    return [json.loads((folder / name).read_text()) for name in ("simulators.json", "compared.json")]


def test_a_simulator_that_comes_changes_nothing_for_those_who_do_not_play_it(
    tmp_path: Path, installed: dict[str, str]
) -> None:
    before = recorded_with(tmp_path, list(PLAYED_BY_DEFAULT))
    written = (tmp_path / "simulators.json").stat()
    assert before == [{"minigrid": "3.2.0", "unified-planning": "1.3.0"}] * 2
    installed |= {"textworld": "1.7.0", "alfworld": "0.4.2", "jericho": "3.3.0", "scienceworld": "1.2.3"}
    assert recorded_with(tmp_path, list(PLAYED_BY_DEFAULT)) == before
    assert (tmp_path / "simulators.json").stat() == written
    assert recorded_with(tmp_path, ["alfworld"])[0] == {"alfworld": "0.4.2", "textworld": "1.7.0"}
    installed["minigrid"] = "3.3.0"
    assert recorded_with(tmp_path, list(PLAYED_BY_DEFAULT))[0]["minigrid"] == "3.3.0"


def test_a_benchmark_that_only_the_gate_reads_makes_no_evaluation_run_again(
    tmp_path: Path, installed: dict[str, str]
) -> None:
    played, compared = recorded_with(tmp_path, ["babyai"], ["textworld"])
    assert played == {"minigrid": "3.2.0"}
    assert compared == {"minigrid": "3.2.0", "textworld": None}


def test_with_installed_every_simulator_counts(tmp_path: Path, installed: dict[str, str]) -> None:
    installed["scienceworld"] = "1.2.3"
    everything = {
        "alfworld": None,
        "jericho": None,
        "minigrid": "3.2.0",
        "scienceworld": "1.2.3",
        "textworld": None,
        "unified-planning": "1.3.0",
        "java": None,
    }
    assert recorded_with(tmp_path, INSTALLED) == [everything, everything]


def test_a_users_file_that_has_changed_is_seen_where_it_is_played(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("ALFWORLD_DATA", raising=False)
    (tmp_path / "domains").mkdir()
    problem = tmp_path / "domains" / "p1.pddl"
    problem.write_text("(define)")
    data = BenchmarkData(pddl=str(tmp_path / "domains"))
    first = recorded.simulators(["pddl"], data)
    assert set(first) - set(recorded.simulators(["pddl"], DATA)) == {"data.pddl"}
    assert "data.pddl" not in recorded.simulators(["babyai"], data)
    assert recorded.simulators(["pddl"], data) == first
    problem.write_text("(define )")
    assert recorded.simulators(["pddl"], data)["data.pddl"] != first["data.pddl"]
    monkeypatch.setenv("ALFWORLD_DATA", str(tmp_path))
    assert "data.alfworld" in recorded.simulators(["alfworld"], DATA)
    assert "data.alfworld" not in recorded.simulators(["pddl"], DATA)
