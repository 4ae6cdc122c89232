"""The command line: what it lists, what it imports, how it ends."""

import subprocess
import sys

import pytest
import yaml

from agentrefine.params import Params
from flows.cli import ARGUMENTS, COMMANDS, main, stage_flow
from tests.helpers.commands import failure
from tests.helpers.paths import ROOT

HEAVY = {"prefect", "torch", "dvc", "transformers", "mlflow", "pydantic"}


def status(*words: str) -> int:
    """The exit status of a command."""
    with pytest.raises(SystemExit) as ended:
        main(words)
    return int(ended.value.code or 0)


def test_help_lists_each_command_on_a_line_and_imports_nothing_heavy() -> None:
    code = f"import sys\nfrom flows.cli import main\ntry: main(['--help'])\nfinally: print({HEAVY} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    listed = [line.split() for line in done.stdout.splitlines()]
    assert all(any(words[:1] == [name] and len(words) > 2 for words in listed) for name in COMMANDS)
    assert done.stdout.endswith("set()\n")


@pytest.mark.parametrize("name", COMMANDS)
def test_each_command_names_its_arguments(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert status(name, "--help") == 0
    assert f"agentrefine {name}" in capsys.readouterr().out


def test_help_names_defaults(capsys: pytest.CaptureFixture[str]) -> None:
    status("gold-check", "--help")
    printed = capsys.readouterr().out
    assert "(default: 26)" in printed
    assert "None" not in printed


@pytest.mark.parametrize(
    "words",
    [
        [],
        ["dance"],
        ["stage"],
        ["stage", "dance"],
        ["tune"],
        ["export", "word", "a", "b"],
        ["params", "--all"],
        ["gold-check", "--episodes", "0"],
    ],
)
def test_a_command_that_there_is_not_ends_with_status_2(words: list[str]) -> None:
    assert status(*words) == 2


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (
            ["stage", "tunning", "refinement"],
            "there is no stage 'tunning' (did you mean tuning?); there are s",
        ),
        (["stage", "quality-gate"], "(did you mean quality_gate?)"),
        (["stage", "tuning@refinement"], "write the key behind a space: `agentrefine stage tuning refinement`"),
        (["stage", "evaluation", "base", "refinement"], "stage does not take refinement; `agentrefine stage --help`"),
        (["synthesis"], "synthesis is a stage; write `agentrefine stage synthesis`"),
        (["evaluation", "base"], "evaluation is a stage; write `agentrefine stage evaluation base`"),
        (["tuning@refinement"], "tuning@refinement is a stage; write `agentrefine stage tuning refinement`"),
        (["tuning"], "tuning is a stage; write `agentrefine stage tuning variant`"),
        (["evalute", "base"], "there is no command 'evalute' (did you mean evaluate?)"),
        (["run", "synthesis"], "write `agentrefine stage synthesis` to run it alone"),
        (["smoke", "now"], "smoke does not take now; `agentrefine smoke --help` names its arguments"),
    ],
)
def test_the_sentence_about_a_mistyped_command_says_what_to_type(
    words: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert status(*words) == 2
    assert said in capsys.readouterr().err


def test_a_name_that_is_like_no_other_is_answered_with_the_document_that_shows_how_to_add_one() -> None:
    for words, document in ((["mix", "nope"], "tuning"), (["evaluate", "gpt-4o"], "teacher")):
        assert str(failure(*words)).endswith(f"; docs/{document}.md shows how to add one.")


def test_the_card_of_a_misspelt_variant_is_answered_with_the_one_that_was_meant() -> None:
    error = failure("card", "model", "refinment")
    assert (error.code, error.values["meant"]) == ("unknown_name", "refinement")


@pytest.mark.parametrize(
    "words",
    [
        ["stage", "tuning"],
        ["stage", "synthesis", "repair"],
        ["show-mask", "nowhere.jsonl"],
        ["preset", "llama-9"],
        ["import", "sharegpt", "~nobody-of-this-name/x.json", "out"],
    ],
)
def test_bad_input_is_one_sentence_and_status_1(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert status(*words) == 1
    assert len(capsys.readouterr().err.strip().splitlines()) == 1


@pytest.mark.parametrize(
    ("stage", "known"),
    [
        ("tuning", ["expert_only", "refinement"]),
        ("evaluation", ["chance", "base", "expert_only", "refinement"]),
        ("reference_evaluation", ["chance"]),
        ("endpoint_evaluation", []),
        ("mix", []),
    ],
)
def test_a_stage_without_the_name_that_it_needs_lists_those_that_there_are(stage: str, known: list[str]) -> None:
    error = failure("stage", stage)
    assert (error.code, error.values["stage"], error.values["known"]) == ("wrong_arguments", stage, known)


@pytest.mark.parametrize(
    ("words", "key", "meant"),
    [
        (["tune", "refinment"], "tuning.variants", "refinement"),
        (["evaluate", "nope"], "evaluation", None),
        (["mix", "nope"], "mix", None),
        (["stage", "endpoint_evaluation", "base"], "evaluation.endpoints", None),
    ],
)
def test_a_name_that_there_is_not_is_refused_before_prefect_is_imported(
    words: list[str], key: str, meant: str | None
) -> None:
    error = failure(*words)
    assert (error.code, error.values["key"], error.values["meant"]) == ("unknown_name", key, meant)
    code = f"import sys\nfrom flows.cli import main\ntry: main({words})\nfinally: print('prefect' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (1, "False\n"), done.stderr


@pytest.mark.parametrize(
    ("words", "argument"),
    [
        (["show-mask", "nowhere.jsonl"], "file"),
        (["show-mask", "{here}", "--template", "nowhere.jinja"], "--template"),
        (["show-mask", "{here}", "--model", "./nowhere"], "--model"),
        (["export", "axolotl", "nowhere", "out"], "data_set"),
        (["import", "sharegpt", "nowhere.json", "out"], "file"),
    ],
)
def test_a_path_that_the_command_line_names_is_answered_with_its_argument(words: list[str], argument: str) -> None:
    error = failure(*(word.format(here=__file__) for word in words))
    assert error.values["key"] == argument


def test_every_stage_is_a_flow_with_the_argument_that_is_named() -> None:
    for name, argument in ARGUMENTS.items():
        flow = stage_flow(name)
        assert flow.name == ("evaluation" if name.endswith("_evaluation") else name)
        assert list(flow.parameters.properties) == ([argument] if argument else [])


def test_params_prints_what_holds_or_the_defaults(tmp_path, monkeypatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "params.yaml").write_text((ROOT / "params.yaml").read_text().replace("seed: 7", "seed: 8"))
    main(["params"])
    assert yaml.safe_load(capsys.readouterr().out)["seed"] == 8
    main(["params", "--defaults"])
    assert Params.model_validate(yaml.safe_load(capsys.readouterr().out)) == Params()


def test_a_reader_that_closes_the_pipe_is_no_traceback() -> None:
    """As `agentrefine params | head -1`."""
    command = [sys.executable, "-m", "flows.cli", "params"]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdout is not None
    process.stdout.close()
    assert process.stderr is not None
    assert process.stderr.read() == b""
    assert process.wait() == 1
