"""Failures of the machine while a model is tuned, each as one sentence."""

import errno
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from safetensors import SafetensorError

from agentrefine.errors import UserError

WAYS_OUT = (
    "lower tuning.batch_tokens or tuning.max_length, raise tuning.gradient_accumulation_steps, or set "
    "tuning.activation_checkpointing: true or tuning.method: lora"
)


@contextmanager
def machine_failures() -> Iterator[None]:
    """Turn a full memory or a full disk into one sentence; other errors pass.

    Raises:
        UserError: memory ran out, or the disk is full.
    """
    try:
        yield
    except (torch.OutOfMemoryError, MemoryError) as error:
        raise UserError(f"tuning: memory ran out ({_first_line(error)}); {WAYS_OUT}.") from error
    except (RuntimeError, SafetensorError, OSError) as error:
        if _no_space(error):
            raise UserError(
                "tuning: the disk is full; free some space and run the same command again, which goes on at the last "
                "checkpoint."
            ) from error
        if "can't allocate memory" in str(error):
            raise UserError(f"tuning: memory ran out ({_first_line(error)}); {WAYS_OUT}.") from error
        raise


def _no_space(error: BaseException) -> bool:
    """Whether a full disk is behind an error: torch's and safetensors' writers tell of it in words, or not at all."""
    causes = [error, error.__cause__, error.__context__]
    if any(isinstance(cause, OSError) and cause.errno == errno.ENOSPC for cause in causes):
        return True
    said = str(error)
    return "No space left" in said or "PytorchStreamWriter failed" in said or "unexpected pos" in said


def _first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return lines[0].rstrip(".")
