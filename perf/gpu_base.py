"""The chat model of `perf/gpu.sh`: a folder as it is, or a GGUF file, also one that was cut into pieces."""

import json
import shutil
from pathlib import Path
from typing import Any

from transformers import AutoConfig

from agentrefine.base_model.gguf import read_gguf, read_model, read_tokenizer
from agentrefine.errors import UserError
from perf.model_flops import multiplied_parameters

GGUF = "model.gguf"


def prepare(inputs: Path, out: Path, facts: Path) -> None:
    """Write the model to the folder `out`, as safetensors with its tokenizer, and what it is to `facts`.

    Args:
        inputs: a folder that holds the folder `model`, or `model.gguf`, or its pieces `model.gguf.*` in the order of
            their names (`split` names them so).
        out: made here.
        facts: a JSON file.

    Raises:
        UserError: there is no such model, or a GGUF file that cannot be read.
    """
    pieces = sorted(inputs.glob(f"{GGUF}*"))
    if (inputs / "model").is_dir():
        shutil.copytree(inputs / "model", out)
        source = "a folder"
    elif pieces:
        _from_gguf(pieces, out)
        source = f"GGUF of {sum(piece.stat().st_size for piece in pieces):,} bytes, dequantised"
    else:
        raise UserError(
            "model_missing", f"{inputs}: holds neither model/ nor {GGUF}; perf/gpu_prepare.sh writes it.", file=inputs
        )
    config = AutoConfig.from_pretrained(out)
    described = {
        "model": config.model_type,
        "layers": config.num_hidden_layers,
        "parameters": multiplied_parameters(config),
        "source": source,
    }
    facts.write_text(json.dumps(described), encoding="utf-8")


def read(facts: Path) -> dict[str, Any]:
    """What a process wrote."""
    found: dict[str, Any] = json.loads(facts.read_text(encoding="utf-8"))
    return found


def _from_gguf(pieces: list[Path], out: Path) -> None:
    packed = out.with_name("packed")
    packed.mkdir()
    with (packed / GGUF).open("wb") as whole:
        for piece in pieces:
            with piece.open("rb") as part:
                shutil.copyfileobj(part, whole)
    file = read_gguf(packed / GGUF)
    read_model(file).save_pretrained(out)
    read_tokenizer(file).save_pretrained(out)
    shutil.rmtree(packed)
