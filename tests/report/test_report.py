"""The report says what the stages left, says it the same way twice, and says clearly what is missing."""

import csv
import hashlib
import json
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console
from rich.table import Table

from agentrefine.evaluation.episodes import Episode
from agentrefine.evaluation.metrics import compare
from agentrefine.llm.spending import dollars, load_prices
from agentrefine.params import Params
from agentrefine.params.evaluation import Prompting, Sampling
from agentrefine.report.document import episodes_to_read, evidence, headline, play_sentence, title, write_report
from agentrefine.report.figures import KindBar, informative, kind_bars, rate_bars
from agentrefine.report.inputs import Project, notable_episodes, seconds_per_episode
from agentrefine.report.tables import published, recovery_kind_rows, recovery_rows, terminal_table, verdict_sentence
from agentrefine.report.timing import RESULTS, stage_seconds, timed
from tests.helpers.errors import refused
from tests.helpers.results_tree import (
    NOT_INSTALLED,
    SOLVED,
    episodes,
    params_for,
    two_models_for,
    write_evaluation,
    write_results,
)

# Wilson's 95% interval of 13 of 20 and of 1 of 20.
REFINEMENT, BASE = "65.0 [43.3, 81.9]", "5.0 [0.9, 23.6]"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    write_results(tmp_path)
    return tmp_path


def test_report_shows_every_stage_and_the_rates_with_intervals(root: Path) -> None:
    write_report(params_for(root), Project(root))
    page = (root / "reports" / "report.md").read_text()
    for shown in (
        "# Refinement tuning: 65% against 20% with plain expert tuning on unseen layouts, clearly better\n",
        "| verification | rejected | 160 |",
        "| repair | samples kept | 231 |",
        "- A kept game took 2.77 calls, 11,082 tokens and $0.02, ",
        "| not_json | 90 | 9 |",
        "| no_end | 70 | 0 |",
        "passed: 1 of 2 expectations are met. [Every expectation, with examples](quality_gate/summary.md).",
        "| warning | data set: action entropy | 1.5 | at least 2 |",
        "| refinement | 940,000 | 225 | 30 | 400,000 | 124,000 (31.0%) | 0.432 | 2.500 -> 0.500 |",
        "agentrefine serve",
        "dvc metrics diff",
    ):
        assert shown in page
    assert any(line.startswith(f"| worlds layouts | refinement | {REFINEMENT} |") for line in page.splitlines())
    assert any(line.startswith(f"| worlds layouts | base | {BASE} |") for line in page.splitlines())


def test_the_table_shows_chance_first_and_folds_what_nobody_is_above_chance_in(root: Path) -> None:
    results = write_report(params_for(root), Project(root))
    table = [row for row in csv_rows(root / "reports" / "report.md") if row[0] in ("worlds layouts", "babyai")]
    assert [row[1] for row in table[:4]] == ["chance", "base", "expert only", "refinement"]
    assert results.at_chance == ["babyai"]
    page = (root / "reports" / "report.md").read_text()
    assert "\nNobody above chance: babyai." in page
    assert "| babyai |" not in page
    assert "- worlds layouts: above chance: refinement." in page
    html = (root / "reports" / "report.html").read_text()
    assert "<summary>Nobody above chance: babyai.</summary>" in html
    folded = html.partition("<summary>Nobody above chance: babyai.</summary>")[2].partition("</details>")[0]
    assert "<span>babyai</span>" in folded
    assert "<td>chance</td>" in folded


def csv_rows(page: Path) -> list[list[str]]:
    """The rows of all tables of a Markdown page."""
    lines = page.read_text().splitlines()
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines if line.startswith("|")]


def test_what_decides_is_shown_though_nobody_is_above_chance(root: Path) -> None:
    params = params_for(root)
    decides = params.report.model_copy(update={"champion_benchmark": "babyai"})
    results = write_report(params.model_copy(update={"report": decides}), Project(root))
    assert results.at_chance == []


def test_without_chance_any_progress_counts_as_above_it(root: Path) -> None:
    params = params_for(root)
    alone = params.model_copy(update={"evaluation": params.evaluation.model_copy(update={"references": []})})
    assert write_report(alone, Project(root)).at_chance == ["babyai"]
    write_evaluation(root, "base", [*episodes("base", 1), *episodes("base", 1, benchmark="babyai")])
    results = write_report(alone, Project(root))
    assert results.at_chance == []
    assert list(results.models) == ["base", "expert_only", "refinement"]


def test_markdown_tables_have_one_width_and_no_gaps(root: Path) -> None:
    write_report(params_for(root), Project(root))
    blocks = (root / "reports" / "report.md").read_text().split("\n\n")
    tables = [block.strip().splitlines() for block in blocks if block.strip().startswith("|")]
    assert len(tables) == 8  # results, recovery, effort, costs, two of data, quality gate, tuning
    for table in tables:
        assert len(table) > 2
        assert len({line.count("|") for line in table}) == 1


def test_report_says_that_the_teacher_is_simulated_and_the_model_tiny(root: Path) -> None:
    params = params_for(root)
    write_report(params, Project(root))
    page = (root / "reports" / "report.md").read_text()
    assert "rule-based simulated teacher" in page
    assert "model is tiny" in page
    assert "bookkeeping" in page
    real = params.model_copy(
        update={
            "teacher": params.teacher.model_copy(update={"base_url": "http://127.0.0.1:8000/v1"}),
            "base_model": params.base_model.model_copy(update={"path": "some/model"}),
        }
    )
    write_report(real, Project(root))
    page = (root / "reports" / "report.md").read_text()
    assert "rule-based" not in page
    assert "tiny" not in page


def test_html_page_needs_no_other_file_and_escapes_what_simulators_say(root: Path) -> None:
    write_report(params_for(root), Project(root))
    page = (root / "reports" / "report.html").read_text()
    assert page.count('src="data:image/png;base64,') == 4
    assert "http" not in page.replace("http-equiv", "")
    assert "<b>a lamp</b>" not in page
    assert "&lt;b&gt;a lamp&lt;/b&gt;" in page


def test_same_results_give_the_same_bytes(root: Path) -> None:
    def digests() -> dict[str, str]:
        write_report(params_for(root), Project(root))
        written = [path for path in (root / "reports").glob("*.*") if path.is_file()]
        written += (root / "reports" / "plots").iterdir()
        return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in written}

    first = digests()
    assert len(first) == 13
    assert digests() == first


def test_the_headline_has_the_models_that_are_compared_and_what_the_data_took(root: Path) -> None:
    params = params_for(root)
    write_report(params, Project(root))
    headline = json.loads((root / "reports" / "metrics.json").read_text())
    success = {"expert_only": 0.2, "refinement": 0.65}
    assert headline == {"success": success, "kept_share": 231 / 240, "cost_usd": 4.25}
    alone = params.evaluation.model_copy(update={"models": ["base"]})
    write_report(params.model_copy(update={"evaluation": alone}), Project(root))
    assert json.loads((root / "reports" / "metrics.json").read_text())["success"] == {"base": 0.05}


def test_a_figures_numbers_are_beside_it_as_a_table(root: Path) -> None:
    write_report(params_for(root), Project(root))
    plots = root / "reports" / "plots"
    with (plots / "success.csv").open() as handle:
        rows = list(csv.DictReader(handle))
    assert [(row["benchmark"], row["model"], row["value"], row["n"]) for row in rows] == [
        ("worlds_layouts", "chance", "0.1", "20"),
        ("worlds_layouts", "base", "0.05", "20"),
        ("worlds_layouts", "expert_only", "0.2", "20"),
        ("worlds_layouts", "refinement", "0.65", "20"),
        ("babyai", "chance", "0.15", "20"),
        ("babyai", "base", "0", "20"),
        ("babyai", "expert_only", "0", "20"),
        ("babyai", "refinement", "0", "20"),
    ]
    with (plots / "progress.csv").open() as handle:
        last = [r for r in csv.DictReader(handle) if r["model"] == "refinement" and r["benchmark"] == "worlds_layouts"]
    assert [row["progress"] for row in last] == ["0", "0.325", "0.65"]
    assert [row["success"] for row in last] == ["0", "0", "0.65"]
    with (plots / "differences.csv").open() as handle:
        rows = list(csv.DictReader(handle))
    assert [(row["benchmark"], row["against"], row["value"], row["verdict"]) for row in rows] == [
        ("worlds_layouts", "expert_only", "0.45", "better"),
        ("babyai", "expert_only", "0", "too few episodes differ"),
    ]
    with (plots / "recovery.csv").open() as handle:
        assert [(row["benchmark"], row["value"], row["n"]) for row in csv.DictReader(handle)] == [
            (benchmark, "0", str(20 - solved[place]))
            for place, benchmark in enumerate(("worlds_layouts", "babyai"))
            for solved in SOLVED.values()
        ]


def test_comparisons_are_numbers_that_dvc_can_show(root: Path) -> None:
    write_report(params_for(root), Project(root))
    compared = json.loads((root / "reports" / "comparisons.json").read_text())
    assert list(compared) == [
        "refinement against expert_only", "expert_only against base", "refinement against base",
        "base against chance", "expert_only against chance", "refinement against chance",
    ]  # fmt: skip
    against_base = compared["refinement against base"]["worlds_layouts"]
    assert against_base["success_difference"] == pytest.approx(0.6)
    assert against_base["progress_difference"] == pytest.approx(0.6)
    assert (against_base["verdict"], against_base["progress_verdict"]) == ("better", "better")
    assert compared["refinement against expert_only"]["worlds_layouts"]["success_difference"] == pytest.approx(0.45)


def with_perturbations(model: str, solved: dict[str, int]) -> list[Episode]:
    """Ten worlds under each perturbation, of which so many are solved."""
    return [
        played.model_copy(update={"id": f"{played.id}/{name}", "perturbation": name})
        for name, number in solved.items()
        for played in episodes(model, number, of=10, benchmark="worlds_perturbed")
    ]


def test_perturbations_failures_and_attempts_are_reported(root: Path) -> None:
    for model, (solved, _) in SOLVED.items():
        failed = [
            e.model_copy(update={"stop": "environment error"}) for e in episodes(model, 2, of=3, benchmark="babyai")
        ]
        again = [e.model_copy(update={"attempt": 1}) for e in episodes(model, solved - 1)]
        perturbed = with_perturbations(model, {"short": solved // 2 if model != "chance" else 0, "formal": 0})
        write_evaluation(root, model, [*episodes(model, solved), *again, *failed, *perturbed])
    write_report(params_for(root), Project(root))
    page = (root / "reports" / "report.md").read_text()
    assert "- babyai, base: the simulator failed in 3 of 3 episodes, which are in no rate." in page
    with (root / "reports" / "plots" / "differences.csv").open() as handle:
        assert {row["benchmark"] for row in csv.DictReader(handle)} == {"worlds_layouts", "worlds_perturbed"}
    assert (
        "- worlds perturbed: n counts episodes: 10 worlds, each in 2 paraphrases of its actions. Intervals and tests "
        "take a world as one.\n"
    ) in page
    assert "- worlds layouts, refinement: 2 attempts at each episode, of which n counts every one; 65.0 [" in page
    assert "are solved by one of them at least, 60.0 [38.7, 78.1]% by all.\n" in page
    assert "| worlds perturbed | refinement | short | 60.0 [31.3, 83.2] |" in page
    # The sample standard deviation of 60% and 0%.
    assert "| worlds perturbed | refinement | mean ± standard deviation, 10 worlds | 30.0 [" in page
    assert "] ± 42.4 |" in page
    assert "solved more often by refinement: 6, by base: 0" in page
    assert "Nobody above chance: babyai." in page
    with (root / "reports" / "plots" / "wordings.csv").open() as handle:
        rows = [row for row in csv.DictReader(handle) if row["model"] == "refinement"]
    assert [(row["wording"], row["value"], row["mean"], row["std"]) for row in rows] == [
        ("formal", "0", "0.3", "0.424264"),
        ("short", "0.6", "0.3", "0.424264"),
    ]


def test_what_a_model_loses_by_faults_is_paired_world_by_world(root: Path) -> None:
    write_report(params_for(root), Project(root))
    assert "faulty" not in (root / "reports" / "report.md").read_text()
    for model, (solved, _) in SOLVED.items():
        sound = episodes(model, solved)
        left = solved - 8 if model == "refinement" else solved
        faulty = [
            other.model_copy(update={"id": e.id, "benchmark": "worlds_faulty"})
            for e, other in zip(sound, episodes(model, left), strict=True)
        ]
        if model == "refinement":
            first = faulty[-1].steps[0].model_copy(update={"valid": True, "fault": True})
            faulty[-1] = faulty[-1].model_copy(update={"steps": [first, *faulty[-1].steps]})
        write_evaluation(root, model, [*sound, *faulty])
    write_report(params_for(root), Project(root))
    page = (root / "reports" / "report.md").read_text()
    lines = {line.partition(": ")[0]: line for line in page.splitlines() if line.startswith("- worlds faulty, ")}
    assert len(lines) == len(SOLVED)
    assert "success differs by -40.0 [" in lines["- worlds faulty, refinement"]
    assert "the same 20 worlds without faults: worse (" in lines["- worlds faulty, refinement"]
    assert ", after 100.0 [" in lines["- worlds faulty, refinement"]
    assert "base: no step failed by a fault of the world; " in lines["- worlds faulty, base"]
    assert "success differs by +0.0 [" in lines["- worlds faulty, base"]


def test_effort_and_thoughts_have_a_row_per_benchmark_and_model(root: Path) -> None:
    write_report(params_for(root), Project(root))
    page = (root / "reports" / "report.md").read_text()
    assert (
        "| worlds layouts | base | 2.0 [2.0, 2.0] | 20 [20, 20] | 8 [8, 8] | 0.50 | 40 | 0.03 | - | - | 1.00 [" in page
    )
    assert seconds_per_episode(Project(root), "base") == {"worlds_layouts": 0.5, "babyai": 0.5}


def test_missing_evaluation_is_one_sentence_that_names_the_stage(root: Path) -> None:
    (root / "data" / "evaluation" / "refinement" / "details.json").unlink()
    file = root / "data" / "evaluation" / "refinement" / "details.json"
    with refused("stage_not_run", file=file, stage="evaluation"):
        write_report(params_for(root), Project(root))
    assert not (root / "reports" / "report.md").exists()


@pytest.mark.parametrize(
    ("path", "text", "values"),
    [
        ("data/synthesis/metrics.json", '{"personas": "many"}', {"key": "personas"}),
        ("reports/quality_gate/result.json", "{", {"stage": "quality_gate"}),
        ("reports/tuning/refinement/loss_curve.csv", "step,loss,tokens\n1,low,5\n", {"line": 2}),
        ("data/evaluation/base/episodes.jsonl", "{}\n", {"line": 1}),
        ("data/evaluation/base/details.json", '{"babyai": {"episodes": 3}}', {"key": "babyai.attempts"}),
        ("data/evaluation/base/timing.json", '{"babyai": "long"}', {"key": "babyai"}),
    ],
)
def test_broken_input_is_named(root: Path, path: str, text: str, values: dict[str, object]) -> None:
    (root / path).write_text(text)
    with refused("stage_file_broken", file=root / path, **values):
        write_report(params_for(root), Project(root))


def test_terminal_table_fits_80_columns_with_whole_headings_and_a_row_per_model(root: Path) -> None:
    results = write_report(params_for(root), Project(root))
    lines = printed(terminal_table(results), root)
    assert " ".join(lines[0].split()) == "percent success progress grounding format errors stuck recovery n"
    assert lines[1].strip() == "worlds layouts"
    assert [line.split()[0] for line in lines[2:]] == ["chance", "base", "expert", "refinement"]
    assert "65 [43, 82]" in lines[-1]
    assert lines[-1].split()[-1] == "20"
    assert max(map(len, lines)) <= 80


def test_a_long_model_name_breaks_before_a_heading_does(root: Path) -> None:
    results = write_report(params_for(root), Project(root))
    named = {"without_refinement_loss": results.models["refinement"], **results.models}
    lines = printed(terminal_table(replace(results, models=named)), root)
    words = {word for line in lines for word in line.split()}
    assert {"success", "progress", "grounding", "errors", "stuck", "recovery", "65", "[43,", "82]"} <= words
    assert max(map(len, lines)) <= 80


def printed(table: Table, folder: Path) -> list[str]:
    """A table as a terminal of 80 columns shows it."""
    console = Console(width=80, record=True, file=(folder / "terminal.txt").open("w"))
    console.print(table)
    return console.export_text().splitlines()


def test_what_each_stage_took_is_one_table_in_which_unknown_is_unknown(root: Path) -> None:
    params = params_for(root)
    write_report(params, Project(root))
    assert costs_of(root) == {
        "synthesis": ["460 calls", "1,234,567", "765,432", "$2.75", "unknown"],
        "verification": ["460 answers judged", "-", "-", "-", "unknown"],
        "repair": ["180 calls", "2,000,000", "500,000", "$1.50", "unknown"],
        "base model": ["taken as it is", "-", "-", "-", "unknown"],
        "quality gate": ["231 games judged", "-", "-", "-", "unknown"],
        "tuning, expert only": ["30 steps", "400,000", "-", "-", "unknown"],
        "tuning, refinement": ["30 steps", "400,000", "-", "-", "unknown"],
        "evaluation, chance": ["40 episodes", "-", "-", "-", "0:00:20"],
        "evaluation, base": ["40 episodes", "800", "320", "-", "0:00:20"],
        "evaluation, expert only": ["40 episodes", "800", "320", "-", "0:00:20"],
        "evaluation, refinement": ["40 episodes", "800", "320", "-", "0:00:20"],
        "total": ["", "4,036,967", "1,266,392", "$4.25", "at least 0:01:20"],
    }
    file = root / "data" / "synthesis" / "metrics.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "cost_usd": "unknown"}))
    write_report(params, Project(root))
    assert costs_of(root)["synthesis"][3] == "unknown"
    assert costs_of(root)["total"][3] == "at least $1.50"


def costs_of(root: Path) -> dict[str, list[str]]:
    """The rows of the table of costs, by their stage."""
    page = (root / "reports" / "report.md").read_text()
    table = page.partition("## Costs, tokens and hours\n\n")[2].partition("\n\n")[0].splitlines()[2:]
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in table]
    return {stage: cells for stage, *cells in rows}


def test_an_endpoint_costs_what_its_model_is_listed_for(root: Path) -> None:
    values = params_for(root).model_dump()
    endpoint = {"base_url": "http://127.0.0.1:9/v1", "model": "gpt-4o", "api_key_env": "KEY"}
    values["evaluation"]["endpoints"] = {"listed": endpoint, "unlisted": {**endpoint, "model": "ours"}}
    params = Params.model_validate(values)
    for name in ("listed", "unlisted"):
        expensive = [e.model_copy(update={"steps": [s.model_copy(update={"prompt_tokens": 50_000}) for s in e.steps]})
                     for e in episodes(name, 3)]  # fmt: skip
        write_evaluation(root, name, expensive)
    write_report(params, Project(root))
    price = load_prices(None).models["gpt-4o"]
    cost = dollars((40 * 50_000 * price.input + 40 * 4 * price.output) / 1e6)
    assert costs_of(root)["evaluation, listed"] == ["20 episodes", "2,000,000", "160", cost, "0:00:10"]
    assert costs_of(root)["evaluation, unlisted"][3] == "unknown"


def test_a_stage_is_timed_by_what_it_leaves(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(root)
    result = RESULTS["synthesis"]
    assert stage_seconds(root, "synthesis", result) == "unknown"
    now = iter([100.0, 175.0, 200.0, 203.0, 300.0, 310.0])
    monkeypatch.setattr("agentrefine.report.timing.time.monotonic", lambda: next(now))
    with timed("synthesis", result):
        pass
    with timed("synthesis", result):  # again, from the journal of answers
        pass
    assert stage_seconds(root, "synthesis", result) == 75.0
    before = result.read_bytes()
    with timed("synthesis", result):
        result.write_text("{}")
    assert stage_seconds(root, "synthesis", result) == 10.0
    result.write_bytes(before)
    assert stage_seconds(root, "synthesis", result) == 75.0
    write_report(params_for(root), Project(root))
    assert costs_of(root)["synthesis"][-1] == "0:01:15"
    assert costs_of(root)["total"][-1] == "at least 0:02:35"


def test_a_stage_that_fails_has_no_time(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(root)
    with pytest.raises(ZeroDivisionError), timed("synthesis", RESULTS["synthesis"]):
        _ = 1 / 0
    assert stage_seconds(root, "synthesis", RESULTS["synthesis"]) == "unknown"


def test_recovery_has_a_table_of_the_models_that_made_enough_errors(root: Path) -> None:
    results = write_report(params_for(root), Project(root))
    page = (root / "reports" / "report.md").read_text()
    table = page.partition("### Recovery from errors\n")[2].partition("###")[0]
    # Every unsolved episode has one error that another turn followed, and that turn repeats it.
    assert [row[:3] + row[-2:] for row in recovery_rows(results)] == [
        ["worlds layouts", "chance", "18", "-", "100.0 [82.4, 100.0]"],
        ["worlds layouts", "base", "19", "-", "100.0 [83.2, 100.0]"],
        ["worlds layouts", "expert only", "16", "-", "100.0 [80.6, 100.0]"],
    ]
    assert "| worlds layouts | base | 19 | 0.0 [0.0, 16.8] | 0.0 [0.0, 16.8] | - | 100.0 [83.2, 100.0] |" in table
    assert "| refinement |" not in table  # seven errors
    assert recovery_kind_rows(results)[0] == ["worlds layouts", "unknown", "chance", "0.0 [0.0, 17.6]", "18"]
    html = (root / "reports" / "report.html").read_text()
    assert "<summary>By kind of error</summary>" in html
    assert "<td>unknown</td>" in html


def test_without_enough_errors_the_report_does_not_speak_of_recovery_by_kind(root: Path) -> None:
    params = two_models_for(root)
    for model in ("base", "refinement"):
        write_evaluation(root, model, episodes(model, 15))
    results = write_report(params, Project(root))
    assert recovery_rows(results) == recovery_kind_rows(results) == kind_bars(results.models) == []
    assert "Recovery from errors" not in (root / "reports" / "report.md").read_text()
    assert not (root / "reports" / "plots" / "recovery_by_kind.csv").exists()


def with_kinds(played: list[Episode], *, recovers: bool) -> list[Episode]:
    """Unsolved episodes have two errors, after the second of which the model recovers or repeats it."""
    found = []
    for episode in played:
        fly, *_ = episode.steps
        kinds = [fly.model_copy(update={"error_kind": kind}) for kind in ("parameter_error", "place_error")]
        last = fly.model_copy(update={"action": "walk", "valid": True}) if recovers else kinds[1]
        found.append(episode if episode.success else episode.model_copy(update={"steps": [*kinds, last]}))
    return found


def test_recovery_by_kind_of_error_is_drawn_where_a_benchmark_has_several(root: Path) -> None:
    params = params_for(root)
    for model, recovers in (("expert_only", False), ("refinement", True)):
        layouts = with_kinds(episodes(model, 10), recovers=recovers)
        write_evaluation(root, model, [*layouts, *episodes(model, 0, benchmark="babyai")])
    results = write_report(params, Project(root))
    bars = [bar for bar in kind_bars(results.models) if bar.model in ("expert_only", "refinement")]
    assert [(bar.benchmark, bar.model, bar.kind, bar.value, bar.n) for bar in bars] == [
        ("worlds_layouts", "expert_only", "parameter_error", 0.0, 10),
        ("worlds_layouts", "expert_only", "place_error", 0.0, 10),
        ("worlds_layouts", "refinement", "parameter_error", 0.0, 10),
        ("worlds_layouts", "refinement", "place_error", 1.0, 10),
    ]
    assert isinstance(bars[0], KindBar)
    plots = root / "reports" / "plots"
    assert (plots / "recovery_by_kind.png").read_bytes().startswith(b"\x89PNG")
    with (plots / "recovery_by_kind.csv").open() as handle:
        rows = [row for row in csv.DictReader(handle) if row["model"] == "refinement"]
    assert [(row["kind"], row["value"], row["n"]) for row in rows] == [
        ("parameter_error", "0", "10"),
        ("place_error", "1", "10"),
    ]
    assert "(plots/recovery_by_kind.png)" in (root / "reports" / "report.md").read_text()
    rows = [row for row in recovery_rows(results) if row[1] == "refinement"]
    # Of twenty errors ten are recovered from at once; the others, which came before them, in the second turn.
    assert [(row[2], row[3][:5], row[4][:6], row[5], row[6][:3]) for row in rows] == [
        ("20", "50.0 ", "100.0 ", "1.5 [1.5, 1.5]", "50.")
    ]


def test_figures_leave_out_what_shows_nothing_and_keep_its_numbers(root: Path) -> None:
    results = write_report(params_for(root), Project(root))
    bars = rate_bars(results.models, "success_rate")
    assert {bar.benchmark for bar in bars} == {"worlds_layouts", "babyai"}
    assert {bar.benchmark for bar in informative(bars, results.at_chance)} == {"worlds_layouts"}
    assert informative(rate_bars(results.models, "recovery_rate"), []) == []
    plots = root / "reports" / "plots"
    assert (plots / "recovery.csv").is_file()
    assert not (plots / "recovery.png").exists()
    assert "recovery.png" not in (root / "reports" / "report.md").read_text()


@pytest.mark.parametrize(
    ("expert", "refinement", "claim", "first"),
    [
        (
            4,
            13,
            "65% against 20% with plain expert tuning on unseen layouts, clearly better",
            "Refinement tuning is better than plain expert tuning on worlds layouts: 65% against 20%, difference +45 "
            "points [25, 65], exact test p = 0.0039, 20 episodes.",
        ),
        (
            13,
            4,
            "20% against 65% with plain expert tuning on unseen layouts, clearly worse",
            "Refinement tuning is worse than plain expert tuning on worlds layouts: 20% against 65%, difference -45 "
            "points [-65, -25], exact test p = 0.0039, 20 episodes.",
        ),
        (
            13,
            13,
            "65% against 65% with plain expert tuning on unseen layouts, no clear difference",
            "Refinement tuning shows no clear difference on worlds layouts: 65% against 65% with "
            "plain expert tuning, difference +0 points [0, 0], exact test p = 1, 20 episodes; only 0 differ.",
        ),
    ],
)
def test_title_and_first_sentence_set_refinement_against_plain_expert_tuning(
    root: Path, expert: int, refinement: int, claim: str, first: str
) -> None:
    params = params_for(root)
    for model, solved in (("expert_only", expert), ("refinement", refinement)):
        write_evaluation(root, model, episodes(model, solved))
    results = write_report(params, Project(root))
    rates = f"expert only {5 * expert}%, refinement {5 * refinement}%"
    assert headline(params, results) == [first, f"Success on worlds layouts: chance 10%, base 5%, {rates}."]
    result = f"Refinement tuning: {claim}"
    assert title(params, results) == result
    difference = first[first.index("difference +" if refinement >= expert else "difference -") :]
    page = (root / "reports" / "report.md").read_text().splitlines()
    assert page[0] == f"# {result}"
    assert page[2].startswith(f"{difference[0].upper()}{difference[1:]} A difference counts only where")
    html = (root / "reports" / "report.html").read_text()
    assert f"<title>{result}</title>" in html
    assert f"<h1>{result}</h1>" in html


def test_no_difference_shown_is_said_as_chance_variation(root: Path) -> None:
    params = params_for(root)
    played = episodes("refinement", 8)
    write_evaluation(root, "refinement", [*played[4:8], *played[:4], *played[8:]])
    other = [e.model_copy(update={"id": f"worlds_layouts-{(n + 5) % 20:03}"}) for n, e in enumerate(episodes("e", 6))]
    write_evaluation(root, "expert_only", [e.model_copy(update={"model": "expert_only"}) for e in other])
    [first, *_] = headline(params, write_report(params, Project(root)))
    assert first.startswith(
        "Refinement tuning shows no clear difference on worlds layouts: 40% against 30% with plain "
        "expert tuning, difference +10 points ["
    )


def test_the_report_says_what_stands_for_a_baseline_that_is_not_there(root: Path) -> None:
    params = two_models_for(root)
    results = write_report(params, Project(root))
    assert title(params, results).startswith(
        "Refinement tuning: 65% against 5% with the base that it was tuned from on "
    )
    sentences = headline(params, results)
    assert sentences[0].startswith(
        "Refinement tuning is better than the base that it was tuned from on worlds layouts: 65%"
    )
    assert sentences[-1] == "Base stands for report.baseline expert_only: nothing that is evaluated has that name."


def test_a_benchmark_that_decides_and_was_not_played_is_named(root: Path) -> None:
    params = params_for(root)
    for model, (_, babyai) in SOLVED.items():
        write_evaluation(root, model, episodes(model, babyai, benchmark="babyai"))
    results = write_report(params, Project(root))
    assert headline(params, results) == ["Worlds layouts, the benchmark that decides, was not played."]
    assert title(params, results) == "Worlds layouts, the benchmark that decides, was not played"
    assert evidence(params, results) == []


def with_agentboard(root: Path, played: dict[str, int]) -> Params:
    """All models have played so many episodes of each of AgentBoard's benchmarks, and other BabyAI episodes."""
    params = params_for(root)
    for place, model in enumerate(params.evaluation.players):
        found = [e for name, number in played.items() for e in episodes(model, place, of=number, benchmark=name)]
        folder = write_evaluation(root, model, [*episodes(model, SOLVED[model][0]), *found])
        notes = json.loads((folder / "benchmarks.json").read_text())
        (folder / "benchmarks.json").write_text(json.dumps({**notes, "agentboard": list(played)}))
    data = params.evaluation.data.model_copy(update={"agentboard": "data"})
    return params.model_copy(update={"evaluation": params.evaluation.model_copy(update={"data": data})})


def test_agentboards_own_episodes_stand_beside_the_published_results(root: Path) -> None:
    params = with_agentboard(root, {"babyai": 112, "sciworld": 90, "pddl": 60, "jericho": 20})
    write_report(params, Project(root))
    rows = {row[0]: row[1:] for row in csv_rows(root / "reports" / "report.md") if len(row) == 7}
    assert rows["AgentGym (8B), published"][:2] == ["61.9 / 76.9*", "47.3 / 61.4*"]
    assert rows["LLaMA-3-8B-Instruct, published"][-1] == "22.7 / 45.5"
    # Three of each of 112, 90, 60 and 20 episodes are solved.
    assert rows["refinement"] == [
        "not comparable", "2.7 / 2.7", "3.3 / 3.3", "5.0 / 5.0", "15.0 / 15.0", f"{1200 / 282:.1f} / {1200 / 282:.1f}"
    ]  # fmt: skip
    page = (root / "reports" / "report.md").read_text()
    assert "- alfworld is not comparable for chance, base, expert only, refinement: not played." in page
    assert "Beside the published results" in (root / "reports" / "report.html").read_text()


def test_other_or_fewer_episodes_than_agentboards_are_not_comparable(root: Path) -> None:
    params = with_agentboard(root, {"babyai": 112, "sciworld": 90, "pddl": 59, "jericho": 20})
    file = root / "data" / "evaluation" / "refinement" / "benchmarks.json"
    for model in params.evaluation.players:
        file = root / "data" / "evaluation" / model / "benchmarks.json"
        file.write_text(json.dumps({**json.loads(file.read_text()), "agentboard": ["sciworld", "pddl", "jericho"]}))
    write_report(params, Project(root))
    rows = {row[0]: row[1:] for row in csv_rows(root / "reports" / "report.md") if len(row) == 7}
    assert [cell == "not comparable" for cell in rows["refinement"]] == [True, True, False, True, False, True]
    page = (root / "reports" / "report.md").read_text()
    assert "pddl is not comparable for chance, base, expert only, refinement: 59 of 60 episodes." in page
    assert "babyai is not comparable for chance, base, expert only, refinement: other episodes than AgentBoard" in page


def test_the_papers_held_out_score_is_that_of_its_table() -> None:
    score = published().held_out_score
    models = published().models
    for name, expected in (("LLaMA-3-8B-Instruct", (22.7, 45.5)), ("AgentRefine (8B)", (23.7, 43.9))):
        found = score(models[name])
        assert found is not None
        assert (round(found.success, 1), round(found.progress, 1)) == expected
    assert all(set(scores) == set(published().episodes) for scores in models.values())
    assert score({"babyai": models["GPT-4o"]["babyai"]}) is None


def test_verdicts_come_from_the_paired_comparison() -> None:
    better = verdict_sentence(compare(episodes("refinement", 13), episodes("base", 1)))
    assert (
        "worlds layouts: refinement against base: better (the interval excludes 0 and the exact test's p is" in better
    )
    assert "; success differs by +60.0 [" in better
    assert "over 20 episodes; solved by refinement alone: 12, by base alone: 0." in better
    few = verdict_sentence(compare(episodes("a", 2), episodes("b", 1)))
    assert "a against b: too few episodes differ (1 of 20; the exact test needs 6)" in few


def test_episodes_to_read_are_the_first_solved_and_the_first_unsolved() -> None:
    chosen = notable_episodes([*episodes("refinement", 3), *episodes("refinement", 0, benchmark="babyai")])
    assert [episode.id for episode in chosen] == ["babyai-000", "worlds_layouts-000", "worlds_layouts-003"]
    page = episodes_to_read("refinement", chosen)
    assert "Action: take lamp" in page
    assert ">> (error) Error: no such action." in page


def test_the_report_says_what_was_not_played_and_what_progress_means(root: Path) -> None:
    write_report(params_for(root), Project(root))
    for name in ("report.md", "report.html"):
        text = (root / "reports" / name).read_text()
        assert f"Not played: {NOT_INSTALLED}" in text
        assert "progress in worlds layouts: share of doors that are open." in text


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({}, "Greedy play, at most 20 steps an episode."),
        (
            {"sampling": Sampling(temperature=0.7), "stop_on_repeats": 3},
            "Replies drawn at temperature 0.7, at most 20 steps an episode, ended when one failing action has come "
            "3 times.",
        ),
        (
            {"prompting": Prompting(style="act", shots=1)},
            "Greedy play, 1 example in the instructions, actions without thoughts, at most 20 steps an episode.",
        ),
    ],
)
def test_the_report_says_by_which_rules_was_played(root: Path, changes: dict[str, object], sentence: str) -> None:
    assert play_sentence(params_for(root).evaluation.model_copy(update=changes)) == sentence
