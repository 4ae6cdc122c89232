"""Cards and uploads: what stands in them, what never does, and what the hub gets."""

import json
import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from huggingface_hub import DatasetCard, ModelCard, constants

from agentrefine.files import write_json, write_jsonl
from agentrefine.game.conversation import PublishedMessage, Sample
from agentrefine.params import Params
from agentrefine.report.cards import data_set_card, model_card, shown_path
from agentrefine.report.document import write_report
from agentrefine.report.inputs import Project
from agentrefine.report.publishing import data_set_upload, model_upload, push, token_from_environment
from tests.helpers.errors import refused
from tests.helpers.hub_server import READ_ONLY, TOKEN, Hub, hub_server
from tests.helpers.paths import ROOT
from tests.helpers.results_tree import params_for, write_results

HUB_BASE = {"kind": "reference", "path": "meta-llama/Meta-Llama-3-8B", "digest": "0", "chat_template": []}
TINY_BASE = {"kind": "tiny", "seed": 7, "vocabulary": 9, "params": {}, "parameters": 940_000, "tokens": 9, "loss": 1.0}
GGUF_BASE = {
    "kind": "gguf",
    "path": "downloads/small.Q4_1.gguf",
    "sha256": "ef" * 32,
    "name": "small",
    "licence": "",
    "architecture": "llama",
    "quantisation": "Q4_1",
    "tensor_types": {"Q4_1": 2},
    "dtype": "bfloat16",
    "parameters": 940_000,
    "chat_template": [],
}


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """What a run of all stages leaves, with the tiny base and small files in place of weights."""
    write_results(tmp_path)
    write_json(tmp_path / "models/base/card.json", TINY_BASE)
    write_json(
        tmp_path / "models/refinement/card.json",
        {
            "kind": "tuned",
            "train_on": "correct_turns",
            "base": str(tmp_path / "models/base"),
            "base_digest": "0",
            "base_quantisation": None,
            "data_set": "data/dataset",
            "data_set_sha256": {"train.jsonl": "ab" * 32, "validation.jsonl": "cd" * 32},
            "seed": 7,
            "params": params_for(tmp_path).tuning.model_dump(exclude={"variants"})
            | {"launcher": f"accelerate launch --config_file {tmp_path}/mine.yaml"},
            "processes": 1,
            **json.loads((tmp_path / "reports/tuning/refinement/metrics.json").read_text()),
        },
    )
    for name in ("model.safetensors", "config.json", "tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        (tmp_path / "models/refinement" / name).write_text("{}")
    messages = [
        ("human", "Instructions", None),
        ("gpt", "OK", False),
        ("human", "Goal: go", None),
        ("gpt", "x" * 999, True),
    ]
    sample = Sample(
        id="game-1",
        persona_id="p",
        conversations=[PublishedMessage(from_=sender, value=text, loss=loss) for sender, text, loss in messages],
    )
    write_jsonl(tmp_path / "data/dataset/train.jsonl", [sample] * 3)
    write_jsonl(tmp_path / "data/dataset/validation.jsonl", [sample])
    return tmp_path


@pytest.fixture
def params(tree: Path) -> Params:
    return params_for(tree)


def as_adapter(tree: Path, base: dict[str, object]) -> None:
    """Turn the tuned model into an adapter of `base`."""
    folder = tree / "models/refinement"
    (folder / "model.safetensors").rename(folder / "adapter_model.safetensors")
    write_json(folder / "adapter_config.json", {"base_model_name_or_path": "models/base", "r": 16})
    write_json(tree / "models/base/card.json", base)


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """A hub to which the library is pointed."""
    with hub_server() as running:
        monkeypatch.setattr(constants, "ENDPOINT", running.address)
        yield running


def with_values(params: Params, **values: object) -> Params:
    """The parameters with other values by dotted keys."""
    dumped = params.model_dump()
    for key, value in values.items():
        *sections, last = key.split("__")
        section = dumped
        for name in sections:
            section = section[name]
        section[last] = value
    return Params.model_validate(dumped)


def test_a_models_card_has_the_hubs_metadata_with_each_benchmarks_result(tree: Path, params: Params) -> None:
    as_adapter(tree, HUB_BASE)
    card = ModelCard(model_card("refinement", params, Project(tree), repo_id="me/agent", data_set_id="me/games"))
    data = card.data
    assert (data.base_model, data.library_name, data.datasets) == ("meta-llama/Meta-Llama-3-8B", "peft", "me/games")
    assert data.model_name == "agent"
    assert data.license is None
    success = {r.dataset_type: r.metric_value for r in data.eval_results if r.metric_type == "success_rate"}
    assert success == {"worlds_layouts": 65.0, "babyai": 0.0}
    assert "| worlds layouts | 20 | 5.0 [0.9, 23.6] | 65.0 [43.3, 81.9] |" in card.text


def test_a_models_card_states_the_mask_the_data_and_what_the_reader_must_know(tree: Path, params: Params) -> None:
    text = model_card("refinement", params, Project(tree))
    assert "Mistakes stay in the context and are not trained" in text
    assert "ab" * 32 in text
    assert "124,000 (31.0%) were trained" in text
    assert "rule-based simulated teacher" in text
    assert "base_model:" not in text
    assert "\n# license: choose one that" in text
    assert "A tiny Llama of 940,000 parameters" in text
    assert "| learning_rate | 0.002 |" in text


def test_card_and_report_name_what_the_base_was_dequantised_from(tree: Path, params: Params) -> None:
    caveat = "weights are dequantised from Q4_1"
    assert caveat not in model_card("refinement", params, Project(tree))
    write_json(tree / "models/base/card.json", GGUF_BASE)
    text = model_card("refinement", params, Project(tree))
    assert caveat in text
    assert "base_model:" not in text  # a file is no model of the hub
    write_report(params, Project(tree))
    assert caveat in (tree / "reports/report.md").read_text()
    assert caveat in (tree / "reports/report.html").read_text()


def test_a_model_that_was_not_evaluated_has_a_card_that_says_so(tree: Path, params: Params) -> None:
    shutil.rmtree(tree / "data/evaluation/refinement")
    text = model_card("refinement", params, Project(tree))
    assert "has not been evaluated" in text
    assert ModelCard(text).data.eval_results is None


def test_a_licence_that_is_given_stands_in_the_metadata(tree: Path, params: Params) -> None:
    card = ModelCard(model_card("refinement", params, Project(tree), licence="apache-2.0"))
    assert card.data.license == "apache-2.0"
    assert "choose one" not in card.content


def test_games_of_others_are_not_said_to_be_the_simulated_teachers(tree: Path, params: Params) -> None:
    file = tree / "models/refinement/card.json"
    for data_set, ours in [("data/imported", False), ("data/dataset", True), ("data/mix/chat20", True)]:
        write_json(file, {**json.loads(file.read_text()), "data_set": data_set})
        mix = {"chat20": {"data_set": "data/dataset", "chat": "chat.json", "share": 0.2}}
        text = model_card("refinement", with_values(params, mix=mix), Project(tree))
        assert ("rule-based simulated teacher" in text) is ours
        assert ("general chat, 20%" in text) is (data_set == "data/mix/chat20")


def test_no_card_holds_a_path_of_this_machine(tree: Path, params: Params) -> None:
    elsewhere = with_values(params, personas__path=f"{tree}/persona_hub.jsonl", base_model__path=str(tree / "llama"))
    (tree / "llama").mkdir()
    file = tree / "models/refinement/card.json"
    write_json(file, {**json.loads(file.read_text()), "data_set": f"{tree}/imported"})
    write_json(tree / "models/base/card.json", {**HUB_BASE, "path": str(tree / "llama")})
    for text in (model_card("refinement", elsewhere, Project(tree)), data_set_card(elsewhere, Project(tree))):
        assert str(tree) not in text
        assert str(Path.home()) not in text
    assert "`persona_hub.jsonl`" in data_set_card(elsewhere, Project(tree))
    assert [shown_path(p) for p in ("data/x", "/home/me/x", "../x", "~/x")] == ["data/x", "x", "x", "x"]


def test_the_data_sets_card_states_who_wrote_it_what_was_dropped_and_its_format(tree: Path, params: Params) -> None:
    card = DatasetCard(data_set_card(params, Project(tree), repo_id="me/games"))
    assert card.data.size_categories == "n<1K"
    assert [file["split"] for file in card.data.configs[0]["data_files"]] == ["train", "validation"]
    assert "3 training and 1 validation samples" in card.text
    assert "The rule-based simulated teacher, not a language model, wrote for each persona" in card.text
    assert "| not_json | 9 | no JSON of the asked form can be read from the answer |" in card.text
    assert '{"from": "gpt", "value": "OK", "loss": false}' in card.text
    assert "x" * 600 + " ..." in card.text
    assert "x" * 601 not in card.text
    assert "(Apache-2.0)" in card.text


def test_a_real_teachers_data_set_names_it_and_the_personas_licence(tree: Path, params: Params) -> None:
    other = with_values(
        params, teacher__base_url="https://api.openai.com/v1", teacher__model="gpt-4o", personas__path="hub.jsonl"
    )
    text = data_set_card(other, Project(tree))
    assert "gpt-4o wrote for each persona" in text
    assert "CC BY-NC-SA" in text
    assert "terms of the teacher's provider" in text
    assert "rule-based" not in text


@pytest.mark.parametrize(
    ("missing", "stage"),
    [
        ("models/refinement/card.json", "tuning@refinement"),
        ("models/base/card.json", "base_model"),
        ("reports/tuning/refinement/metrics.json", "tuning@refinement"),
    ],
)
def test_a_card_of_what_is_not_there_is_refused_with_the_stage_to_run(
    tree: Path, params: Params, missing: str, stage: str
) -> None:
    (tree / missing).unlink()
    with refused("stage_not_run", file=tree / missing, stage=stage):
        model_card("refinement", params, Project(tree))


def test_a_data_set_that_the_gate_refused_has_no_card(tree: Path, params: Params) -> None:
    file = tree / "reports/quality_gate/result.json"
    write_json(file, {**json.loads(file.read_text()), "passed": False})
    with refused("gate_failed", file="reports/quality_gate/result.json"):
        data_set_card(params, Project(tree))


def test_the_hub_gets_the_models_files_and_no_others(tree: Path, params: Params, hub: Hub) -> None:
    folder = tree / "models/refinement"
    for name in ("optimizer.pt", "training_args.bin", ".env", "notes.md", "README.md", "modeling_evil.py"):
        (folder / name).write_text("SECRET")
    (folder / "checkpoint-1").mkdir()
    (folder / "checkpoint-1/model.safetensors").write_text("SECRET")
    address = push(model_upload("refinement", "me/agent", params, Project(tree)), TOKEN)
    assert address.startswith(hub.address)
    repository = hub.repositories["models/me/agent"]
    assert repository.private
    assert set(repository.files) == {
        "README.md", "model.safetensors", "config.json",
        "tokenizer.json", "tokenizer_config.json", "chat_template.jinja",
    }  # fmt: skip
    assert b"SECRET" not in b"".join(repository.files.values())
    assert ModelCard(repository.files["README.md"].decode()).data.library_name == "transformers"


def test_an_adapter_is_uploaded_with_its_bases_hub_id(tree: Path, params: Params, hub: Hub) -> None:
    as_adapter(tree, HUB_BASE)
    push(model_upload("refinement", "me/agent", params, Project(tree), private=False), TOKEN)
    repository = hub.repositories["models/me/agent"]
    assert not repository.private
    config = json.loads(repository.files["adapter_config.json"])
    assert config == {"base_model_name_or_path": "meta-llama/Meta-Llama-3-8B", "r": 16}
    assert json.loads((tree / "models/refinement/adapter_config.json").read_text())["r"] == 16


def test_an_adapter_of_a_base_that_is_not_on_the_hub_is_refused(tree: Path, params: Params) -> None:
    as_adapter(tree, TINY_BASE)
    with refused("base_not_on_hub", file=tree / "models/refinement"):
        model_upload("refinement", "me/agent", params, Project(tree))


def test_the_data_set_is_uploaded_with_its_card_and_again_into_the_same_repository(
    tree: Path, params: Params, hub: Hub
) -> None:
    upload = data_set_upload("me/games", params, Project(tree))
    push(upload, TOKEN)
    push(data_set_upload("me/games", params, Project(tree)), TOKEN)
    files = hub.repositories["datasets/me/games"].files
    assert set(files) == {"README.md", "train.jsonl", "validation.jsonl"}
    assert files["train.jsonl"] == (tree / "data/dataset/train.jsonl").read_bytes()
    assert "train.jsonl" in upload.described()
    assert "dataset me/games (private)" in upload.described()


def test_a_public_repository_is_not_filled_where_a_private_one_is_asked_for(
    tree: Path, params: Params, hub: Hub
) -> None:
    push(data_set_upload("me/games", params, Project(tree), private=False), TOKEN)
    commits = sum("/commit/" in request for request in hub.requests)
    with refused("already_public", name="me/games"):
        push(data_set_upload("me/games", params, Project(tree)), TOKEN)
    assert sum("/commit/" in request for request in hub.requests) == commits


@pytest.mark.parametrize(("token", "status"), [("hf_wrong", 401), (READ_ONLY, 403)])
def test_a_token_that_the_hub_refuses_is_reported_without_repeating_it(
    tree: Path, params: Params, hub: Hub, token: str, status: int
) -> None:
    with refused("key_refused", variable="HF_TOKEN", status=status) as caught:
        push(data_set_upload("me/games", params, Project(tree)), token)
    assert token not in f"{caught.value} {caught.value.values}"
    assert hub.repositories == {}


def test_a_hub_that_cannot_be_reached_is_reported_in_one_sentence(
    tree: Path, params: Params, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    monkeypatch.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{port}")
    with refused("hub_unreachable", url=f"http://127.0.0.1:{port}"):
        push(data_set_upload("me/games", params, Project(tree)), TOKEN)


@pytest.mark.parametrize(
    ("token", "code"),
    [
        (None, "key_missing"),
        ("", "key_missing"),
        ("  ", "key_missing"),
        ("hf_a b", "bad_value"),
        ("hf_\u00e9", "bad_value"),
    ],
)
def test_a_token_that_is_missing_or_broken_is_refused_without_repeating_it(
    token: str | None, code: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("HF_TOKEN", raising=False)
    if token is not None:
        monkeypatch.setenv("HF_TOKEN", token)
    with refused(code, variable="HF_TOKEN") as caught:
        token_from_environment()
    assert "hf_" not in f"{caught.value} {caught.value.values}"


@pytest.mark.parametrize("repo_id", ["agent", "me/you/agent", "me/", "../x/y", "me/a b", "http://me/agent"])
def test_what_is_no_id_of_the_hub_is_refused(tree: Path, params: Params, repo_id: str) -> None:
    with refused("bad_value", value=repo_id):
        data_set_upload(repo_id, params, Project(tree))


@pytest.mark.slow
def test_the_command_shows_what_it_would_upload_and_uploads_only_after_a_yes(tree: Path, hub: Hub) -> None:
    (tree / "params.yaml").write_text(yaml.safe_dump(params_for(tree).model_dump()))
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "HF_ENDPOINT": hub.address, "HF_TOKEN": TOKEN}

    def command(*arguments: str) -> "subprocess.CompletedProcess[str]":
        words = [sys.executable, "-m", "flows.cli", "push", *arguments]
        return subprocess.run(
            words, cwd=tree, env=environment, capture_output=True, text=True, stdin=subprocess.DEVNULL, check=False
        )

    asked = command("model", "refinement", "me/agent")
    assert asked.returncode == 1
    assert "model.safetensors" in asked.stdout
    assert "add --yes" in asked.stderr
    assert hub.repositories == {}
    for typed in ("", "n\n"):
        assert at_a_terminal(typed, tree, environment).endswith("Upload? [y/N] Nothing was uploaded.\n")
    assert hub.repositories == {}
    done = command("model", "refinement", "me/agent", "--yes", "--license", "apache-2.0")
    assert done.returncode == 0, done.stderr
    assert hub.address in done.stdout
    assert TOKEN not in done.stdout + done.stderr
    assert b"license: apache-2.0" in hub.repositories["models/me/agent"].files["README.md"]
    card = subprocess.run(
        [sys.executable, "-m", "flows.cli", "card", "data_set"],
        cwd=tree, env=environment, capture_output=True, text=True, check=True,
    ).stdout  # fmt: skip
    assert card.startswith("---\n")


def at_a_terminal(typed: str, folder: Path, environment: dict[str, str]) -> str:
    """What the upload of a model prints where somebody types at a terminal, at its end Ctrl-D."""
    terminal, keyboard = os.openpty()
    os.write(terminal, f"{typed}\x04".encode())
    done = subprocess.run(
        [sys.executable, "-m", "flows.cli", "push", "model", "refinement", "me/agent"],
        cwd=folder, env=environment, capture_output=True, text=True, stdin=keyboard, check=True,
    )  # fmt: skip
    os.close(keyboard)
    os.close(terminal)
    return done.stdout
