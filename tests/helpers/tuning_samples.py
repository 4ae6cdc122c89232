"""A small data set, a small base model and quick settings, for tests that tune."""

from pathlib import Path

from datasets import Dataset
from torch import nn

from agentrefine.files import write_jsonl
from agentrefine.game.conversation import Message, PublishedMessage, Sample, opening, reply_text
from agentrefine.params import load_params
from agentrefine.params.tuning import TuningParams
from agentrefine.simulation.tokenizer import build_tokenizer
from agentrefine.tuning.train import TuningJob
from agentrefine.tuning.trainer import label_sums
from tests.helpers.tiny_model import tiny_model

NOUNS = ["lamp", "key", "box", "cup", "book"]

QUICK = TuningParams.model_validate(
    {
        **load_params(Path("params.yaml")).tuning.model_dump(),
        "batch_tokens": 256,
        "max_length": 256,
        "warmup_steps": 2,
        "precision": "fp32",
        "method": "full",
        "muon_learning_rate": 0.02,
        "learning_rate": 4e-3,
        "epochs": 1,
        "packing": False,
        "cpu_processes": 1,
    }
)


def conversation(number: int) -> list[Message]:
    """A game with one mistake and one to three right turns; its length depends on its number."""
    noun, other = NOUNS[number % 5], NOUNS[(number + 1 + number // 5) % 5]
    right = [
        Message(role="user", content=f"You see the {noun}. " * (1 + number % 4)),
        Message(role="assistant", content=reply_text(f"Now I take the {noun}.", f"take {noun}"), loss=True),
    ]
    return [
        *opening("You play a game.", f"Take the {noun}.", "You hold nothing."),
        Message(role="assistant", content=reply_text(f"I think the {other} is here.", f"take {other}"), loss=False),
        *right * (1 + number % 3),
    ]


def as_sample(number: int) -> Sample:
    """The same as a sample of a data set."""
    sender = {"user": "human", "assistant": "gpt"}
    return Sample(
        id=str(number),
        persona_id="p",
        conversations=[
            PublishedMessage(from_=sender[m.role], value=m.content, loss=m.loss) for m in conversation(number)
        ],
    )


def write_data_set(folder: Path, samples: int = 60, validation: int = 6) -> Path:
    """A data set's folder."""
    write_jsonl(folder / "train.jsonl", (as_sample(i) for i in range(samples)))
    write_jsonl(folder / "validation.jsonl", (as_sample(i) for i in range(60, 60 + validation)))
    return folder


def write_base(folder: Path, **shape: object) -> Path:
    """A base model's folder; `shape` changes its configuration."""
    tokenizer = build_tokenizer(NOUNS, [m.content for i in range(20) for m in conversation(i)])
    settings = {"num_attention_heads": 2, "tie_word_embeddings": True, "bos_token_id": None, "initializer_range": 0.2}
    model = tiny_model(tokenizer, 0, **{**settings, **shape})
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def job(base: Path, data_set: Path, checkpoints: Path | None = None, **changes: object) -> TuningJob:
    """A quick tuning, with some of its parameters changed."""
    params = TuningParams.model_validate({**QUICK.model_dump(), **changes})
    return TuningJob(
        train_on="correct_turns", data_set=data_set, base=str(base), params=params, seed=7, checkpoints=checkpoints
    )


def masked_loss(model: nn.Module, rows: Dataset) -> float:
    """Mean cross-entropy over the tokens of all rows that have a label, nats per token."""
    loss, labels = label_sums(model, rows).tolist()
    return loss / labels
