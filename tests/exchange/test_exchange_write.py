"""Data sets in other tools' formats train what ours trains, for every loss, read by the tools' own rules."""

import json
from pathlib import Path
from typing import get_args

import pytest
import yaml
from transformers import PreTrainedTokenizerFast

from agentrefine.exchange.export_formats import FORMATS
from agentrefine.exchange.write import export, export_tokens
from agentrefine.files import write_jsonl
from agentrefine.game.conversation import Message, PublishedMessage, Sample, opening, reply_text
from agentrefine.params.tuning import MaskPolicy
from agentrefine.simulation.tokenizer import build_tokenizer
from agentrefine.tuning.chat_template import render
from flows.cli import main
from tests.helpers.commands import failure
from tests.helpers.errors import refused
from tests.helpers.tiny_model import tiny_model
from tests.helpers.tool_loaders import LOADERS, records

FLAGS = ["TFFTT", "TTT", "FT", "F", "TTF", "FTFTF"]
"""The turns of six games: T is right, F a mistake. The fourth trains nothing but in one loss."""


def sample(number: int, flags: str) -> Sample:
    messages = opening("You play a game.\nActions:\ntake {item}", f"Take key {number}.", "You are in the hall. “é”")
    for turn, flag in enumerate(flags):
        text = reply_text(f"i try {number} {turn}", f"take key {turn}")
        messages.append(Message(role="assistant", content=text, loss=flag == "T"))
        messages.append(Message(role="user", content=f"You see {turn}."))
    sender = {"user": "human", "assistant": "gpt"}
    conversations = [PublishedMessage(from_=sender[m.role], value=m.content, loss=m.loss) for m in messages[:-1]]
    return Sample(id=f"game-{number}", persona_id=f"persona-{number}", conversations=conversations)


SAMPLES = [sample(number, flags) for number, flags in enumerate(FLAGS)]


@pytest.fixture
def data_set(tmp_path: Path) -> Path:
    write_jsonl(tmp_path / "data" / "train.jsonl", SAMPLES)
    write_jsonl(tmp_path / "data" / "validation.jsonl", SAMPLES[:2])
    return tmp_path / "data"


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerFast:
    return build_tokenizer(["key", "hall", "take"], [m.value for s in SAMPLES for m in s.conversations])


def trained_by_us(tokenizer: PreTrainedTokenizerFast, train_on: MaskPolicy) -> list[list[str]]:
    """The labelled texts of each sample that has any."""
    rendered = [render(tokenizer, s.messages(), train_on) for s in SAMPLES]
    texts = [[tokenizer.decode(r.ids[s.start : s.end]) for s in r.spans if s.trained] for r in rendered]
    return [trained for trained in texts if trained]


@pytest.mark.parametrize("loss", get_args(MaskPolicy))
@pytest.mark.parametrize("name", FORMATS)
def test_a_tool_trains_on_the_turns_that_we_train_on(data_set, tmp_path, tokenizer, name, loss):
    written = export(FORMATS[name], data_set, tmp_path / "out", loss)
    ours = trained_by_us(tokenizer, loss)
    theirs = list(LOADERS[name](tmp_path / "out"))
    if name == "llamafactory":  # a record per turn
        ours = [[text] for trained in ours for text in trained]
    assert theirs == ours
    assert written["train"].records == len(theirs)
    assert written["train"].trained_turns == sum(map(len, ours))
    assert written["train"].read == len(SAMPLES)


@pytest.mark.parametrize("name", ["llamafactory-v1", "axolotl", "openai"])
def test_what_is_not_trained_stays_in_the_context(data_set, tmp_path, name):
    export(FORMATS[name], data_set, tmp_path / "out", "correct_turns")
    texts = json.dumps(records(tmp_path / "out" / "train.jsonl")[0], ensure_ascii=False)
    assert all(json.dumps(m.value, ensure_ascii=False) in texts for m in SAMPLES[0].conversations)


def test_a_record_for_llamafactory_ends_with_its_one_trained_turn_and_has_the_context_before_it(data_set, tmp_path):
    export(FORMATS["llamafactory"], data_set, tmp_path / "out", "correct_turns")
    first, second, *_ = records(tmp_path / "out" / "train.jsonl")
    whole = [{"from": m.from_, "value": m.value} for m in SAMPLES[0].conversations]
    assert first["conversations"] == whole[:4]
    assert second["conversations"] == whole[:10]


@pytest.mark.parametrize("loss", get_args(MaskPolicy))
def test_trl_takes_the_rows_as_they_are_and_trains(data_set, tmp_path, tokenizer, loss):
    from datasets import load_dataset
    from trl import SFTConfig, SFTTrainer

    written = export_tokens(data_set, tmp_path / "out", loss, tokenizer)
    files = {split: str(tmp_path / "out" / f"{split}.parquet") for split in ("train", "validation")}
    data = load_dataset("parquet", data_files=files, cache_dir=str(tmp_path / "cache"))
    arguments = SFTConfig(
        output_dir=str(tmp_path / "scratch"),
        max_length=None,
        max_steps=1,
        per_device_train_batch_size=8,
        use_cpu=True,
        bf16=False,
        logging_steps=1,
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
    )
    trainer = SFTTrainer(
        model=tiny_model(tokenizer, 0),
        args=arguments,
        train_dataset=data["train"],
        eval_dataset=data["validation"],
        processing_class=tokenizer,
    )
    ours = [r for r in (render(tokenizer, s.messages(), loss) for s in SAMPLES) if r.trained_tokens]
    assert trainer.train_dataset["labels"] == [r.labels for r in ours]
    assert trainer.train_dataset["input_ids"] == [r.ids for r in ours]
    (batch,) = trainer.get_train_dataloader()
    labels = sorted([token for token in row.tolist() if token != -100] for row in batch["labels"])
    assert labels == sorted([token for token in r.labels if token != -100] for r in ours)
    trainer.train()
    assert trainer.state.log_history[0]["loss"] > 0
    assert written["train"] == (len(SAMPLES), len(ours), sum(map(len, trained_by_us(tokenizer, loss))))


def test_turns_beyond_the_length_are_left_out_of_the_tokens(data_set, tmp_path, tokenizer):
    import pyarrow.parquet as pq

    limit = render(tokenizer, SAMPLES[0].messages()[:4], "correct_turns")
    export_tokens(data_set, tmp_path / "out", "correct_turns", tokenizer, max_length=len(limit.ids))
    first = pq.read_table(tmp_path / "out" / "train.parquet").to_pylist()[0]
    assert first == {"id": "game-0", "input_ids": limit.ids, "labels": limit.labels}


def test_the_command_takes_the_tokenizer_of_a_model(data_set, tmp_path, tokenizer, capsys):
    tokenizer.save_pretrained(tmp_path / "model")
    main(["export", "trl", str(data_set), str(tmp_path / "out"), "--model", str(tmp_path / "model")])
    assert "validation: 2 records with 6 trained turns from 2 samples" in capsys.readouterr().out


def test_the_second_split_is_named_in_the_settings(data_set, tmp_path):
    export(FORMATS["axolotl"], data_set, tmp_path / "axolotl", "correct_turns")
    settings = yaml.safe_load((tmp_path / "axolotl" / "axolotl.yaml").read_text())
    assert settings["test_datasets"][0]["path"] == str(tmp_path / "axolotl" / "validation.jsonl")
    export(FORMATS["llamafactory"], data_set, tmp_path / "llamafactory", "correct_turns")
    training = yaml.safe_load((tmp_path / "llamafactory" / "llamafactory.yaml").read_text())
    info = json.loads((tmp_path / "llamafactory" / "dataset_info.json").read_text())
    assert info[training["eval_dataset"]]["file_name"] == "validation.jsonl"


@pytest.mark.parametrize("name", FORMATS)
def test_an_empty_validation_file_is_neither_written_nor_named(data_set, tmp_path, name):
    (data_set / "validation.jsonl").write_text("")
    export(FORMATS[name], data_set, tmp_path / "out", "correct_turns")
    assert not (tmp_path / "out" / "validation.jsonl").exists()
    assert not any("validation.jsonl" in file.read_text() for file in (tmp_path / "out").iterdir())


def test_what_is_there_already_is_not_replaced(data_set, tmp_path):
    before = (data_set / "train.jsonl").read_bytes()
    for out in (data_set, data_set / "train.jsonl", Path()):
        with refused("already_exists", file=out):
            export(FORMATS["openai"], data_set, out, "correct_turns")
    assert (data_set / "train.jsonl").read_bytes() == before


def test_a_data_set_that_trains_nothing_is_refused_and_leaves_nothing(data_set, tmp_path, tokenizer):
    write_jsonl(data_set / "train.jsonl", [SAMPLES[3]])
    with refused("nothing_to_train", file=data_set / "train.jsonl"):
        export(FORMATS["openai"], data_set, tmp_path / "out", "correct_turns")
    with refused("nothing_to_train", file=data_set / "train.jsonl"):
        export_tokens(data_set, tmp_path / "out", "correct_turns", tokenizer)
    assert [path.name for path in tmp_path.iterdir()] == ["data"]


def test_the_command_writes_and_leaves_nothing_at_a_broken_line(data_set, tmp_path, capsys):
    main(["export", "axolotl", str(data_set), str(tmp_path / "out")])
    assert "train: 5 records with 11 trained turns from 6 samples" in capsys.readouterr().out
    with (data_set / "train.jsonl").open("a") as handle:
        handle.write('{"id": "x"}\n')
    error = failure("export", "axolotl", str(data_set), str(tmp_path / "again"))
    assert (error.code, error.values["line"], error.values["key"]) == ("stage_file_broken", 7, "persona_id")
    assert not (tmp_path / "again").exists()
