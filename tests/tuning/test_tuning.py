"""Tuning: the loss, full and LoRA, saving and loading, refusals."""

import json
import math
import os
import shutil
from pathlib import Path

import psutil
import pytest
import torch
from torch.nn.functional import cross_entropy
from transformers import LlamaConfig, LlamaForCausalLM, TrainerCallback

from agentrefine.base_model.base import make_reference
from agentrefine.files import sha256_file
from agentrefine.params import load_params
from agentrefine.simulation.tiny_base import make_tiny_base, tiny_tokenizer
from agentrefine.tuning.cards import TunedCard, read_card
from agentrefine.tuning.chat_template import render
from agentrefine.tuning.models import load_base, load_tokenizer, load_tuned, model_digest
from agentrefine.tuning.optimizer import make_optimizer
from agentrefine.tuning.train import tune
from tests.helpers.errors import misfit, refused
from tests.helpers.tuning_samples import conversation, job, masked_loss, write_data_set

PARAMS = load_params(Path("params.yaml"))


def tuned(base: Path, data_set: Path, out: Path, **changes: object):
    return tune(job(base, data_set, **changes), out)


def by_hand(base: Path, numbers: range) -> float:
    """Masked cross-entropy, one conversation at a time, no batching, no padding."""
    model, tokenizer = load_base(base)
    total, count = 0.0, 0
    for number in numbers:
        rendered = render(tokenizer, conversation(number), "correct_turns")
        with torch.no_grad():
            logits = model(input_ids=torch.tensor([rendered.ids]), use_cache=False).logits[0]
        for position in range(1, len(rendered.ids)):
            if rendered.labels[position] != -100:
                total += cross_entropy(logits[position - 1], torch.tensor(rendered.ids[position])).item()
                count += 1
    return total / count


@pytest.mark.parametrize("packing", [False, True])
def test_the_first_loss_is_the_masked_cross_entropy_by_hand(base, data_set, tmp_path, packing):
    write_data_set(tmp_path / "data", samples=12, validation=3)
    result = tuned(base, tmp_path / "data", tmp_path / "out", packing=packing, batch_tokens=100_000, max_length=2048)
    assert result.steps == 1
    assert result.curve[0].loss == pytest.approx(by_hand(base, range(12)), abs=1e-4)
    assert result.validation_loss_before == pytest.approx(by_hand(base, range(60, 63)), abs=1e-4)


def test_games_without_their_mistakes_take_as_many_steps_as_whole_ones(base, tmp_path):
    write_data_set(tmp_path / "data", samples=24, validation=3)
    whole = job(base, tmp_path / "data", batch_tokens=256, max_length=2048)
    plain = whole.model_copy(update={"train_on": "without_refinement_data"})
    refined, expert = (tune(chosen, tmp_path / chosen.train_on) for chosen in (whole, plain))
    assert expert.rendering.samples == refined.rendering.samples == 24
    assert expert.rendering.whole_tokens == refined.rendering.tokens == refined.rendering.whole_tokens
    assert expert.steps == refined.steps > 1
    assert expert.tokens < 0.9 * refined.tokens
    assert expert.rendering.trained_tokens == refined.rendering.trained_tokens


def test_a_number_of_tokens_gives_every_variant_as_many_in_as_many_steps(base, tmp_path):
    write_data_set(tmp_path / "data", samples=24, validation=3)
    chosen = job(base, tmp_path / "data", batch_tokens=256, max_length=2048, epochs=1, tokens=8000)
    plain = chosen.model_copy(update={"train_on": "without_refinement_data"})
    refined, expert = (tune(one, tmp_path / one.train_on) for one in (chosen, plain))
    assert expert.rendering.tokens < 0.9 * refined.rendering.tokens
    for result in (refined, expert):
        assert result.tokens == pytest.approx(8000, rel=0.1)
        assert result.steps == pytest.approx(8000 / 256, rel=0.15)
        assert result.curve[-1].learning_rate < 0.1 * max(point.learning_rate for point in result.curve)
    part = tune(job(base, tmp_path / "data", batch_tokens=256, max_length=2048, tokens=1000), tmp_path / "part")
    assert part.tokens < part.rendering.tokens


def test_two_processes_share_a_step_and_have_the_same_loss_and_tokens(base, tmp_path):
    write_data_set(tmp_path / "data", samples=12, validation=3)
    tokenizer = load_tokenizer(base)
    tokens = sum(len(render(tokenizer, conversation(i), "correct_turns").ids) for i in range(12))
    result = tuned(base, tmp_path / "data", tmp_path / "out", batch_tokens=tokens, max_length=2048, cpu_processes=2)
    assert result.steps == 1
    assert result.curve[0].tokens == tokens
    assert result.curve[0].loss == pytest.approx(by_hand(base, range(12)), abs=1e-4)


def test_two_processes_learn_as_one_does_and_leave_the_environment_as_it_was(base, data_set, tmp_path):
    alone = tuned(base, data_set, tmp_path / "alone", epochs=4, batch_tokens=512)
    environment, threads = dict(os.environ), torch.get_num_threads()  # torch itself sets a variable on first use
    together = tuned(base, data_set, tmp_path / "together", epochs=4, batch_tokens=512, cpu_processes=2)
    assert together.steps == alone.steps
    assert together.validation_loss == pytest.approx(alone.validation_loss, rel=0.1)
    again = tuned(base, data_set, tmp_path / "again", epochs=4, batch_tokens=512, cpu_processes=2)
    assert sha256_file(tmp_path / "again" / "model.safetensors") == sha256_file(
        tmp_path / "together" / "model.safetensors"
    )
    assert again.validation_loss == together.validation_loss
    assert (dict(os.environ), torch.get_num_threads()) == (environment, threads)


def test_a_process_that_dies_ends_tuning_with_its_reason(base, data_set, tmp_path, monkeypatch):
    monkeypatch.setattr("sys.executable", shutil.which("false"))
    with refused("process_ended", killed=False):
        tuned(base, data_set, tmp_path / "out", cpu_processes=2)
    assert not (tmp_path / "out").exists()


class KillsTheOther(TrainerCallback):
    """Kills the process that trains with this one after the first step."""

    def on_step_end(self, args, state, control, **kwargs):
        for child in psutil.Process().children():
            if "agentrefine.tuning.train" in child.cmdline():
                child.kill()


def test_a_process_that_is_killed_while_it_trains_ends_tuning_and_leaves_nothing(base, data_set, tmp_path):
    with refused("process_ended", killed=True):
        tune(job(base, data_set, epochs=4, cpu_processes=2), tmp_path / "out", [KillsTheOther()])
    assert list(tmp_path.iterdir()) == []
    assert "WORLD_SIZE" not in os.environ
    assert not torch.distributed.is_initialized()


def test_accumulated_steps_weigh_tokens_not_batches(base, tmp_path):
    write_data_set(tmp_path / "data", samples=12, validation=3)
    accumulated = tuned(
        base, tmp_path / "data", tmp_path / "out", batch_tokens=100_000, gradient_accumulation_steps=4, max_length=2048
    )
    assert accumulated.curve[0].loss == pytest.approx(by_hand(base, range(12)), abs=1e-4)


def test_full_tuning_learns_saves_and_reloads_exactly(base, data_set, tmp_path):
    result = tuned(base, data_set, tmp_path / "full", epochs=8)
    assert result.validation_loss < 0.5 * result.validation_loss_before
    assert result.trainable_parameters == result.parameters
    assert result.tokens == 8 * result.rendering.tokens
    assert 0 < result.rendering.trained_token_share < 0.6
    model, tokenizer = load_tuned(tmp_path / "full")
    assert result.validation_loss == pytest.approx(_validation_loss(model, tokenizer), abs=1e-5)
    card = read_card(tmp_path / "full")
    assert isinstance(card, TunedCard)
    assert card.train_on == "correct_turns"
    assert card.base_digest == model_digest(base)
    assert set(card.data_set_sha256) == {"train.jsonl", "validation.jsonl"}


def test_lora_trains_the_adapter_only_and_merges_exactly(base, data_set, tmp_path):
    result = tuned(base, data_set, tmp_path / "lora", method="lora", muon_learning_rate=None, epochs=4)
    assert result.validation_loss < result.validation_loss_before
    assert result.trainable_parameters < result.parameters / 2
    assert not list((tmp_path / "lora").glob("model*.safetensors"))
    model, tokenizer = load_tuned(tmp_path / "lora")
    assert result.validation_loss == pytest.approx(_validation_loss(model, tokenizer), abs=1e-4)


def _validation_loss(model, tokenizer) -> float:
    from datasets import Dataset

    rendered = [render(tokenizer, conversation(i), "correct_turns") for i in range(60, 66)]
    rows = Dataset.from_dict({"input_ids": [r.ids for r in rendered], "labels": [r.labels for r in rendered]})
    return masked_loss(model, rows)


@pytest.mark.parametrize("method", ["full", "lora"])
def test_equal_seeds_give_equal_bytes(base, data_set, tmp_path, method):
    for name in ("one", "two"):
        tuned(base, data_set, tmp_path / name, method=method)
    files = {file.name for file in (tmp_path / "one").iterdir()}
    assert files == {file.name for file in (tmp_path / "two").iterdir()}
    for file in files:
        assert (tmp_path / "one" / file).read_bytes() == (tmp_path / "two" / file).read_bytes(), file


def test_an_adapter_refuses_another_base(base, data_set, tmp_path):
    own = tmp_path / "base"
    own.mkdir()
    for file in base.iterdir():
        (own / file.name).write_bytes(file.read_bytes())
    tuned(own, data_set, tmp_path / "lora", method="lora", muon_learning_rate=None)
    model, _ = load_base(own)
    with torch.no_grad():
        model.model.embed_tokens.weight[5] += 1
    model.save_pretrained(own)
    with refused("model_changed", model=str(tmp_path / "lora"), base=str(own)):
        load_tuned(tmp_path / "lora")


def test_long_games_lose_whole_turns_and_are_counted(base, data_set, tmp_path):
    result = tuned(base, data_set, tmp_path / "short", max_length=80)
    assert result.rendering.turns_dropped > 0
    assert result.rendering.longest <= 80


def test_a_length_that_fits_no_turn_is_refused_and_leaves_nothing(base, data_set, tmp_path):
    with refused("nothing_to_train", file=data_set / "train.jsonl", key="tuning.max_length", limit=10):
        tuned(base, data_set, tmp_path / "none", max_length=10)
    assert list(tmp_path.iterdir()) == []


def test_a_failed_run_keeps_the_model_that_was_there(base, data_set, tmp_path):
    tuned(base, data_set, tmp_path / "model")
    before = (tmp_path / "model" / "model.safetensors").read_bytes()
    broken = tmp_path / "data"
    broken.mkdir()
    (broken / "train.jsonl").write_text((data_set / "train.jsonl").read_text() + "{broken\n")
    (broken / "validation.jsonl").write_bytes((data_set / "validation.jsonl").read_bytes())
    with refused("stage_file_broken", file=broken / "train.jsonl", line=61):
        tuned(base, broken, tmp_path / "model")
    assert (tmp_path / "model" / "model.safetensors").read_bytes() == before
    assert not list(tmp_path.glob(".model*"))


@pytest.mark.parametrize("path", ["models/of/nothing", "/nowhere", "nowhere", "./nowhere/model"])
def test_a_base_that_does_not_exist_is_refused(path):
    with refused("model_missing", model=path, key="base_model.path"):
        load_base(path)


def test_a_folder_without_weights_is_refused(base, tmp_path):
    for file in base.iterdir():
        if file.suffix != ".safetensors":
            (tmp_path / file.name).write_bytes(file.read_bytes())
    torch.save({"weight": torch.zeros(1)}, tmp_path / "pytorch_model.bin")
    with refused("model_unusable", model=str(tmp_path), part="weights"):
        load_base(tmp_path)


def test_a_reference_stands_for_the_model_it_names(base, tmp_path):
    params = PARAMS.base_model.model_copy(update={"path": str(base)})
    make_reference(params, tmp_path / "reference")
    assert not list((tmp_path / "reference").glob("*.safetensors"))
    direct, by_reference = load_base(base), load_base(tmp_path / "reference")
    for one, two in zip(direct.model.parameters(), by_reference.model.parameters(), strict=True):
        assert torch.equal(one, two)


def test_a_model_without_a_template_gets_ours_and_a_file_replaces_it(base, tmp_path):
    for file in base.iterdir():
        if file.name != "chat_template.jinja":
            (tmp_path / file.name).write_bytes(file.read_bytes())
    assert "<|" in load_tokenizer(tmp_path).chat_template
    (tmp_path / "other.jinja").write_text("{{ messages }}")
    assert load_tokenizer(tmp_path, tmp_path / "other.jinja").chat_template == "{{ messages }}"
    with refused("file_missing", file=tmp_path / "missing.jinja"):
        load_tokenizer(tmp_path, tmp_path / "missing.jinja")


def test_weight_decay_is_of_matrices_and_not_with_muon(base, data_set):
    model = load_base(base).model
    decayed, free = make_optimizer(model, learning_rate=1e-3, muon_learning_rate=None, weight_decay=0.1).param_groups
    assert (decayed["weight_decay"], free["weight_decay"]) == (0.1, 0.0)
    assert {p.dim() for p in decayed["params"]} == {2}
    assert {p.dim() for p in free["params"]} == {1}
    with misfit(key="tuning.weight_decay", value=0.1):
        job(base, data_set, weight_decay=0.1, muon_learning_rate=0.02)


def test_a_text_that_holds_the_end_of_a_turn_is_left_out_and_counted(base, data_set, tmp_path):
    lines = (data_set / "train.jsonl").read_text().splitlines()
    (tmp_path / "data").mkdir()
    broken = lines[0].replace("Now I take", "Now <|end|> I take")
    assert broken != lines[0]
    (tmp_path / "data" / "train.jsonl").write_text("\n".join([broken, *lines[1:]]) + "\n")
    (tmp_path / "data" / "validation.jsonl").write_bytes((data_set / "validation.jsonl").read_bytes())
    result = tuned(base, tmp_path / "data", tmp_path / "out")
    assert (result.rendering.samples, result.rendering.samples_with_special_tokens) == (59, 1)


def test_muon_moves_matrices_and_adamw_the_rest_and_states_come_back():
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=32, hidden_size=16, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2
    )
    model = LlamaForCausalLM(config)
    optimizer = make_optimizer(model, learning_rate=1e-3, muon_learning_rate=0.02)
    muon, adamw = optimizer.param_groups
    assert {tuple(p.shape) for p in muon["params"]} == {(16, 16), (32, 16), (16, 32)}
    assert sum(p.numel() for g in (muon, adamw) for p in g["params"]) == sum(p.numel() for p in model.parameters())
    ids = torch.arange(30)[None]
    for _ in range(3):
        model(input_ids=ids, labels=ids).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    other = make_optimizer(model, learning_rate=1e-3, muon_learning_rate=0.02)
    other.load_state_dict(optimizer.state_dict())
    for p in model.parameters():
        for key, value in optimizer.state[p].items():
            assert torch.equal(torch.as_tensor(other.state[p][key]), torch.as_tensor(value))
    muon["lr"] = adamw["lr"] = 0.0
    before = [p.clone() for p in model.parameters()]
    model(input_ids=ids, labels=ids).loss.backward()
    optimizer.step()
    assert all(torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))


@pytest.mark.slow
def test_the_tiny_base_has_under_a_million_parameters_and_is_reproducible(tmp_path):
    params = PARAMS.base_model.tiny.model_copy(update={"pretraining_tokens": 20_480})
    done: list[tuple[int, int]] = []
    for name in ("one", "two"):
        result = make_tiny_base(params, 7, tmp_path / name, lambda now, whole: done.append((now, whole)))
    assert 0.7e6 < result.parameters < 0.9e6
    assert result.loss < math.log(len(tiny_tokenizer(7)))
    assert done[-1][0] == done[-1][1] == result.tokens
    for file in (tmp_path / "one").iterdir():
        assert file.read_bytes() == (tmp_path / "two" / file.name).read_bytes(), file.name
    assert json.loads((tmp_path / "one" / "card.json").read_text())["kind"] == "tiny"
    model, tokenizer = load_tuned(tmp_path / "one")
    assert model.config.vocab_size == len(tokenizer)
