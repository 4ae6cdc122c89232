"""What the section `tuning` of params.yaml means to the libraries: TRL's arguments, dtypes, quantization."""

import torch
from datasets import Dataset
from transformers import BitsAndBytesConfig
from trl import SFTConfig

from agentrefine.params.tuning import TuningParams
from agentrefine.tuning.batches import row_lengths
from agentrefine.tuning.hardware import use_bf16

SHARDING = frozenset({"ACCELERATE_USE_FSDP", "ACCELERATE_USE_DEEPSPEED"})
"""Variables by which accelerate's launcher asks for a sharded model."""

PADDED_TO = 64
"""On a CPU, rows are padded to a multiple of this many tokens: each new shape costs time and memory once."""


def training_arguments(
    params: TuningParams, rows: Dataset, seed: int, *, validates: bool, keep_checkpoints: bool, folder: str
) -> SFTConfig:
    """SFTTrainer's arguments. Making them joins the other processes that the environment names (torchrun's way).

    Args:
        params: the section `tuning` of params.yaml.
        rows: what is trained on.
        seed: of the order of the rows.
        validates: whether there are validation rows to look at.
        keep_checkpoints: whether to write checkpoints while training, to go on after an interruption.
        folder: where they go.
    """
    on_gpu = torch.cuda.is_available()
    unpadded = params.packing or params.padding_free
    chooses = params.chooses_by_validation and validates
    return SFTConfig(
        output_dir=folder,
        num_train_epochs=params.epochs,
        gradient_accumulation_steps=params.gradient_accumulation_steps,
        activation_checkpointing=params.activation_checkpointing,
        max_length=max(params.max_length, *row_lengths(rows)) if params.packing else None,
        packing=params.packing,
        packing_strategy="bfd",
        eval_packing=False,
        padding_free=params.padding_free,
        pad_to_multiple_of=None if on_gpu or unpadded else PADDED_TO,
        train_sampling_strategy="batch_rebalance",
        accelerator_config={"even_batches": False},
        learning_rate=params.learning_rate,
        lr_scheduler_type=params.lr_scheduler_type,
        max_grad_norm=params.max_grad_norm,
        bf16=use_bf16(params),
        use_liger_kernel=params.liger_kernel,
        use_cpu=not on_gpu,
        seed=seed,
        data_seed=seed,
        logging_steps=1,
        logging_nan_inf_filter=False,
        # Without an attention mask transformers takes every padding token for padding; it may be the end of a turn too.
        include_num_input_tokens_seen="all" if unpadded else "non_padding",
        report_to="none",
        eval_strategy="steps" if validates else "no",
        eval_steps=params.eval_steps,
        save_strategy="steps" if keep_checkpoints or chooses else "no",
        save_steps=params.eval_steps if chooses else params.checkpoint_steps,
        restore_callback_states_from_checkpoint=True,
        load_best_model_at_end=chooses,
        metric_for_best_model="loss" if chooses else None,
        greater_is_better=False if chooses else None,
        disable_tqdm=True,
        dataloader_pin_memory=on_gpu,
        ddp_find_unused_parameters=False,
    )


def weights_dtype(params: TuningParams) -> torch.dtype:
    """Frozen weights of a GPU are kept in bf16 to save memory; trained ones in fp32, under autocast.

    QLoRA's adapters are the exception: TRL keeps them in bf16, as that paper does.
    """
    frozen_on_gpu = params.method != "full" and torch.cuda.is_available()
    return torch.bfloat16 if frozen_on_gpu and use_bf16(params) else torch.float32


def quantization(params: TuningParams) -> BitsAndBytesConfig | None:
    """QLoRA's (Dettmers et al. 2023): frozen weights in 4 bits (NF4, double quantization), computed with in bf16."""
    if params.method != "qlora":
        return None
    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=torch.bfloat16 if use_bf16(params) else torch.float32,
    )
