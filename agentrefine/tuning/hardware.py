"""What some settings need of the machine, asked for before anything is loaded."""

import logging
import os
from importlib.util import find_spec

import torch

from agentrefine.errors import UserError
from agentrefine.params.tuning import TuningParams
from agentrefine.tuning.settings import use_bf16

logger = logging.getLogger(__name__)

PACKAGES = {
    "flash_attention_2": ("flash_attn", "pip install flash-attn --no-build-isolation"),
    "flash_attention_3": ("flash_attn_interface", "build FlashAttention's folder hopper from its sources"),
}


def check_hardware(params: TuningParams) -> None:
    """Refuse settings that this machine or its packages cannot serve.

    Raises:
        UserError: names the setting, what is missing, and what to do.
    """
    on_gpu = torch.cuda.is_available()
    if torch.cuda.device_count() > 1 and "WORLD_SIZE" not in os.environ:
        raise UserError(
            f"tuning.launcher: there are {torch.cuda.device_count()} GPUs and one process; set it to `accelerate "
            "launch --config_file configs/ddp.yaml` (or another of configs/), or name one GPU in CUDA_VISIBLE_DEVICES."
        )
    if params.attention in PACKAGES:
        package, command = PACKAGES[params.attention]
        if not on_gpu:
            raise UserError(f"tuning.attention: {params.attention} needs an NVIDIA GPU; set it to sdpa.")
        if find_spec(package) is None:
            raise UserError(f"tuning.attention: {params.attention} is not installed; {command}, or set it to sdpa.")
        if not use_bf16(params):
            raise UserError(
                f"tuning.attention: {params.attention} computes in bf16 only; set tuning.precision to bf16."
            )
    elif on_gpu and (params.packing or params.padding_free):
        logger.warning(
            "tuning.attention: %s computes the whole square of a row of several games and masks most of it; "
            "flash_attention_2 does not.", params.attention,
        )  # fmt: skip
    if params.liger_kernel and not on_gpu:
        raise UserError("tuning.liger_kernel: Liger's kernels need a GPU; set it to false.")
    if params.liger_kernel and find_spec("liger_kernel") is None:
        raise UserError("tuning.liger_kernel: is not installed; pip install 'agentrefine[gpu]', or set it to false.")
    if params.method == "qlora" and find_spec("bitsandbytes") is None:
        raise UserError("tuning.method: qlora needs bitsandbytes; pip install 'agentrefine[qlora]', or set it to lora.")
    if "ACCELERATE_USE_DEEPSPEED" in os.environ and find_spec("deepspeed") is None:
        raise UserError(
            "tuning.launcher: asks for DeepSpeed, which is not installed; pip install deepspeed, or use FSDP."
        )
    if params.precision == "bf16" and on_gpu and not torch.cuda.is_bf16_supported():
        raise UserError("tuning.precision: this GPU cannot compute in bf16; set it to fp32.")
