"""`card.json` beside a model: what the model is and how it came about. One record for each kind of model.

A loaded model depends on this file. So it holds records only; `agentrefine.report.cards` writes the cards for people.
"""

from pathlib import Path
from typing import Annotated, Any, Literal, TypeAlias

from pydantic import BaseModel, Field, RootModel, TypeAdapter, ValidationError, computed_field

from agentrefine.files import invalid_value
from agentrefine.params.tuning import MaskPolicy

CARD = "card.json"
"""The name of the file."""


class TinyCard(BaseModel, frozen=True):
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


class ReferenceCard(BaseModel, frozen=True):
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


class GgufCard(BaseModel, frozen=True):
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


class RenderingCounts(BaseModel):
    """What rendering made of a data set.

    Example: `{"samples": 2685, ..., "tokens": 1437600, "whole_tokens": 1437600, "trained_tokens": 314742, ...}`

    Attributes:
        samples: rows that train something.
        samples_with_special_tokens: conversations left out because a text holds a special token of the tokenizer, such
            as the end of a turn, which the model would learn to write in mid-sentence.
        samples_dropped: conversations of which no trained turn fits into the length limit.
        turns_dropped: assistant turns left out at the ends of conversations that are too long.
        tokens: of all rows.
        whole_tokens: of the same games before the mask policy cuts anything out of them.
        trained_tokens: of these, those with a label.
        longest: tokens of the longest row.
    """

    samples: int = 0
    samples_with_special_tokens: int = 0
    samples_dropped: int = 0
    turns_dropped: int = 0
    tokens: int = 0
    whole_tokens: int = 0
    trained_tokens: int = 0
    longest: int = 0

    @property
    def trained_token_share(self) -> float:
        """Trained tokens by all tokens."""
        return self.trained_tokens / self.tokens if self.tokens else 0.0


class TuningFigures(BaseModel):
    """metrics.json: what tuning did, as far as it is the same when tuning is repeated.

    Example: `{"train_on": "correct_turns", "parameters": 872064, ..., "tokens": 2875200, "train_loss": 0.16}`

    Attributes:
        train_on: which turns were trained (the mask policy).
        parameters, trainable_parameters: of the model.
        rendering: samples, turns and tokens of the training file.
        steps: optimizer steps.
        tokens: read in all epochs.
        trained_tokens: of these, those with a label (by their share, where training stopped early).
        train_loss: mean over the last tenth of the steps, nats per trained token.
        validation_loss_before, validation_loss: of the base and of the tuned model, nats per trained token; None
            without validation samples.
    """

    train_on: MaskPolicy
    parameters: int
    trainable_parameters: int
    rendering: RenderingCounts
    steps: int
    tokens: int
    trained_tokens: int
    train_loss: float
    validation_loss_before: float | None
    validation_loss: float | None

    @computed_field  # type: ignore[prop-decorator]
    @property
    def trained_token_share(self) -> float:
        """Share of the tokens read that are trained on, in [0, 1]."""
        return self.trained_tokens / self.tokens if self.tokens else 0.0


class _Origin(BaseModel, frozen=True):
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

    Example: `{"kind": "tuned", "train_on": "correct_turns", "base": "models/base", ..., "seed": 7, "processes": 1, ...,
    "steps": 1344, "train_loss": 0.16, ...}`

    Attributes:
        base, base_digest, base_quantisation: what was tuned.
        data_set, data_set_sha256: a folder, and SHA-256 of its files by name.
        seed, params: the parameters that change weights (section `tuning`).
        processes: how many took part.
    """


class BaseCard(RootModel[Annotated[TinyCard | ReferenceCard | GgufCard, Field(discriminator="kind")]]):
    """models/base/card.json; an example of each kind is at its class."""


Card: TypeAlias = TinyCard | ReferenceCard | GgufCard | TunedCard
"""The card of any model."""

_ANY_CARD: TypeAdapter[Card] = TypeAdapter(Annotated[Card, Field(discriminator="kind")])


def read_card(folder: Path) -> Card | None:
    """The card of a model that a stage wrote; None for models from elsewhere.

    Raises:
        UserError: the card is not what a stage writes.
    """
    file = folder / CARD
    if not file.is_file():
        return None
    try:
        return _ANY_CARD.validate_json(file.read_bytes())
    except ValidationError as error:
        problem = error.errors(include_url=False)[0]
        if not problem["loc"] and problem["type"] != "json_invalid":
            return None  # no card of ours: no object, or one of another kind
        remedy = "Run the stage that writes it again."
        raise invalid_value(error, file, remedy, code="stage_file_broken", file=file) from error


def quantisation_of(card: Card | None) -> str | None:
    """What a model's weights were quantised to before they were tuned, such as `Q4_1`; None where nothing says so."""
    if isinstance(card, TunedCard):
        return card.base_quantisation
    return card.quantisation if isinstance(card, GgufCard) else None
