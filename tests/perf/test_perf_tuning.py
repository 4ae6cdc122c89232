"""The measurement of tuning against its peers: what it counts, and that every way trains what it says."""

import json
from pathlib import Path

import pytest
from transformers import LlamaConfig, Trainer

from agentrefine.files import read_jsonl, write_jsonl
from agentrefine.game.conversation import Message, PublishedMessage, Sample
from agentrefine.game.sample import conversation
from agentrefine.simulation.tokenizer import build_tokenizer
from agentrefine.tuning.chat_template import render
from agentrefine.verification.reading import parse_turns
from perf import tuning
from perf.model_flops import flops_per_token, mean_context, multiplied_parameters, peak_flops
from perf.tuning_ways import TRAINING_TEMPLATE, WAYS, Work
from tests.helpers.simulated_games import games
from tests.helpers.tiny_model import tiny_model


def messages(number: int) -> list[list[Message]]:
    played = []
    for script, turns in games(number):
        played.append(conversation(script, parse_turns(json.dumps(turns)).turns))
    return played


@pytest.fixture(scope="module")
def workspace(tmp_path_factory) -> Path:
    """A folder with a base model and a data set, as `make run` leaves them."""
    folder = tmp_path_factory.mktemp("workspace")
    played = messages(24)
    words = sorted({word for game in played for m in game for word in m.content.split() if word.isalpha()})
    tokenizer = build_tokenizer(words, [m.content for game in played for m in game])
    tiny_model(tokenizer, 0, bos_token_id=None).save_pretrained(folder / "base")
    tokenizer.save_pretrained(folder / "base")
    sender = {"user": "human", "assistant": "gpt"}
    samples = [
        Sample(
            id=str(number),
            persona_id="p",
            conversations=[PublishedMessage(from_=sender[m.role], value=m.content, loss=m.loss) for m in game],
        )
        for number, game in enumerate(played)
    ]
    write_jsonl(folder / "data" / "train.jsonl", samples)
    return folder


@pytest.fixture
def work(workspace, tmp_path, monkeypatch) -> Work:
    """Twelve conversations for a random model of two layers, four or so in a step."""
    monkeypatch.setattr(tuning, "BASE", workspace / "base")
    monkeypatch.setattr(tuning, "DATA_SET", workspace / "data")
    changes = {"gradient_accumulation_steps": 1, "precision": "fp32", "activation_checkpointing": False}
    return tuning.prepare(tuning.SHAPES["toy"], 12, changes, None, tmp_path)


class Seen:
    """What reaches the trainers' training step."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.tokens: list[int] = []
        self.positions = self.labels = 0
        trained = Trainer.training_step

        def training_step(trainer: Trainer, model, inputs, *rest):
            real = int((inputs["input_ids"] != trainer.processing_class.pad_token_id).sum())
            self.tokens.append(real)
            self.positions += inputs["input_ids"].numel()
            self.labels += int((inputs["labels"] != -100).sum())
            return trained(trainer, model, inputs, *rest)

        monkeypatch.setattr(Trainer, "training_step", training_step)


def test_flops_are_palms_by_hand_for_llama_3_8b():
    shape = tuning.SHAPES["8b"]
    parameters = multiplied_parameters(LlamaConfig(**shape.config))
    per_layer = 2 * 4096 * 4096 + 2 * 4096 * 1024 + 3 * 4096 * 14336 + 2 * 4096
    assert parameters == 32 * per_layer + 4096 + 128256 * 4096 == 7_504_924_672
    assert flops_per_token(parameters, 32, 32 * 128, 8192) == 6 * 7_504_924_672 + 12 * 32 * 32 * 128 * 8192
    assert flops_per_token(parameters, 32, 32 * 128, 8192, frozen=True) == 4 * 7_504_924_672 + 12 * 32 * 4096 * 8192
    # 8,000 tokens a second on an H100 that can do 989 TFLOP/s.
    utilisation = 8000 * flops_per_token(parameters, 32, 32 * 128, 8192) / peak_flops("NVIDIA H100 80GB HBM3")
    assert utilisation == pytest.approx(0.4685, abs=1e-4)


def test_embeddings_that_are_tied_count_as_multiplied_ones_that_are_looked_up_do_not():
    shape = {"vocab_size": 100, "hidden_size": 8, "intermediate_size": 16, "num_attention_heads": 2}
    tied = multiplied_parameters(LlamaConfig(**shape, tie_word_embeddings=True))
    assert tied == multiplied_parameters(LlamaConfig(**shape, tie_word_embeddings=False))


def test_the_context_of_a_token_is_its_own_conversation():
    assert mean_context([100, 300]) == (100 * 100 + 300 * 300) / 400


def test_the_longer_name_of_a_gpu_decides_and_an_unknown_one_has_no_peak():
    assert peak_flops("NVIDIA H100 PCIe") == 756e12
    assert peak_flops("NVIDIA H200") == 989e12
    assert peak_flops("NVIDIA GeForce RTX 4090") is None


def test_joined_conversations_hold_every_game_once_in_growing_numbers(workspace):
    played = list(read_jsonl(workspace / "data" / "train.jsonl", Sample))[:9]
    several = list(tuning.joined(iter(played), 3))
    assert [c.conversations for c in several] == [
        played[0].conversations,
        played[1].conversations + played[2].conversations,
        [m for game in played[3:6] for m in game.conversations],
        played[6].conversations,
        played[7].conversations + played[8].conversations,
    ]


def test_the_template_for_trl_gives_our_tokens_and_marks_all_that_the_assistant_says(workspace):
    tokenizer = tuning.load_tokenizer(workspace / "base")
    game = messages(1)[0]
    ours = render(tokenizer, game, "with_erroneous_loss")
    theirs = tokenizer.apply_chat_template(
        [{"role": m.role, "content": m.content} for m in game],
        chat_template=TRAINING_TEMPLATE,
        return_dict=True,
        return_assistant_tokens_mask=True,
    )
    assert theirs["input_ids"] == ours.ids
    said = {position for span in ours.spans for position in range(span.start, span.end)}
    assert {at for at, marked in enumerate(theirs["assistant_masks"]) if marked} == said


@pytest.mark.slow
@pytest.mark.parametrize("way", [way for way in WAYS if way != "stage, a process per core"])
def test_every_way_trains_the_tokens_that_it_says(way, work, monkeypatch):
    seen = Seen(monkeypatch)
    figures = WAYS[way](work)
    assert figures.steps == len(seen.tokens) > 1
    assert sum(seen.tokens) == sum(tuning.lengths(work))
    assert figures.tokens == sum(seen.tokens[1:])
    assert round(figures.trained_tokens_share * sum(seen.tokens)) == seen.labels
    assert figures.padding == pytest.approx(1 - sum(seen.tokens) / seen.positions)
    assert figures.seconds > 0
    assert figures.processor_seconds > 0


@pytest.mark.slow
def test_a_process_for_each_core_takes_the_steps_of_one(work):
    alone, together = WAYS["stage"](work), WAYS["stage, a process per core"](work)
    assert (together.tokens, together.steps) == (alone.tokens, alone.steps)
    assert together.trained_tokens_share == alone.trained_tokens_share


@pytest.mark.slow
@pytest.mark.parametrize("method", ["full", "lora"])
def test_a_toy_of_the_shape_for_a_gpu_is_compared_on_a_cpu(method, workspace, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(tuning, "BASE", workspace / "base")
    monkeypatch.setattr(tuning, "DATA_SET", workspace / "data")
    work = tuning.prepare(tuning.SHAPES["toy"], 12, {"method": method}, 1, tmp_path)
    tuning.compare(work, ["stage, packed", "Trainer, padded"], 1, tmp_path)
    table = [line for line in capsys.readouterr().out.splitlines() if line.startswith("|")]
    assert [line.split(" | ")[0] for line in table[2:]] == ["| stage, packed", "| Trainer, padded"]
    assert all(line.count("|") == len(tuning.COLUMNS) + 1 for line in table)
