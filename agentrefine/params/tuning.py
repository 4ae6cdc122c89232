"""The sections `base_model`, `mix` and `tuning` of params.yaml."""

from typing import Annotated, Literal, Self

from pydantic import (
    Field,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    field_validator,
    model_validator,
)

from agentrefine.errors import UserError
from agentrefine.params.base import Section, Share, TrackedPath, UserPath, misfit, param

MaskPolicy = Literal["correct_turns", "with_erroneous_loss", "without_refinement_loss", "without_refinement_data"]
"""Which turns are trained (paper, section 3.3 and the ablations of section 4; `agentrefine.tuning.masking`)."""

PLAIN: MaskPolicy = "without_refinement_data"
"""Plain expert tuning: the mistakes are cut out of the games."""

BASE = "base"
"""The name of the untuned model among the models that are evaluated."""

Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")]
"""Of a model or a data set: a folder's name and a DVC stage's key."""


class TinyModel(Section):
    """The base model that is made here: a Llama with tied embeddings, by transformers' names where it has one."""

    hidden_size: PositiveInt = param(128, "width of the residual stream")
    intermediate_size: PositiveInt = param(704, "width of the feed-forward layers")
    layers: PositiveInt = param(2, "transformer layers")
    heads: PositiveInt = param(2, "attention heads of a layer")
    max_length: PositiveInt = param(2048, "context, tokens")
    pretraining_tokens: PositiveInt = param(1_000_000, "of games and thoughts, made here")
    batch_tokens: PositiveInt = param(1024, "per step")
    learning_rate: PositiveFloat = param(2e-3, "AdamW: embeddings and norms")
    muon_learning_rate: PositiveFloat = param(0.01, "Muon: hidden matrices")

    @model_validator(mode="after")
    def _heads_divide_the_width(self) -> Self:
        if self.hidden_size % (2 * self.heads):
            raise ValueError("hidden_size must be an even multiple of heads")
        return self


class BaseModelParams(Section):
    """The model that is tuned."""

    path: UserPath = param("tiny", "a folder, a GGUF file or a hub id", '"tiny" makes a Llama of 0.9 M parameters here')
    chat_template: UserPath | None = param(
        None, "a jinja file instead of the tokenizer's own chat template, or of ours where there is none"
    )
    tiny: TinyModel = TinyModel()

    @property
    def is_tiny(self) -> bool:
        """Whether the base is made here instead of loaded."""
        return self.path == "tiny"

    @model_validator(mode="after")
    def _the_tiny_model_has_its_own_template(self) -> Self:
        if self.is_tiny and self.chat_template is not None:
            sentence = "chat_template is for models from elsewhere, the tiny one has its own; set it to null"
            raise misfit(sentence, key="base_model.chat_template", value=self.chat_template)
        return self


class Mix(Section):
    """Games and general chat in one data set.

    `chat` is a file in ShareGPT's format, `share` the chat's share of the mixed set's training samples. `ignore_keys`
    are keys of the chat file that are left out, whatever they say.
    """

    data_set: TrackedPath
    chat: TrackedPath
    share: Annotated[float, Field(gt=0, lt=1)]
    ignore_keys: list[str] = Field([])


class Variant(Section):
    """A model to tune: a mask policy on a data set (a folder with train.jsonl and validation.jsonl).

    `seed` draws the order of its samples and an adapter's first weights; null: the run's own seed.
    """

    train_on: MaskPolicy
    data_set: TrackedPath
    seed: int | None = None

    @field_validator("train_on", mode="before")
    @classmethod
    def _old_name(cls, train_on: object) -> object:
        if train_on == "refinement":
            sentence = "the mask policy refinement is now called correct_turns; write that"
            raise ValueError(sentence) from UserError("old_name", sentence, name="refinement", new="correct_turns")
        return train_on


class LoraParams(Section):
    """Low-rank adaptation, by the names of PEFT's LoraConfig."""

    r: PositiveInt = 16
    lora_alpha: PositiveInt = 32
    lora_dropout: Share = 0.0
    target_modules: str | list[str] = "all-linear"
    use_rslora: bool = False
    use_dora: bool = False


class EarlyStopping(Section):
    """Stop after `patience` evaluations that are not better than the best by `min_delta` nats; the best is kept."""

    patience: PositiveInt
    min_delta: NonNegativeFloat


class TuningParams(Section):
    """How variants are tuned, by TRL's and transformers' names where they have one."""

    variants: Annotated[dict[Name, Variant], Field(min_length=1)] = param(
        {
            "expert_only": Variant(train_on=PLAIN, data_set="data/dataset"),
            "refinement": Variant(train_on="correct_turns", data_set="data/dataset"),
        },
        "the models to tune: a name, a mask policy, a data set; presets/ablations.yaml has more",
    )
    launcher: str = param("python", "of processes; on several GPUs accelerate launch --config_file configs/fsdp.yaml")
    method: Literal["full", "lora", "qlora"] = param("full", "full, lora or qlora (pip install 'agentrefine[qlora]')")
    lora: LoraParams = param(LoraParams(), "by the names of PEFT's LoraConfig")
    epochs: PositiveInt = param(2, "passes over the data set")
    tokens: PositiveInt | None = param(
        None, "to train on, about, instead of epochs: every variant then takes equal steps and reads as many tokens"
    )
    learning_rate: PositiveFloat = param(
        2e-3, "AdamW; for a pretrained model of billions of parameters rather 1e-5 (full) or 1e-4 (lora)"
    )
    muon_learning_rate: PositiveFloat | None = param(0.01, "Muon on the hidden matrices; null: AdamW on everything")
    weight_decay: NonNegativeFloat = param(0.0, "AdamW's")
    lr_scheduler_type: Literal["warmup_stable_decay", "linear", "cosine", "constant_with_warmup"] = param(
        "warmup_stable_decay", "or linear, cosine, constant_with_warmup"
    )
    decay_share: Share = param(0.5, "of the steps, for warmup_stable_decay")
    warmup_steps: NonNegativeInt = param(30, "optimizer steps")
    max_grad_norm: PositiveFloat = param(1.0, "gradients are clipped to this norm")
    batch_tokens: PositiveInt = param(2100, "per step, about", "four games")
    gradient_accumulation_steps: PositiveInt = param(1, "forward passes per step")
    cpu_processes: PositiveInt = param(1, "without a GPU: processes that share the steps; another number, other bytes")
    cpu_threads: PositiveInt = param(
        1, "of each; more for a model of 100 M parameters and up; another number, other bytes"
    )
    activation_checkpointing: bool = param(False, "less memory, more time")
    packing: bool = param(
        False, "several games in one row (bfd); off: rows of similar length together, faster on a CPU"
    )
    padding_free: bool = param(False, "a batch as one row without padding; for flash_attention_2 and _3")
    max_length: PositiveInt = param(1024, "tokens; whole turns are dropped from the end of a longer game")
    precision: Literal["auto", "fp32", "bf16"] = param("auto", "bf16 where the hardware has it; or fp32, bf16")
    attention: Literal["sdpa", "eager", "flash_attention_2", "flash_attention_3"] = param(
        "sdpa", "or eager, flash_attention_2, flash_attention_3 (on a GPU that has it)"
    )
    liger_kernel: bool = param(False, "fused kernels on a GPU (pip install 'agentrefine[gpu]')")
    eval_steps: PositiveInt = param(100, "optimizer steps between two masked validation losses")
    early_stopping: EarlyStopping | None = param(
        None, "or {patience: 3, min_delta: 0.0}: losses without improvement; the best model is kept"
    )
    keep_best: bool = param(False, "the weights of the lowest masked validation loss instead of the last ones")
    checkpoint_steps: PositiveInt = param(
        100, "optimizer steps between checkpoints; the same command resumes at the last"
    )
    checkpoints_kept: PositiveInt = param(2, "the newest ones")

    @property
    def chooses_by_validation(self) -> bool:
        """Whether the weights that are kept are those of the lowest validation loss."""
        return self.keep_best or self.early_stopping is not None

    @model_validator(mode="after")
    def _muon_has_no_weight_decay(self) -> Self:
        if self.weight_decay and self.muon_learning_rate is not None:
            sentence = "weight_decay is AdamW's and Muon takes the matrices; set muon_learning_rate to null, or it to 0"
            raise misfit(sentence, key="tuning.weight_decay", value=self.weight_decay)
        return self
