"""The sections `base_model`, `mix` and `tuning` of params.yaml."""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from agentrefine.params.base import Section, Share, TrackedPath, UserPath

Loss = Literal["refinement", "with_erroneous_loss", "without_refinement_loss", "without_refinement_data"]
"""Which turns are trained (paper, section 3.3 and the ablations of section 4; `agentrefine.tuning.masking`)."""

PLAIN: Loss = "without_refinement_data"
"""Plain expert tuning: the mistakes are cut out of the games."""

BASE = "base"
"""The name of the untuned model among the models that are evaluated."""

Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")]
"""Of a model or a data set: a folder's name and a DVC stage's key."""


class TinyModel(Section):
    """The base model that is made on the spot: a Llama with tied embeddings, by transformers' names where it has one.

    The learning rate is AdamW's (embeddings and norms), `muon_learning_rate` is Muon's (hidden matrices).
    """

    hidden_size: Annotated[int, Field(gt=0)]
    intermediate_size: Annotated[int, Field(gt=0)]
    layers: Annotated[int, Field(gt=0)]
    heads: Annotated[int, Field(gt=0)]
    max_length: Annotated[int, Field(gt=0)]
    pretraining_tokens: Annotated[int, Field(gt=0)]
    batch_tokens: Annotated[int, Field(gt=0)]
    learning_rate: Annotated[float, Field(gt=0)]
    muon_learning_rate: Annotated[float, Field(gt=0)]

    @model_validator(mode="after")
    def _heads_divide_the_width(self) -> Self:
        if self.hidden_size % (2 * self.heads):
            raise ValueError("hidden_size must be an even multiple of heads")
        return self


class BaseModelParams(Section):
    """The model that is tuned.

    `chat_template` names a jinja file that replaces the tokenizer's own template; null keeps that one, or takes ours
    where there is none.
    """

    path: UserPath
    chat_template: UserPath | None
    tiny: TinyModel

    @property
    def is_tiny(self) -> bool:
        """Whether the base is made here instead of loaded."""
        return self.path == "tiny"

    @model_validator(mode="after")
    def _the_tiny_model_has_its_own_template(self) -> Self:
        if self.is_tiny and self.chat_template is not None:
            raise ValueError("chat_template is for models from elsewhere, the tiny one has its own; set it to null")
        return self


class Mix(Section):
    """Games and general chat in one data set.

    `chat` is a file in ShareGPT's format, `share` the chat's share of the mixed set's training samples. `ignore_keys`
    are keys of the chat file that are left out, whatever they say.
    """

    data_set: TrackedPath
    chat: TrackedPath
    share: Annotated[float, Field(gt=0, lt=1)]
    ignore_keys: Annotated[list[str], Field(default_factory=list)]


class Variant(Section):
    """A model to tune: a loss on a data set (a folder with train.jsonl and validation.jsonl)."""

    loss: Loss
    data_set: TrackedPath


class LoraParams(Section):
    """Low-rank adaptation, by the names of PEFT's LoraConfig."""

    r: Annotated[int, Field(gt=0)]
    lora_alpha: Annotated[int, Field(gt=0)]
    lora_dropout: Share
    target_modules: str | list[str]
    use_rslora: bool
    use_dora: bool


class EarlyStopping(Section):
    """Stop after `patience` evaluations that are not better than the best by `min_delta` nats; the best is kept."""

    patience: Annotated[int, Field(gt=0)]
    min_delta: Annotated[float, Field(ge=0)]


class TuningParams(Section):
    """How variants are tuned, by TRL's and transformers' names where they have one.

    `launcher` starts the stage's processes. `muon_learning_rate` null means AdamW for every parameter. `decay_share` is
    the share of the steps over which `warmup_stable_decay` decays. `max_length` counts tokens: whole turns are dropped
    from the end of longer games. `eval_steps` and `checkpoint_steps` count optimizer steps. `keep_best` keeps the
    weights of the evaluation with the lowest validation loss, the last step's among them, instead of the last weights.
    Without a GPU a tuning has `cpu_processes` that share its steps, each with `cpu_threads`.
    """

    variants: Annotated[dict[Name, Variant], Field(min_length=1)]
    launcher: str
    method: Literal["full", "lora", "qlora"]
    lora: LoraParams
    epochs: Annotated[int, Field(gt=0)]
    learning_rate: Annotated[float, Field(gt=0)]
    muon_learning_rate: Annotated[float, Field(gt=0)] | None
    weight_decay: Annotated[float, Field(ge=0)]
    lr_scheduler_type: Literal["warmup_stable_decay", "linear", "cosine", "constant_with_warmup"]
    decay_share: Share
    warmup_steps: Annotated[int, Field(ge=0)]
    max_grad_norm: Annotated[float, Field(gt=0)]
    batch_tokens: Annotated[int, Field(gt=0)]
    gradient_accumulation_steps: Annotated[int, Field(gt=0)]
    cpu_processes: Annotated[int, Field(gt=0)] = 1
    cpu_threads: Annotated[int, Field(gt=0)] = 1
    activation_checkpointing: bool
    packing: bool
    padding_free: bool
    max_length: Annotated[int, Field(gt=0)]
    precision: Literal["auto", "fp32", "bf16"]
    attention: Literal["sdpa", "eager", "flash_attention_2", "flash_attention_3"]
    liger_kernel: bool
    eval_steps: Annotated[int, Field(gt=0)]
    early_stopping: EarlyStopping | None
    keep_best: bool
    checkpoint_steps: Annotated[int, Field(gt=0)]
    checkpoints_kept: Annotated[int, Field(gt=0)]

    @property
    def chooses_by_validation(self) -> bool:
        """Whether the weights that are kept are those of the lowest validation loss."""
        return self.keep_best or self.early_stopping is not None

    @model_validator(mode="after")
    def _muon_has_no_weight_decay(self) -> Self:
        if self.weight_decay and self.muon_learning_rate is not None:
            raise ValueError(
                "weight_decay is AdamW's and Muon takes the matrices; set muon_learning_rate to null, or it to 0"
            )
        return self
