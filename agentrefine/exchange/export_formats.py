"""Samples as records of other tools, with the turns that a loss trains.

Each format has a function that turns a conversation into records, and one that gives the lines of configuration which
the tool needs to read them as they are meant.
"""

import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from agentrefine.game.conversation import Message, Sample

SENDER = {"user": "human", "assistant": "gpt"}
NAME = "agentrefine"
"""The data set's name in the tools' configurations."""

Record = dict[str, Any]


class Format(NamedTuple):
    """A tool's format.

    Attributes:
        records: the records of a sample, given its messages with the flags of the loss.
        settings: the name and text of each further file, given the folder and the names of the data files in it;
            without it there are none.
    """

    records: Callable[[Sample, Sequence[Message]], Iterator[Record]]
    settings: Callable[[Path, Sequence[str]], dict[str, str]] = lambda folder, files: {}


def published_format(sample: Sample, messages: Sequence[Message]) -> Iterator[Record]:
    """The format of the authors' data sets, with the persona's id: `loss` true or false on gpt, null on human."""
    turns = [{"from": SENDER[m.role], "value": m.content, "loss": m.loss} for m in messages]
    yield {"id": sample.id, "persona_id": sample.persona_id, "conversations": turns}


def llamafactory(sample: Sample, messages: Sequence[Message]) -> Iterator[Record]:
    """ShareGPT's format for LLaMA-Factory: one record per trained turn, which is its last message.

    Its converter keeps no flag of a message, so that the only way to leave a turn out of the loss is `mask_history`,
    which trains a record's last turn only
    (https://github.com/hiyouga/LLaMA-Factory/blob/v0.9.5/src/llamafactory/data/processor/supervised.py). The setting is
    in the training file; the key of that name, which LLaMA-Factory leaves alone, says it to whoever reads the records.
    """
    turns = [{"from": SENDER[m.role], "value": m.content} for m in messages]
    for index, message in enumerate(messages):
        if message.loss:
            yield {"id": f"{sample.id}-{index}", "mask_history": True, "conversations": turns[: index + 1]}


def llamafactory_v1(sample: Sample, messages: Sequence[Message]) -> Iterator[Record]:
    """Messages with `loss_weight` for LLaMA-Factory's new trainer (0.9.5 with USE_V1=1), in the form it keeps itself.

    Not in ShareGPT's: its converter for that sets every weight of gpt to 1
    (https://github.com/hiyouga/LLaMA-Factory/blob/v0.9.5/src/llamafactory/v1/utils/types.py and
    .../v1/plugins/data_plugins/converter.py).
    """
    contents = [[{"type": "text", "value": m.content}] for m in messages]
    weighed = zip(messages, contents, strict=True)
    yield {"messages": [{"role": m.role, "content": text, "loss_weight": float(bool(m.loss))} for m, text in weighed]}


def axolotl(sample: Sample, messages: Sequence[Message]) -> Iterator[Record]:
    """Messages with `train` for axolotl's `type: chat_template`.

    Source: https://github.com/axolotl-ai-cloud/axolotl/blob/main/src/axolotl/prompt_strategies/chat_template.py
    """
    yield {"messages": [{"role": m.role, "content": m.content, "train": bool(m.loss)} for m in messages]}


def openai_chat(sample: Sample, messages: Sequence[Message]) -> Iterator[Record]:
    """OpenAI's chat format for fine-tuning: `weight` 0 or 1 on assistant messages, the last of which ends the chat.

    Source: https://platform.openai.com/docs/guides/supervised-fine-tuning and `FineTuneChatRequestInput` of
    https://github.com/openai/openai-openapi.
    """
    weights = [{"weight": int(bool(m.loss))} if m.role == "assistant" else {} for m in messages]
    weighed = zip(messages, weights, strict=True)
    yield {"messages": [{"role": m.role, "content": m.content} | weight for m, weight in weighed]}


def _llamafactory_settings(folder: Path, files: Sequence[str]) -> dict[str, str]:
    """The registry of data sets that LLaMA-Factory looks for, and the keys of its training file."""
    names = {file: NAME if file == files[0] else f"{NAME}_{Path(file).stem}" for file in files}
    columns = {"formatting": "sharegpt", "columns": {"messages": "conversations"}}
    info = {name: {"file_name": file, **columns} for file, name in names.items()}
    keys = dict(zip(("dataset", "eval_dataset"), names.values(), strict=False))
    training = {"stage": "sft", "dataset_dir": str(folder), **keys, "mask_history": True, "train_on_prompt": False}
    return {"dataset_info.json": json.dumps(info, indent=2) + "\n", "llamafactory.yaml": _yaml(training)}


def _llamafactory_v1_settings(folder: Path, files: Sequence[str]) -> dict[str, str]:
    paths = (str(folder / file) for file in files)
    return {"llamafactory.yaml": _yaml(dict(zip(("train_dataset", "eval_dataset"), paths, strict=False)))}


def _axolotl_settings(folder: Path, files: Sequence[str]) -> dict[str, str]:
    """The data sets' block: `train` decides, no role is trained by itself, the end of a trained turn is trained."""
    blocks = [
        {
            "path": str(folder / file),
            "split": "train",
            "ds_type": "json",
            "type": "chat_template",
            "field_messages": "messages",
            "message_property_mappings": {"role": "role", "content": "content"},
            "message_field_training": "train",
            "roles_to_train": [],
            "train_on_eos": "turn",
        }
        for file in files
    ]
    lists = zip(("datasets", "test_datasets"), ([block] for block in blocks), strict=False)
    return {"axolotl.yaml": _yaml(dict(lists))}


def _yaml(value: object) -> str:
    return yaml.safe_dump(value, sort_keys=False)


FORMATS: dict[str, Format] = {
    "published": Format(published_format),
    "llamafactory": Format(llamafactory, _llamafactory_settings),
    "llamafactory-v1": Format(llamafactory_v1, _llamafactory_v1_settings),
    "axolotl": Format(axolotl, _axolotl_settings),
    "openai": Format(openai_chat),
}
"""The formats of one JSON object a line, by their names in the command; `trl` is in `agentrefine.exchange.write`."""
