"""`card.json` beside a model: what the model is and how it came about. One record for each kind of model."""

import json
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, RootModel, ValidationError

from agentrefine.errors import UserError
from agentrefine.files import invalid_value
from agentrefine.params.tuning import MaskPolicy
from agentrefine.tuning.results import TuningFigures

CARD = "card.json"
"""The name of the file."""


class _Card(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore")


class TinyCard(_Card):
    """The tiny base that is made here.

    Example: `{"kind": "tiny", "seed": 7, "vocabulary": 2048, "params": {...}, "parameters": 872064, "tokens": 3000000,
    "loss": 0.41}`

    Attributes:
        seed, params: what it was made with (`base_model.tiny`).
        vocabulary, parameters: its sizes.
        tokens: that it was pretrained on.
        loss: mean over the last tenth of the steps, nats per token.
    """

    kind: Literal["tiny"] = "tiny"
    seed: int
    vocabulary: int
    params: dict[str, Any]
    parameters: int
    tokens: int
    loss: float


class ReferenceCard(_Card):
    """A base whose weights stay where they are.

    Example: `{"kind": "reference", "path": "HuggingFaceTB/SmolLM2-135M-Instruct", "digest": "ab..",
    "chat_template": []}`

    Attributes:
        path: a folder or hub id.
        digest: of its files (`models.model_digest`).
        chat_template: what is worth knowing of its chat template.
    """

    kind: Literal["reference"] = "reference"
    path: str
    digest: str
    chat_template: list[str]


class GgufCard(_Card):
    """A base that was read from a GGUF file.

    Example: `{"kind": "gguf", "path": "SmolLM2-135M-Instruct.Q4_1.gguf", ..., "quantisation": "Q4_1", ...}`

    Attributes:
        path, sha256: of the file.
        name, licence, architecture, tensor_types: as the file says (`gguf.GgufFile`).
        quantisation: of most weights; None where they were not quantised.
        dtype: of the weights now, such as `bfloat16`.
        parameters: how many.
        chat_template: what is worth knowing of its chat template.
    """

    kind: Literal["gguf"] = "gguf"
    path: str
    sha256: str
    name: str
    licence: str
    architecture: str
    quantisation: str | None
    tensor_types: dict[str, int]
    dtype: str
    parameters: int
    chat_template: list[str]


class _Origin(_Card):
    kind: Literal["tuned"] = "tuned"
    train_on: MaskPolicy
    base: str
    base_digest: str
    base_quantisation: str | None
    data_set: str
    data_set_sha256: dict[str, str]
    seed: int
    processes: int
    params: dict[str, Any]


class TunedCard(TuningFigures, _Origin):
    """A tuned model; equal for equal runs, so without times.

    Example: `{"kind": "tuned", "train_on": "refinement", "base": "models/base", ..., "seed": 7, "processes": 1, ...,
    "steps": 1344, "train_loss": 0.16, ...}`

    Attributes:
        base, base_digest, base_quantisation: what was tuned.
        data_set, data_set_sha256: a folder, and SHA-256 of its files by name.
        seed, params: the parameters that change weights (section `tuning`).
        processes: how many took part.
    """


class BaseCard(RootModel[Annotated[TinyCard | ReferenceCard | GgufCard, Field(discriminator="kind")]]):
    """models/base/card.json."""


class AnyCard(RootModel[Annotated[TinyCard | ReferenceCard | GgufCard | TunedCard, Field(discriminator="kind")]]):
    """The card of any model."""


KINDS = ("tiny", "reference", "gguf", "tuned")


def read_card(folder: Path) -> TinyCard | ReferenceCard | GgufCard | TunedCard | None:
    """The card of a model that a stage wrote; None for models from elsewhere.

    Raises:
        UserError: the card is not what a stage writes.
    """
    file = folder / CARD
    if not file.is_file():
        return None
    try:
        card = json.loads(file.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise UserError(
            "stage_file_broken", f"{file}: not valid JSON; run the stage that writes it again.", file=file
        ) from error
    if not isinstance(card, dict) or card.get("kind") not in KINDS:
        return None
    try:
        return AnyCard.model_validate(card).root
    except ValidationError as error:
        remedy = "Run the stage that writes it again."
        raise invalid_value(error, file, remedy, code="stage_file_broken", file=file) from error


def quantisation_of(card: TinyCard | ReferenceCard | GgufCard | TunedCard | None) -> str | None:
    """What a model's weights were quantised to before they were tuned, such as `Q4_1`; None where nothing says so."""
    if isinstance(card, TunedCard):
        return card.base_quantisation
    return card.quantisation if isinstance(card, GgufCard) else None
