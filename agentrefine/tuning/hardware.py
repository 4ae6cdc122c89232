"""The machine that tunes: its processor and cores, what settings need of it, and a full memory or disk."""

import errno
import logging
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

import torch
from safetensors import SafetensorError

from agentrefine.errors import UserError, first_line
from agentrefine.params.tuning import TuningParams

logger = logging.getLogger(__name__)

PACKAGES = {
    "flash_attention_2": ("flash_attn", "pip install flash-attn --no-build-isolation"),
    "flash_attention_3": ("flash_attn_interface", "build FlashAttention's folder hopper from its sources"),
}
"""The package of a kind of attention, and how to get it."""

CONTAINER_LIMIT = Path("/sys/fs/cgroup/cpu.max")
"""The file of Linux' control groups (version 2) that limits a container: microseconds of processor time per period."""

ONEDNN_LIMITS = ("ONEDNN_MAX_CPU_ISA", "DNNL_MAX_CPU_ISA")
"""Variables that keep oneDNN, which multiplies bf16 matrices for torch, from a processor's newer instructions."""

ONEDNN_WITH_BF16 = ("ALL", "DEFAULT", "BF16", "FP16", "AMX", "AVX10")
"""Parts of the values of `ONEDNN_LIMITS` that allow bf16."""


class Processor(NamedTuple):
    """The CPU as torch uses it.

    Attributes:
        description: name, cores that this process may use, instructions.
        warning: a sentence where it is too old to be fast; else empty.
    """

    description: str
    warning: str


def processor() -> Processor:
    """Which CPU this is."""
    has = torch.cpu.get_capabilities()
    kernels = torch.backends.cpu.get_cpu_capability()
    instructions = {"AVX512": "AVX-512", "DEFAULT": str(has.get("architecture", "unknown"))}.get(kernels, kernels)
    bf16 = ("AMX bf16" if has.get("amx_bf16") else "bf16") if multiplies_bf16() else "no bf16"
    cores = usable_cores()
    old = has.get("architecture") == "x86_64" and kernels == "DEFAULT"
    slow = "It has no AVX2 (or torch is kept from it): all that torch computes takes several times as long."
    return Processor(
        f"{has.get('cpu_name') or 'unknown'}, {cores} {'core' if cores == 1 else 'cores'}, {instructions}, {bf16}",
        slow if old else "",
    )


def multiplies_bf16() -> bool:
    """Whether this CPU multiplies bf16 matrices by instructions of its own, and torch may use them.

    Without such instructions bf16 is emulated, 30 to 70 times slower than fp32.
    """
    has = torch.cpu.get_capabilities()
    if has.get("architecture") == "x86_64":
        limits = [os.environ[name].upper() for name in ONEDNN_LIMITS if name in os.environ]
        return (
            bool(has.get("avx512_bf16") or has.get("amx_bf16"))
            and torch.backends.cpu.get_cpu_capability() == "AVX512"
            and all(any(part in limit for part in ONEDNN_WITH_BF16) for limit in limits)
        )
    return bool(has.get("bf16")) and sys.platform != "darwin"  # Apple's matrix library has fp32 only


def usable_cores() -> int:
    """How many cores this process may use: those of its affinity, and no more than its container is granted."""
    cores = len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1
    try:
        granted, period = CONTAINER_LIMIT.read_text(encoding="utf-8").split()
    except OSError:
        return cores
    return cores if granted == "max" else max(1, min(cores, int(granted) // int(period)))


def tunings_at_once(params: TuningParams) -> int:
    """How many tunings have cores of their own on this CPU; one where a GPU tunes."""
    if torch.cuda.is_available():
        return 1
    return max(1, usable_cores() // (params.cpu_processes * params.cpu_threads))


@contextmanager
def threads_for(params: TuningParams) -> Iterator[None]:
    """Let torch compute with `tuning.cpu_threads`, so that bytes do not follow the number of cores."""
    before = torch.get_num_threads()
    torch.set_num_threads(params.cpu_threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def use_bf16(params: TuningParams) -> bool:
    """Whether tuning computes in bf16: by `precision`, or, where that is `auto`, if the hardware does so fast."""
    if params.precision != "auto":
        return params.precision == "bf16"
    return torch.cuda.is_bf16_supported() if torch.cuda.is_available() else multiplies_bf16()


def check_hardware(params: TuningParams) -> None:
    """Refuse settings that this machine or its packages cannot serve.

    Raises:
        UserError: names the setting, what is missing, and what to do.
    """
    on_gpu, gpus = torch.cuda.is_available(), torch.cuda.device_count()
    if gpus > 1 and "WORLD_SIZE" not in os.environ:
        raise setting_error(
            "bad_value",
            "launcher",
            f"there are {gpus} GPUs and one process; set it to `accelerate launch --config_file configs/ddp.yaml` "
            "(or another of configs/), or name one GPU in CUDA_VISIBLE_DEVICES.",
            gpus=gpus,
        )
    attention = params.attention
    if attention in PACKAGES:
        package, command = PACKAGES[attention]
        if not on_gpu:
            sentence = f"{attention} needs an NVIDIA GPU; set it to sdpa."
            raise setting_error("gpu_missing", "attention", sentence, value=attention)
        _require(package, "attention", f"{attention} is not installed; {command}, or set it to sdpa.")
        if not use_bf16(params):
            sentence = f"{attention} computes in bf16 only; set tuning.precision to bf16."
            raise setting_error("bad_value", "attention", sentence, value=attention)
    elif on_gpu and (params.packing or params.padding_free):
        logger.warning(
            "tuning.attention: %s computes the whole square of a row of several games and masks most of it; "
            "flash_attention_2 does not.", attention,
        )  # fmt: skip
    if params.liger_kernel:
        if not on_gpu:
            raise setting_error("gpu_missing", "liger_kernel", "Liger's kernels need a GPU; set it to false.")
        install = "is not installed; pip install 'agentrefine[gpu]', or set it to false."
        _require("liger_kernel", "liger_kernel", install)
    if params.method == "qlora":
        _require(
            "bitsandbytes", "method", "qlora needs bitsandbytes; pip install 'agentrefine[qlora]', or set it to lora."
        )
    if "ACCELERATE_USE_DEEPSPEED" in os.environ:
        install = "asks for DeepSpeed, which is not installed; pip install deepspeed, or use FSDP."
        _require("deepspeed", "launcher", install)
    if params.precision == "bf16":
        if on_gpu and not torch.cuda.is_bf16_supported():
            raise setting_error("bf16_unsupported", "precision", "this GPU cannot compute in bf16; set it to fp32.")
        if not on_gpu and not multiplies_bf16():
            raise setting_error(
                "bf16_unsupported",
                "precision",
                "this processor has no instructions for bf16 and would take 30 times as long; set it to auto or fp32.",
            )


def setting_error(code: str, key: str, sentence: str, **values: object) -> UserError:
    """The error that refuses a parameter of the section `tuning`: what is wrong with it and what to do."""
    return UserError(code, f"tuning.{key}: {sentence}", key=f"tuning.{key}", **values)


def _require(package: str, key: str, sentence: str) -> None:
    """Refuse a parameter whose package is not installed."""
    if find_spec(package) is None:
        raise setting_error("not_installed", key, sentence, name=package)


@contextmanager
def machine_failures() -> Iterator[None]:
    """Turn a full memory or a full disk into one sentence; other errors pass.

    Raises:
        UserError: memory ran out, or the disk is full.
    """
    try:
        yield
    except (torch.OutOfMemoryError, MemoryError, RuntimeError, SafetensorError, OSError) as error:
        out_of_memory = isinstance(error, torch.OutOfMemoryError | MemoryError)
        if not out_of_memory and _is_disk_full(error):
            message = (
                "tuning: the disk is full; free some space and run the same command again, which resumes at the last "
                "checkpoint."
            )
            raise UserError("disk_full", message, stage="tuning") from error
        if out_of_memory or "can't allocate memory" in str(error):
            message = (
                f"tuning: memory ran out ({first_line(error)}); lower tuning.batch_tokens or tuning.max_length, raise "
                "tuning.gradient_accumulation_steps, or set tuning.activation_checkpointing: true or tuning.method: "
                "lora."
            )
            raise UserError("out_of_memory", message, stage="tuning") from error
        raise


def _is_disk_full(error: BaseException) -> bool:
    """Whether a full disk is behind an error, of which torch's and safetensors' writers may give no cause."""
    causes = [error, error.__cause__, error.__context__]
    if any(isinstance(cause, OSError) and cause.errno == errno.ENOSPC for cause in causes):
        return True
    return any(part in str(error) for part in ("No space left", "PytorchStreamWriter failed", "unexpected pos"))
