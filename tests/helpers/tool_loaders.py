"""What other tools train on in the files written for them: their documented reading, in as few lines as it takes.

Each gives, per record, the texts that get a label, with the tokenizer's end-of-turn token where the tool trains it.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml
from openai.types.chat import ChatCompletionMessageParam
from pydantic import TypeAdapter

END = "<|end|>"


def records(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]


def published(folder: Path) -> Iterator[list[str]]:
    """The authors' trainer masks where `loss` is false."""
    for record in records(folder / "train.jsonl"):
        yield [m["value"] + END for m in record["conversations"] if m["from"] == "gpt" and m["loss"]]


def llamafactory(folder: Path) -> Iterator[list[str]]:
    """https://github.com/hiyouga/LLaMA-Factory/blob/v0.9.5/src/llamafactory/data/ (parser, converter, processor)."""
    training = yaml.safe_load((folder / "llamafactory.yaml").read_text())
    entry = json.loads((Path(training["dataset_dir"]) / "dataset_info.json").read_text())[training["dataset"]]
    assert entry["formatting"] == "sharegpt"
    assert not training["train_on_prompt"]
    for record in records(Path(training["dataset_dir"]) / entry["file_name"]):
        messages = record[entry["columns"]["messages"]]
        accepted = ({"human", "observation"}, {"gpt", "function_call"})
        assert all(m["from"] in accepted[index % 2] for index, m in enumerate(messages)), "skipped as abnormal"
        assert len(messages) % 2 == 0
        replies = [m["value"] + END for m in messages[1::2]]
        yield replies[-1:] if training["mask_history"] else replies


def llamafactory_v1(folder: Path) -> Iterator[list[str]]:
    """https://github.com/hiyouga/LLaMA-Factory/blob/v0.9.5/src/llamafactory/v1/core/utils/rendering.py."""
    training = yaml.safe_load((folder / "llamafactory.yaml").read_text())
    for record in records(Path(training["train_dataset"])):
        trained = []
        for message in record["messages"]:
            assert all(part["type"] == "text" for part in message["content"])
            if message.get("loss_weight", 1.0 if message["role"] == "assistant" else 0.0) > 1e-6:
                trained.append("".join(part["value"] for part in message["content"]) + END)
        yield trained


def axolotl(folder: Path) -> Iterator[list[str]]:
    """https://github.com/axolotl-ai-cloud/axolotl/blob/main/src/axolotl/prompt_strategies/chat_template.py."""
    (settings,) = yaml.safe_load((folder / "axolotl.yaml").read_text())["datasets"]
    assert (settings["type"], settings["ds_type"]) == ("chat_template", "json")
    names = settings["message_property_mappings"]
    for record in records(Path(settings["path"])):
        trained = []
        for message in record[settings["field_messages"]]:
            flag = message.get(settings["message_field_training"])
            if flag if flag is not None else message[names["role"]] in settings["roles_to_train"]:
                trained.append(message[names["content"]] + (END if settings["train_on_eos"] == "turn" else ""))
        yield trained


def openai_chat(folder: Path) -> Iterator[list[str]]:
    """https://platform.openai.com/docs/guides/supervised-fine-tuning; `weight` is 1 where it is not given."""
    chat = TypeAdapter(list[ChatCompletionMessageParam])
    for record in records(folder / "train.jsonl"):
        assert set(record) == {"messages"}
        chat.validate_python([{k: v for k, v in m.items() if k != "weight"} for m in record["messages"]], strict=True)
        assert record["messages"][-1]["role"] == "assistant"
        replies = [m for m in record["messages"] if m["role"] == "assistant"]
        assert all(m["weight"] in (0, 1) for m in replies)
        assert all("weight" not in m for m in record["messages"] if m["role"] != "assistant")
        yield [m["content"] + END for m in replies if m.get("weight", 1)]


LOADERS = {
    "published": published,
    "llamafactory": llamafactory,
    "llamafactory-v1": llamafactory_v1,
    "axolotl": axolotl,
    "openai": openai_chat,
}
