"""Whether a GPU computes what it should: the machine, bf16, kinds of attention, DistributedDataParallel.

A small random Llama is trained for a few steps by the library, each time from the same weights on the same games; all
that differs is how. The losses must be those of eager attention in fp32.
"""

import json
import os
import platform
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import torch
from transformers import LlamaConfig

from agentrefine.errors import UserError
from agentrefine.files import read_jsonl, write_jsonl
from agentrefine.game.conversation import Sample
from agentrefine.params import load_params
from agentrefine.params.tuning import TuningParams
from agentrefine.tuning.hardware import multiplies_bf16
from agentrefine.tuning.models import load_tokenizer
from agentrefine.tuning.train import TuningJob, train
from perf import children
from perf.gpu_base import read
from perf.gpu_results import Check, Part
from perf.tuning import ROOT, write_random_base

SHAPE = {
    "hidden_size": 128, "intermediate_size": 256, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "max_position_embeddings": 2048,
}  # fmt: skip
"""Of the model: heads of 32, as FlashAttention can take them, two to a key."""

GAMES = 8

SETTINGS = {
    "method": "full", "muon_learning_rate": None, "epochs": 1, "learning_rate": 1e-3, "warmup_steps": 0,
    "lr_scheduler_type": "constant_with_warmup", "batch_tokens": 2500, "gradient_accumulation_steps": 1,
    "cpu_processes": 1, "activation_checkpointing": False, "packing": False, "padding_free": False,
    "max_length": 2048, "liger_kernel": False,
}  # fmt: skip

EXACT = 1e-4
"""Nats per trained token by which two orders of adding in fp32 may differ."""

ROUNDED = 3e-2
"""The same for bf16, which keeps three digits, over losses of about ten nats."""

LIBRARIES = ("torch", "transformers", "trl", "peft", "accelerate", "datasets", "liger-kernel", "flash-attn", "numpy")


class Way(NamedTuple):
    """How to train: settings, and up to which difference the losses count as equal."""

    name: str
    changes: dict[str, Any]
    tolerance: float


REFERENCE = Way("eager, fp32", {"attention": "eager", "precision": "fp32"}, EXACT)

FLASH = {"precision": "bf16", "padding_free": True}

WAYS = [
    Way("sdpa, fp32", {"attention": "sdpa", "precision": "fp32"}, EXACT),
    Way("sdpa, bf16", {"attention": "sdpa", "precision": "bf16"}, ROUNDED),
    Way("eager, bf16", {"attention": "eager", "precision": "bf16"}, ROUNDED),
    Way("sdpa, bf16, checkpointed", {"precision": "bf16", "activation_checkpointing": True}, ROUNDED),
    Way("sdpa, fp32, padding-free", {"precision": "fp32", "padding_free": True}, EXACT),
    Way("FlashAttention 2, padding-free", {**FLASH, "attention": "flash_attention_2"}, ROUNDED),
    Way("FlashAttention 3, padding-free", {**FLASH, "attention": "flash_attention_3"}, ROUNDED),
    Way("Liger's kernels", {"precision": "bf16", "liger_kernel": True}, ROUNDED),
]  # fmt: skip

DDP = "DistributedDataParallel"


def check(
    part: Part,
    save: Callable[[], None],
    deadline: float,
    *,
    base: Path,
    data_set: Path,
    product: int,
    hides_gpus: bool,
    folder: Path,
    log: Callable[[str], Path],
) -> None:
    """Fill a part: the machine, then a training for each way.

    Args:
        part: filled.
        save: called after every figure.
        deadline: by `time.monotonic`.
        base: a folder with a tokenizer.
        data_set: a folder with train.jsonl.
        product: rows and columns of the matrices whose product is timed.
        hides_gpus: whether CUDA_VISIBLE_DEVICES was set to hide all GPUs but the first.
        folder: an empty one.
        log: where a process's output goes, by its name.

    Raises:
        children.ChildError: the machine could not be looked at, or the reference could not be trained.
        children.OverdueError: the deadline has passed.
    """
    out = folder / "out.json"
    children.run(on_gpu, product, out, log=log("machine"), deadline=deadline)
    part.facts = read(out)
    save()
    children.run(write_inputs, base, data_set, folder, log=log("check_inputs"), deadline=deadline)
    children.run(train_by, folder, REFERENCE, out, log=log("check_reference"), deadline=deadline)
    reference: list[float] = read(out)["losses"]
    part.checks.append(Check(name=REFERENCE.name, losses=reference, difference=0.0, tolerance=EXACT, note="reference"))
    save()
    for number, way in enumerate(WAYS):
        part.checks.append(_compared(way, reference, out, train_by, folder, way, log(f"check_{number}"), deadline))
        save()
    ddp = REFERENCE._replace(name=DDP)
    part.checks.append(
        _compared(ddp, reference, out, train_distributed, folder, hides_gpus, log("check_ddp"), deadline)
    )
    save()
    unequal = [found.name for found in part.checks if found.equal is False]
    failed = [found.name for found in part.checks if found.equal is None and found.note.startswith("exit status")]
    if unequal or failed:
        raise children.ChildError(f"other losses than the reference: {unequal}; failed: {failed}")


def _compared(
    way: Way,
    reference: list[float],
    out: Path,
    target: Callable[..., None],
    folder: Path,
    how: Way | bool,
    log: Path,
    deadline: float,
) -> Check:
    """Train in a process, and compare its losses; a failure stands in the check's note."""
    try:
        children.run(target, folder, how, out, log=log, deadline=deadline)
    except children.ChildError as error:
        return Check(name=way.name, tolerance=way.tolerance, note=str(error))
    found = read(out)
    losses: list[float] = found["losses"]
    difference = max(abs(a - b) for a, b in zip(losses, reference, strict=True)) if losses else None
    return Check(name=way.name, losses=losses, difference=difference, tolerance=way.tolerance, note=found["note"])


def on_gpu(product: int, out: Path) -> None:
    """Write what the machine is, and how fast it multiplies; fails where the GPU cannot be used after a fork."""
    facts: dict[str, Any] = {"python": platform.python_version(), "cores": os.cpu_count()}
    facts |= {name: _version(name) for name in LIBRARIES}
    if torch.cuda.is_available():
        device = torch.cuda.get_device_properties(0)
        facts |= {
            "device": device.name,
            "memory, GiB": round(device.total_memory / 2**30, 1),
            "compute capability": f"{device.major}.{device.minor}",
            "CUDA": torch.version.cuda,
            "cuDNN": torch.backends.cudnn.version(),
            "NCCL": ".".join(map(str, torch.cuda.nccl.version())),
            "bf16": torch.cuda.is_bf16_supported(),
        }
    else:
        facts |= {"device": f"CPU, {os.cpu_count()} cores", "bf16": multiplies_bf16()}
    facts["bf16 product, TFLOP/s"] = round(_product_flops(product) / 1e12, 3)
    out.write_text(json.dumps(facts), encoding="utf-8")


def write_inputs(tokenizer: Path, data_set: Path, folder: Path) -> None:
    """Write the random model and a few games."""
    config = LlamaConfig(**SHAPE, vocab_size=len(load_tokenizer(tokenizer)))
    write_random_base(config, tokenizer, folder / "base")
    write_jsonl(folder / "data" / "train.jsonl", islice(read_jsonl(data_set / "train.jsonl", Sample), GAMES))
    write_jsonl(folder / "data" / "validation.jsonl", [])


def train_by(folder: Path, way: Way, out: Path) -> None:
    """Train one way and write the losses; a way that this machine cannot go gets a note and no losses."""
    try:
        trained = train(_job(folder, way))
    except UserError as error:
        found: dict[str, Any] = {"losses": [], "note": str(error)}
    else:
        found = {"losses": [point.loss for point in trained.curve], "note": ""}
    out.write_text(json.dumps(found), encoding="utf-8")


def train_distributed(folder: Path, hides_gpus: bool, out: Path) -> None:
    """The reference by processes that torchrun starts: one for each GPU (at most two) over nccl, else two over gloo."""
    if hides_gpus:
        del os.environ["CUDA_VISIBLE_DEVICES"]
    processes = min(2, torch.cuda.device_count()) if torch.cuda.is_available() else 2
    job = folder / "job.json"
    job.write_text(_job(folder, REFERENCE).model_dump_json(), encoding="utf-8")
    # Not --standalone, which looks up the machine's own name: one without a network may not know it.
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", str(processes)]
    address = ["--master_addr", "127.0.0.1", "--master_port", str(_free_port())]
    subprocess.run([*torchrun, *address, "-m", "perf.gpu_ddp", str(job), str(out)], check=True)


def _job(folder: Path, way: Way) -> TuningJob:
    params = load_params(ROOT / "params.yaml")
    section = TuningParams.model_validate({**params.tuning.model_dump(), **SETTINGS, **way.changes})
    return TuningJob(
        train_on="correct_turns", data_set=folder / "data", base=str(folder / "base"), params=section, seed=params.seed
    )  # fmt: skip


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port: int = server.getsockname()[1]
        return port


def _product_flops(size: int) -> float:
    """Floating-point operations a second of a bf16 matrix product, the median of nine."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    left, right = (torch.randn(size, size, device=device, dtype=torch.bfloat16) for _ in range(2))
    seconds = []
    for _ in range(10):
        _wait()
        began = time.perf_counter()
        left @ right
        _wait()
        seconds.append(time.perf_counter() - began)
    return 2 * size**3 / sorted(seconds[1:])[4]


def _wait() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def _version(library: str) -> str:
    try:
        return version(library)
    except PackageNotFoundError:
        return "not installed"
