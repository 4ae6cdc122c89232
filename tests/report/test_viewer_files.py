"""The episode viewer's pages as files: what is in them, and what is not."""

import base64
import re
import zlib
from pathlib import Path

import pytest

from agentrefine.evaluation.metrics import summarise
from agentrefine.files import write_jsonl
from agentrefine.report.document import write_report
from agentrefine.report.inputs import Project
from agentrefine.report.viewer import ViewedModel, viewed_episode, viewed_model, write_viewers
from tests.helpers.errors import refused
from tests.helpers.hand_made_episodes import episode, step
from tests.helpers.results_tree import params_for, two_models_for, write_evaluation, write_results
from tests.helpers.viewed_episodes import BASE, TUNED


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The pages of two models."""
    for model, played in (("refinement", TUNED), ("base", BASE)):
        write_evaluation(tmp_path, model, played)
    write_viewers(two_models_for(tmp_path), Project(tmp_path))
    return tmp_path / "reports" / "evaluation"


def unpacked(page: str, model: str) -> ViewedModel:
    text = re.search(f'data-model="{model}">([^<]*)</script>', page)
    assert text is not None
    return ViewedModel.model_validate_json(zlib.decompress(base64.b64decode(text[1])))


def test_no_text_of_an_episode_is_part_of_the_markup(folder: Path) -> None:
    page = (folder / "refinement" / "index.html").read_text()
    assert "window.broken" not in page
    assert page.count("</script>") == 3  # two models' episodes and the page's own script
    assert unpacked(page, "refinement") == viewed_model("refinement", TUNED)
    assert unpacked(page, "base") == viewed_model("base", BASE)


def test_every_evaluated_model_has_a_page_and_no_other_stays(tmp_path: Path) -> None:
    for model, played in (("refinement", TUNED), ("base", BASE)):
        write_evaluation(tmp_path, model, played)
    written = tmp_path / "reports" / "evaluation"
    (written / "earlier").mkdir(parents=True)
    write_viewers(two_models_for(tmp_path), Project(tmp_path))
    assert sorted(path.relative_to(written).as_posix() for path in written.rglob("*.html")) == [
        "base/index.html", "refinement/index.html",
    ]  # fmt: skip
    assert not (written / "earlier").exists()
    first = (written / "base" / "index.html").read_bytes()
    write_viewers(two_models_for(tmp_path), Project(tmp_path))
    assert (written / "base" / "index.html").read_bytes() == first


def test_a_broken_episode_is_named_and_leaves_the_pages_as_they_were(tmp_path: Path) -> None:
    write_evaluation(tmp_path, "base", BASE)
    folder = write_evaluation(tmp_path, "refinement", TUNED)
    with (folder / "episodes.jsonl").open("a") as handle:
        handle.write('{"id": 7}\n')
    with refused("stage_file_broken", file=folder / "episodes.jsonl", line=8):
        write_viewers(two_models_for(tmp_path), Project(tmp_path))
    assert not (tmp_path / "reports").exists()


def test_the_report_leads_to_the_pages(tmp_path: Path) -> None:
    write_results(tmp_path)
    write_report(params_for(tmp_path), Project(tmp_path))
    write_viewers(params_for(tmp_path), Project(tmp_path))
    reports = tmp_path / "reports"
    linked = re.findall(r'href="([^"]+)"', (reports / "report.html").read_text())
    pages = [f"evaluation/{model}/index.html" for model in ("chance", "base", "expert_only", "refinement")]
    assert linked == ["quality_gate/summary.md", *pages]
    assert all((reports / link).is_file() for link in linked)
    assert "`reports/evaluation/refinement/index.html`" in (reports / "report.md").read_text()


def test_plays_of_one_episode_are_numbered(tmp_path: Path) -> None:
    viewed = viewed_model("refinement", [TUNED[0], TUNED[1], TUNED[0]])
    assert [(play.id, play.attempt) for play in viewed.episodes] == [("hall/0", 0), ("hall/1", 0), ("hall/0", 1)]
    assert write_jsonl(tmp_path / "viewed.jsonl", viewed.episodes) == 3


def test_recoveries_are_those_that_the_report_counts() -> None:
    flags = [flag for play in TUNED for turn in viewed_episode(play).turns for flag in turn.flags]
    rates = summarise([play.model_copy(update={"benchmark": "all"}) for play in TUNED])["all"].recovery_rate
    assert flags.count("recovered") == pytest.approx((rates.value or 0) * rates.n) == 1


def test_a_fault_of_the_world_is_shown_and_is_no_error() -> None:
    viewed = viewed_episode(episode(1, step("pull", valid=False), step(fault=True), step(fault=True), step()))
    assert [turn.flags for turn in viewed.turns] == [["invalid action"], ["recovered", "fault"], ["fault"], []]
    assert viewed.errors == ["invalid action"]
