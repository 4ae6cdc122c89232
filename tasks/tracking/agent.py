"""A model as MLflow keeps and loads it: `mlflow.pyfunc.load_model("models:/agentrefine-agent@champion")`.

What is kept is the model's folder as the stage wrote it, an adapter with the folder `models/base` that it was tuned on,
and MLflow's description of both. Where that folder names a base that lies elsewhere, its weights are not kept. No code
and no pickle is kept: MLflow imports this module, which reads safetensors.

The model takes conversations in rows of the column `messages` and answers each with one reply. MLflow's own flavor for
transformers is not used: it loads an adapter whose base is a local folder with new random weights, without a word.
"""

import tempfile
from collections.abc import Iterable, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import mlflow.pyfunc
import pandas as pd
from mlflow import MlflowClient
from mlflow.models import Model, ModelSignature
from mlflow.types import ColSpec, DataType, Schema
from mlflow.types.schema import Array, Object, Property

from agentrefine.evaluation.policy import Dialogue
from agentrefine.game.conversation import Message
from agentrefine.tuning.cards import ReferenceCard, read_card

if TYPE_CHECKING:
    from agentrefine.tuning.models import LoadedModel

MODEL = "model"
"""The folder of a run's artifacts that holds its model."""

WEIGHTS, BASE_WEIGHTS = "weights", "base"
"""Folders in it: the model's files, and those of the base of an adapter."""

LIBRARIES = ("mlflow", "peft", "safetensors", "torch", "transformers")

_MESSAGES = Array(Object([Property("role", DataType.string), Property("content", DataType.string)]))
SIGNATURE = ModelSignature(
    inputs=Schema([ColSpec(_MESSAGES, name="messages")]), outputs=Schema([ColSpec(DataType.string, name="reply")])
)
"""Conversations of roles `user` and `assistant` in, replies out."""

EXAMPLE = pd.DataFrame({"messages": [[{"role": "user", "content": "Goal: Fetch the lamp.\nYou are in the hall."}]]})
"""A row as it is sent; a game begins with its instructions (`agentrefine.evaluation.prompting.PlayPrompt`)."""


class Agent:
    """A loaded model: `predict` answers conversations, and `policy` plays (`agentrefine.evaluation.rollout.play`).

    Args:
        loaded: model and tokenizer.
        max_new_tokens: most tokens of a reply.
    """

    def __init__(self, loaded: "LoadedModel", max_new_tokens: int) -> None:
        from agentrefine.evaluation.local import LocalPolicy  # imports torch

        self.model, self.tokenizer = loaded
        self.policy = LocalPolicy(self.model, self.tokenizer, name="agent", max_new_tokens=max_new_tokens)

    def predict(self, model_input: pd.DataFrame, params: Mapping[str, Any] | None = None) -> list[str]:
        """A reply to each conversation, as the evaluation would have it: the likeliest token each time."""
        rows: Iterable[list[dict[str, str]]] = model_input["messages"]
        dialogues = [
            Dialogue(str(number), [Message.model_validate(message) for message in messages])
            for number, messages in enumerate(rows)
        ]
        replies = [reply.text for reply in self.policy.act(dialogues)]
        self.policy.forget([dialogue.key for dialogue in dialogues])
        return replies

    def get_raw_model(self) -> "Agent":
        """What MLflow's wrapper hides: the agent itself."""
        return self


def _load_pyfunc(path: str, model_config: Mapping[str, Any]) -> Agent:
    """What MLflow calls with the folder of a kept model."""
    from agentrefine.tuning.models import load_tuned

    base = Path(path, BASE_WEIGHTS)
    loaded = load_tuned(Path(path, WEIGHTS), base if base.is_dir() else None)
    return Agent(loaded, int(model_config["max_new_tokens"]))


def needed_base(folder: Path, base: Path) -> str:
    """A sentence that says which base a kept model still needs, and where; empty where it is kept with the model.

    Args:
        folder: of the model.
        base: the folder of the base that it was tuned on.
    """
    card = read_card(base)
    if not is_adapter(folder) or not isinstance(card, ReferenceCard):
        return ""
    known = f"with the digest {card.digest}, whose weights are not kept"
    if Path(card.path).is_absolute():
        return f"It needs the base {card.path}, {known}: that folder must be on the machine that loads it."
    if Path(card.path).is_dir():
        return f"It needs the base {card.path}, {known}: that path must lead to it from the working folder."
    return f"It needs the base {card.path} of the hub, {known}: it is fetched from the hub or taken from its cache."


def is_adapter(folder: Path) -> bool:
    """Whether a model's folder holds an adapter alone."""
    return (folder / "adapter_config.json").is_file()


def log_model(client: MlflowClient, run_id: str, folder: Path, base: Path, max_new_tokens: int) -> None:
    """Keep a model in its run, so that it loads wherever this project is installed and `needed_base` is found.

    Args:
        client: of the store.
        run_id: the model's run.
        folder: of the model.
        base: the folder of the base, which is kept beside an adapter.
        max_new_tokens: most tokens of a reply.
    """
    with tempfile.TemporaryDirectory() as scratch:
        described = Path(scratch, MODEL)
        mlflow.pyfunc.save_model(
            described,
            loader_module=__name__,
            mlflow_model=Model(run_id=run_id, artifact_path=MODEL),
            signature=SIGNATURE,
            input_example=EXAMPLE,
            pip_requirements=[f"{library}=={version(library)}" for library in LIBRARIES],
            model_config={"max_new_tokens": max_new_tokens},
        )
        client.log_artifacts(run_id, str(described), MODEL)
    client.log_artifacts(run_id, str(folder), f"{MODEL}/{WEIGHTS}")
    if is_adapter(folder):
        client.log_artifacts(run_id, str(base), f"{MODEL}/{BASE_WEIGHTS}")
