"""What DVC shows of the results and brings back: real DVC on results that are made by hand."""

import json
import subprocess
from pathlib import Path

import pytest
import yaml
from dvc.repo import Repo

from agentrefine.params import load_params
from agentrefine.report.document import write_report
from agentrefine.report.inputs import Project
from agentrefine.tuning.cards import ReferenceCard
from tests.helpers.chromium import chromium
from tests.helpers.paths import ROOT
from tests.helpers.project import ProjectCopy, digests
from tests.helpers.results_tree import episodes, write_evaluation, write_results

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

COLUMNS = 120
CAPTIONS = """Object.fromEntries([...document.querySelectorAll("body > div")].map((figure) =>
  [figure.querySelector("p").innerText, getComputedStyle(figure, "::before").content]))"""
"""What stands above each figure of DVC's page, by its file."""
EVALUATIONS = [f"data/evaluation/{model}/metrics.json" for model in ("chance", "base", "expert_only", "refinement")]


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> ProjectCopy:
    """A project whose results are recorded and committed, and two experiments after it."""
    copy = ProjectCopy.make(tmp_path_factory.mktemp("project"), own_server=True)
    copy.environment |= {"COLUMNS": str(COLUMNS), **_AUTHOR}
    write_results(copy.folder)
    write_the_report(copy.folder)
    for out in Repo(copy.folder).index.outs:
        path = Path(out.fs_path)
        if not path.exists():  # what the stages of the data and of tuning leave: DVC asks no more than that it is there
            file = path if path.suffix else path / "file"
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text("written by a stage")
    card = ReferenceCard(path="somebody/model", digest="d", chat_template=[])  # the report reads it
    (copy.folder / "models/base/card.json").write_text(card.model_dump_json())
    dvc(copy, "commit", "--force", "--quiet")
    copy.commit("results")
    for seed, solved in ((8, 14), (9, 16)):
        change(copy, seed, solved)
        dvc(copy, "exp", "save", "--force", "--name", f"seed-{seed}")
        undo(copy)
    return copy


_AUTHOR = {f"GIT_{role}_{field}": "test" for role in ("AUTHOR", "COMMITTER") for field in ("NAME", "EMAIL")}


def dvc(copy: ProjectCopy, *arguments: str) -> str:
    done = copy.run("dvc", *arguments)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    return done.stdout


def write_the_report(folder: Path) -> None:
    write_report(load_params(folder / "params.yaml"), Project(folder))


def change(copy: ProjectCopy, seed: int, solved: int) -> None:
    """Another run: another seed, other weights, other episodes."""
    copy.set_params(seed=seed)
    (copy.folder / "models/refinement/file").write_text(f"seed {seed}")
    write_evaluation(copy.folder, "refinement", episodes("refinement", solved))
    write_the_report(copy.folder)


def undo(copy: ProjectCopy) -> None:
    """Back to the last commit."""
    copy.git("checkout", ".")
    dvc(copy, "checkout", "--force", "--quiet")


def width(shown: str) -> int:
    return max(len(line.rstrip()) for line in shown.splitlines())


def test_the_headline_fits_the_screen_and_so_do_its_changes(project: ProjectCopy) -> None:
    shown = dvc(project, "metrics", "show")
    assert shown.split()[:5] == ["Path", "cost_usd", "kept_share", "success.expert_only", "success.refinement"]
    assert len(shown.splitlines()) == 2
    changed = dvc(project, "metrics", "diff", "HEAD", "seed-8")
    assert "success.refinement" in changed
    assert max(width(shown), width(changed)) <= COLUMNS


def test_the_success_of_each_model_on_each_benchmark_is_a_table_that_fits_the_screen(project: ProjectCopy) -> None:
    shown = dvc(project, "metrics", "show", *EVALUATIONS)
    head, *rows = shown.splitlines()
    assert head.split() == ["Path", "babyai", "worlds_layouts"]
    assert [row.split()[0] for row in rows] == EVALUATIONS
    assert rows[-1].split()[1:] == ["0.0", "0.65"]
    assert width(shown) <= COLUMNS


def test_experiments_are_compared_by_headline_and_changed_parameters(project: ProjectCopy) -> None:
    said = project.run("make", "--dry-run", "--old-file", ".venv/.installed", "experiments").stdout
    command = next(line for line in said.splitlines() if line.startswith("dvc exp show"))
    shown = project.run("bash", "-c", command)
    assert shown.returncode == 0, shown.stderr
    head, *_ = (line for line in shown.stdout.splitlines() if "Experiment" in line)
    assert head.split() == ["Experiment", "Created", "success.refinement", "params.yaml:seed"]
    for name, success, seed in (("seed-8", "0.7", "8"), ("seed-9", "0.8", "9")):
        row = next(line for line in shown.stdout.splitlines() if f"[{name}]" in line)
        assert row.split()[-2:] == [success, seed]
    assert width(shown.stdout) <= COLUMNS
    assert "…" not in shown.stdout


def test_figures_are_seen_without_a_network(project: ProjectCopy, tmp_path: Path) -> None:
    address = dvc(project, "plots", "diff", "HEAD", "seed-8").split()[-1]
    with chromium(tmp_path / "profile") as page:
        page.call("Network.emulateNetworkConditions", offline=True, latency=0, downloadThroughput=0, uploadThroughput=0)
        page.call("Page.navigate", url=address)
        page.wait_for("document.readyState === 'complete' && document.images.length")
        widths = page.evaluate("[...document.images].map((image) => image.naturalWidth)")
        assert len(widths) >= 2 * 3
        assert all(widths)
        assert {request.partition(":")[0] for request in page.requests} == {"file"}
        assert page.complaints == []
        shown = page.evaluate(CAPTIONS)
    titles = yaml.safe_load((ROOT / "agentrefine/report/texts.yaml").read_text())["figures"]
    assert len(shown) >= 3
    assert shown == {file: f'"{titles[Path(file).stem]}"' for file in shown}
    html = (ROOT / ".dvc/plots.html").read_text()
    drawn = yaml.safe_load((ROOT / "dvc.yaml").read_text())["plots"]
    assert [file for file in drawn if titles[Path(file).stem] not in html] == []


def test_git_and_dvc_checkout_undo_a_run(project: ProjectCopy) -> None:
    results = ("data", "models", "reports")
    before = {name: digests(project.folder / name) for name in results}
    params = (project.folder / "params.yaml").read_bytes()
    change(project, 10, 20)
    dvc(project, "commit", "--force", "--quiet")
    assert before != {name: digests(project.folder / name) for name in results}
    undo(project)
    assert before == {name: digests(project.folder / name) for name in results}
    assert (project.folder / "params.yaml").read_bytes() == params
    assert subprocess.check_output(["git", "status", "--porcelain"], cwd=project.folder) == b""
    assert project.changed_stages() == set()


def test_an_experiment_is_brought_back_and_taken_away_again(project: ProjectCopy) -> None:
    dvc(project, "exp", "apply", "seed-9")
    headline = json.loads((project.folder / "reports/metrics.json").read_text())
    assert headline["success"]["refinement"] == 0.8
    assert (project.folder / "models/refinement/file").read_text() == "seed 9"
    undo(project)
    assert (project.folder / "models/refinement/file").read_text() == "written by a stage"
