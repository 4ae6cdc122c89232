"""What some settings need of the machine, asked for before anything is loaded."""

import os
from importlib.util import find_spec

import torch

from agentrefine.errors import UserError
from agentrefine.params.tuning import TuningParams

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
    if params.liger_kernel and not on_gpu:
        raise UserError("tuning.liger_kernel: Liger's kernels need a GPU; set it to false.")
    if params.liger_kernel and find_spec("liger_kernel") is None:
        raise UserError("tuning.liger_kernel: is not installed; pip install 'agentrefine[gpu]', or set it to false.")
    if params.method == "qlora" and find_spec("bitsandbytes") is None:
        raise UserError("tuning.method: qlora needs bitsandbytes; pip install 'agentrefine[qlora]', or set it to lora.")
    if params.precision == "bf16" and on_gpu and not torch.cuda.is_bf16_supported():
        raise UserError("tuning.precision: this GPU cannot compute in bf16; set it to fp32.")
